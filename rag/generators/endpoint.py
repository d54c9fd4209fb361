"""A generator behind any OpenAI-compatible endpoint, such as vLLM, Ollama, llama.cpp's server or a hosted one.

Decant finds, selects and verifies; the endpoint writes. httpx2 and not OpenAI's client: one route is needed, and the
client's retries would begin a stream anew that was partly read.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any

import httpx2

from ..answer import Usage
from ..errors import GeneratorError
from ..generation import Task
from .prompting import messages_of

_RETRIED = frozenset({408, 429, 500, 502, 503, 504})
_FIRST_WAIT_SECONDS = 0.5
_LONGEST_WAIT_SECONDS = 8.0
_SHOWN_CHARS = 200


@dataclass(frozen=True)
class EndpointSettings:
    """Where an endpoint is and how patient to be.

    Attributes:
        url: base address, such as `http://127.0.0.1:11434/v1`.
        model: what the endpoint calls the model.
        key: sent as a bearer token; empty for none. Never shown.
        timeout_seconds: longest silence, also between two pieces of an answer.
        connect_seconds: longest wait for a connection.
        retries: how often a request that brought nothing is made again.
        temperature: 0 for the likeliest answer.
        quotes_only: see `messages_of`.
    """

    url: str
    model: str
    key: str = ""
    timeout_seconds: float = 60.0
    connect_seconds: float = 5.0
    retries: int = 2
    temperature: float = 0.0
    quotes_only: bool = False

    def __repr__(self) -> str:
        key = "***" if self.key else ""
        return f"EndpointSettings(url={self.url!r}, model={self.model!r}, key={key!r})"


class EndpointGenerator:
    """Streams answers from `/chat/completions`; threads may share it."""

    def __init__(self, settings: EndpointSettings, *, client: httpx2.Client | None = None) -> None:
        """Prepare to connect; `client` replaces the transport, for tests.

        Raises:
            GeneratorError: the address is none.
        """
        if not settings.url.startswith(("http://", "https://")):
            raise GeneratorError(f"the endpoint {settings.url!r} is no address: give one such as http://host:8000/v1")
        self.settings = settings
        timeout = httpx2.Timeout(settings.timeout_seconds, connect=settings.connect_seconds)
        self._client = client or httpx2.Client(timeout=timeout)
        self._address = settings.url.rstrip("/") + "/chat/completions"

    @property
    def name(self) -> str:
        """The model's name at the endpoint."""
        return self.settings.model

    def close(self) -> None:
        """Let go of open connections."""
        self._client.close()

    def generate(self, task: Task) -> Iterator[str]:
        """Yield the endpoint's text as it comes; the connection is closed when the iterator is.

        A request is made again only while nothing of its answer has arrived.

        Raises:
            GeneratorError: the endpoint cannot be reached, refuses, is silent too long, or breaks off.
        """
        with ExitStack() as stack:
            try:
                response = self._connect(task, stack)
                yield from self._pieces(response, task)
            except httpx2.TimeoutException as error:
                raise GeneratorError(
                    f"{self._address} was silent for {self.settings.timeout_seconds:g} s: allow more, or use a "
                    "smaller model"
                ) from error
            except httpx2.HTTPError as error:
                raise GeneratorError(
                    f"the answer from {self._address} broke off ({_line(error)}): ask again"
                ) from error

    def _connect(self, task: Task, stack: ExitStack) -> httpx2.Response:
        """A response that has begun well; its end is left to `stack`."""
        tried = 0
        while True:
            wait, reason = 0.0, ""
            try:
                response = stack.enter_context(self._client.stream("POST", self._address, **self._request(task)))
                if response.status_code == 200:
                    return response
                response.read()
                reason = f"it answered {response.status_code} {_detail(response)}"
                if response.status_code not in _RETRIED:
                    raise GeneratorError(f"{self._address} refused: {reason.removeprefix('it answered ')}")
                wait = _retry_after(response)
                response.close()
            except httpx2.TransportError as error:
                reason = "it was silent" if isinstance(error, httpx2.TimeoutException) else _line(error)
            tried += 1
            if tried > self.settings.retries:
                raise GeneratorError(
                    f"{self._address} cannot be used after {tried} tries ({reason}): start it, or correct the address"
                )
            backoff = min(_FIRST_WAIT_SECONDS * 2 ** (tried - 1), _LONGEST_WAIT_SECONDS)
            time.sleep(min(wait or backoff, _LONGEST_WAIT_SECONDS))

    def _request(self, task: Task) -> dict[str, Any]:
        body = {
            "model": self.settings.model,
            "messages": messages_of(task, quotes_only=self.settings.quotes_only),
            "max_tokens": task.max_tokens,
            "temperature": self.settings.temperature,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        headers = {"Authorization": f"Bearer {self.settings.key}"} if self.settings.key else {}
        return {"json": body, "headers": headers}

    def _pieces(self, response: httpx2.Response, task: Task) -> Iterator[str]:
        finished = False
        for line in response.iter_lines():
            if not line.startswith("data:"):
                continue
            data = line.removeprefix("data:").strip()
            if data == "[DONE]":
                return
            event = _event(data, self._address)
            if usage := event.get("usage"):
                task.meter.usage = _usage(usage)
            for choice in event.get("choices") or []:
                finished = finished or bool(choice.get("finish_reason"))
                if text := (choice.get("delta") or {}).get("content"):
                    yield text
        if not finished:
            raise GeneratorError(f"the answer from {self._address} ended in the middle: ask again")


def _event(data: str, address: str) -> dict[str, Any]:
    try:
        event = json.loads(data)
    except ValueError as error:
        raise GeneratorError(f"{address} sent what is not JSON ({data[:40]!r}): is it OpenAI-compatible?") from error
    problem = event.get("error") if isinstance(event, dict) else data
    if problem:
        raise GeneratorError(f"{address} failed midway: {str(problem)[:_SHOWN_CHARS]}")
    return event


def _usage(raw: dict[str, Any]) -> Usage:
    details = raw.get("prompt_tokens_details") or {}
    return Usage(
        int(raw.get("prompt_tokens") or 0),
        int(details.get("cached_tokens") or 0),
        int(raw.get("completion_tokens") or 0),
    )


def _retry_after(response: httpx2.Response) -> float:
    """Seconds that the endpoint asks to wait; 0 if it does not say."""
    milliseconds, raw = response.headers.get("retry-after-ms"), response.headers.get("retry-after", "0")
    for read in (
        lambda: float(milliseconds or "") / 1000,
        lambda: float(raw),
        lambda: parsedate_to_datetime(raw).timestamp() - time.time(),
    ):
        try:
            return max(0.0, read())
        except ValueError:
            continue
    return 0.0


def _detail(response: httpx2.Response) -> str:
    return " ".join(response.text.split())[:_SHOWN_CHARS]


def _line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]

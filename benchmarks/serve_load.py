"""Load for `serve.py`: clients that ask again when answered, and requests that are sent when they are due."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np

CORPUS = Path(__file__).parents[1] / "examples" / "corpus"
# Clients take their texts from this many, round and round.
TEXTS = 2048
Call = Callable[[int], Awaitable[None]]


class Refused(Exception):
    """The server was full."""


@dataclass
class Load:
    """What became of requests: seconds of those answered and of those refused, and how many failed otherwise."""

    answered: list[float] = field(default_factory=list)
    refused: list[float] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)

    def summary(self) -> dict[str, Any]:
        """Counts, and percentiles in milliseconds."""
        made = {name: _percentiles(seconds) for name, seconds in list(asdict(self).items())[:2]}
        return {**made, "failed": len(self.failed), "first_failure": self.failed[0] if self.failed else ""}


def _percentiles(seconds: Sequence[float]) -> dict[str, float]:
    points = {f"p{p}_ms": round(float(np.percentile(seconds, p)) * 1000, 2) for p in (50, 95, 99)} if seconds else {}
    return {"count": len(seconds), **points}


def mixed_texts() -> list[str]:
    """Texts of mixed lengths, the same every time: single words up to some 200 words."""
    chosen = random.Random(0)
    words = " ".join(path.read_text("utf-8") for path in sorted(CORPUS.glob("openstax/*/*.md"))).split()
    texts: list[str] = []
    for _ in range(TEXTS + 512):
        start, length = chosen.randrange(len(words) - 200), min(200, 1 + int(chosen.lognormvariate(3.2, 1.0)))
        texts.append(" ".join(words[start : start + length]))
    return texts


async def closed_loop(call: Call, seconds: float, clients: int) -> float:
    """Let clients ask again as soon as they are answered; return requests answered per second.

    The first answers come late, when all clients have asked at once: what a quarter of the time brings is not counted.
    """
    begin = time.perf_counter() + seconds / 4
    end = begin + seconds
    counts = [0] * clients

    async def client(number: int) -> None:
        turn = number
        while time.perf_counter() < end:
            try:
                await call(turn)
            except Refused:
                await asyncio.sleep(0.5)
                continue
            counts[number] += begin <= time.perf_counter() < end
            turn += clients

    await asyncio.gather(*(client(number) for number in range(clients)))
    return sum(counts) / seconds


async def open_loop(call: Call, rate: float, seconds: float) -> Load:
    """Send requests at random moments, `rate` a second on average; latency counts from when each was due."""
    chosen, load = random.Random(1), Load()
    began, due, number = time.perf_counter(), 0.0, 0
    running: set[asyncio.Task[None]] = set()

    async def one(number: int, due: float) -> None:
        try:
            await call(number)
            load.answered.append(time.perf_counter() - due)
        except Refused:
            load.refused.append(time.perf_counter() - due)
        except grpc.RpcError as error:
            load.failed.append(str(error))

    while due < seconds:
        await asyncio.sleep(max(0.0, began + due - time.perf_counter()))
        task = asyncio.create_task(one(number, began + due))
        running.add(task)
        task.add_done_callback(running.discard)
        due, number = due + chosen.expovariate(rate), number + 1
    await asyncio.gather(*running)
    return load


def grpc_call(encode: Any, texts: Sequence[str], batch: int) -> Call:
    """A call of decant.v1.Encoder/Embed."""
    from decant.service.proto.decant.v1 import decant_pb2 as pb

    async def call(number: int) -> None:
        at = number * batch % TEXTS
        try:
            await encode.Embed(pb.EmbedRequest(texts=texts[at : at + batch]), timeout=300)
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED:  # type: ignore[attr-defined]
                raise Refused from None
            raise

    return call


def http_call(client: httpx.AsyncClient, port: int, texts: Sequence[str], batch: int) -> Call:
    """A call of /v1/embeddings, as OpenAI's clients make it of every server here."""

    async def call(number: int) -> None:
        at = number * batch % TEXTS
        body = {"model": "model", "input": texts[at : at + batch]}
        answer = await client.post(f"http://127.0.0.1:{port}/v1/embeddings", json=body)
        if answer.status_code == 429:
            raise Refused
        answer.raise_for_status()

    return call

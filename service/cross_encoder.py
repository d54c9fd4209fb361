"""A cross-encoder behind its own queue: reads question and text together, one number per pair."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import expit

from ..embedder import InputError, ModelError
from ..embedder.tokenization import Truncate
from .caller import Caller
from .errors import ComputeFailed, EmptyInput, UntrustedVector
from .metrics import Metrics
from .models import FRESH_SECONDS
from .queue import BatchQueue, Limits, Priority
from .reranking import Scores
from .threads import on_a_thread

_CHARACTERS_PER_TOKEN = 3


@dataclass(frozen=True, slots=True)
class Pair:
    """A question with one text; padded pairs cost what the longest costs, which the token budget does not see."""

    query: str
    text: str
    tokens: int
    truncated: bool
    key: None = None


class CrossEncoder:
    """A sentence-transformers CrossEncoder with one output, ready to serve."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self.max_tokens = int(getattr(model, "max_seq_length", None) or model.tokenizer.model_max_length)

    @classmethod
    def load(cls, path: str, *, device: str | None = None) -> CrossEncoder:
        """Load a folder or hub name.

        Raises:
            ModelError: it cannot be loaded, or gives more than one number per pair.
        """
        from sentence_transformers import CrossEncoder as Library

        try:
            model = Library(path, device=device)
        except (OSError, ValueError) as error:
            raise ModelError(f"the cross-encoder {path} cannot be loaded: {str(error).splitlines()[0]}") from None
        if model.num_labels != 1:
            raise ModelError(f"{path} gives {model.num_labels} numbers per pair, a reranker gives 1: choose another")
        return cls(model)

    def prepare(self, query: str, texts: Sequence[str], truncate: Truncate) -> list[Pair | Exception]:
        """Count tokens; a pair that is too long for `truncate` "error" is its own error."""
        pairs: list[Pair | Exception] = []
        # The library truncates when it computes; here the whole length is wanted.
        lengths = self._model.tokenizer([query] * len(texts), list(texts), truncation=False, verbose=False)["input_ids"]
        for i, (text, ids) in enumerate(zip(texts, lengths, strict=True)):
            if not text:
                pairs.append(EmptyInput(f"text {i} is empty: leave it out"))
            elif len(ids) > self.max_tokens and truncate == "error":
                pairs.append(
                    InputError(f"text {i} and the question have {len(ids)} tokens, at most {self.max_tokens} fit")
                )
            else:
                pairs.append(Pair(query, text, min(len(ids), self.max_tokens), len(ids) > self.max_tokens))
        return pairs

    def run(self, pairs: Sequence[Pair]) -> list[float | Exception]:
        """Score pairs: the model's number, before any activation."""
        try:
            raw: NDArray[np.float32] = self._model.predict(
                [(pair.query, pair.text) for pair in pairs],
                batch_size=len(pairs),
                show_progress_bar=False,
                activation_fn=torch.nn.Identity(),
                convert_to_numpy=True,
            )
        except Exception as error:
            why = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise ComputeFailed(f"the reranker failed ({why}): try again, or tell who runs this server") from error
        failed = UntrustedVector("the reranker gave NaN or infinity, which is not handed out")
        return [float(score) if np.isfinite(score) else failed for score in np.asarray(raw, np.float32)]


class ServedReranker:
    """A cross-encoder behind its queue; create it on the event loop that serves it."""

    def __init__(self, name: str, model: CrossEncoder, limits: Limits, metrics: Metrics, *, max_texts: int) -> None:
        self.name = name
        self.max_texts = max_texts
        self._model = model
        self._metrics = metrics
        self.queue: BatchQueue[Pair, float] = BatchQueue(
            model.run, limits, name=f"rerank-{name}", observer=metrics.observer(name, "", limits.batch_tokens)
        )
        metrics.watch(name, self.queue)
        metrics.model_loaded.labels(name).set(1)

    async def scores(self, query: str, texts: Sequence[str], truncate: Truncate, caller: Caller) -> Scores:
        """See `Reranker.scores`."""
        if not texts or not query:
            raise EmptyInput("there is nothing to score: send a question and at least one text")
        if len(texts) > self.max_texts:
            raise InputError(f"{len(texts):,} texts in one request, at most {self.max_texts:,} are taken: send fewer")
        pairs: list[Pair | Exception] = []

        def prepare() -> list[Pair | Exception]:
            pairs.extend(self._model.prepare(query, texts, truncate))
            return pairs

        longest = self._model.max_tokens
        made = await self.queue.submit(
            prepare,
            estimate=sum(min(longest, 3 + (len(query) + len(text)) // _CHARACTERS_PER_TOKEN) for text in texts),
            tenant=caller.tenant,
            priority=Priority.QUERY,
            deadline=caller.deadline,
        )
        for result in made.results:
            if isinstance(result, Exception):
                raise result
        raw = np.array(made.results, np.float64)
        counted = [pair for pair in pairs if isinstance(pair, Pair)]
        return Scores(
            raw,
            expit(raw),
            [pair.truncated for pair in counted],
            sum(pair.tokens for pair in counted),
            made.prepare_seconds,
            made.queue_seconds,
            made.run_seconds,
        )

    async def warm_up(self) -> None:
        """Score one pair, so that the first caller does not wait for what happens only once."""
        await on_a_thread(lambda: self._model.run([Pair("warm", "up", 2, False)]))

    async def probe(self, seconds: float = 5.0) -> bool:
        """Whether the model computes; asks it unless it has just shown that it does."""
        if time.monotonic() - self.queue.last_success < FRESH_SECONDS:
            return True
        try:
            await self.scores("probe", ["probe"], "end", Caller("", time.monotonic() + seconds))
        except Exception:
            # A full queue that moves is a healthy one.
            return time.monotonic() - self.queue.last_success < seconds
        return True

    async def close(self) -> None:
        """Finish what was accepted."""
        await self.queue.drain()
        self._metrics.forget(self.name)

"""The models a server offers: each an encoder with its queue."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from ..embedder import Encoder, InputError
from .caller import Caller
from .engine import EmbedOptions, Encoded, EncoderEngine, PreparedText
from .errors import EmptyInput, NotOffered, UnknownName
from .metrics import Metrics
from .queue import BatchQueue, Limits, Priority
from .threads import on_a_thread

if TYPE_CHECKING:
    from .cross_encoder import ServedReranker
    from .reranking import Reranker

# A batch that succeeded this recently proves the device as well as a probe would.
FRESH_SECONDS = 1.0
# Tokenising so little takes a tenth of a millisecond; a thread and back take more.
_INLINE_TOKENS = 128


@dataclass(frozen=True)
class Embedded:
    """What became of the texts of one call, in their order.

    Attributes:
        items: a vector, or why that text has none.
        dimensions: values per vector.
    """

    items: list[Encoded | Exception]
    dimensions: int
    tokenize_seconds: float
    queue_seconds: float
    encode_seconds: float

    @property
    def tokens(self) -> int:
        """Tokens encoded."""
        return sum(item.tokens for item in self.items if isinstance(item, Encoded))


class ServedModel:
    """One encoder behind its queue; create it on the event loop that serves it."""

    def __init__(self, name: str, encoder: Encoder, limits: Limits, metrics: Metrics, *, max_texts: int) -> None:
        self.name = name
        self.encoder = encoder
        self.engine = EncoderEngine(encoder)
        self.max_texts = max_texts
        self.device = encoder.backbone.device.type
        self.dtype = encoder.backbone.number_format
        self._metrics = metrics
        observer = metrics.observer(name, self.device, limits.batch_tokens)
        self.queue: BatchQueue[PreparedText, Encoded] = BatchQueue(
            self.engine.run, limits, name=f"encode-{name}", observer=observer
        )
        metrics.watch(name, self.queue)
        metrics.model_info.labels(name, encoder.fingerprint, self.dtype, self.device).set(1)
        metrics.model_loaded.labels(name).set(1)

    @property
    def offered_dimensions(self) -> list[int]:
        """Every width a vector can have, the widest first."""
        head, spec = self.encoder.head, self.encoder.spec
        return sorted({head.full_width, head.width(None), *spec.dimensions}, reverse=True)

    async def embed(
        self, texts: Sequence[str], options: EmbedOptions, caller: Caller, priority: Priority | None = None
    ) -> Embedded:
        """Encode the texts of one call.

        Args:
            texts: 1 to `max_texts` of them.
            options: how.
            caller: whose turn it uses, and until when.
            priority: None for `QUERY` where the kind is query or the text is alone, else `BULK`.

        Raises:
            InputError: nothing to encode, too many texts, options the model cannot honour.
            ServiceError: see `BatchQueue.submit`.
        """
        self.check_count(len(texts))
        self.engine.check(options)
        if priority is None:
            priority = Priority.QUERY if options.kind == "query" or len(texts) == 1 else Priority.BULK
        estimate = self.engine.estimate(texts)
        outcome = await self.queue.submit(
            lambda: self.engine.prepare(texts, options),
            estimate=estimate,
            inline=estimate <= _INLINE_TOKENS and sum(map(len, texts)) <= 4 * _INLINE_TOKENS,
            tenant=caller.tenant,
            priority=priority,
            deadline=caller.deadline,
        )
        stages = (outcome.prepare_seconds, outcome.queue_seconds, outcome.run_seconds)
        result = Embedded(outcome.results, self.encoder.head.width(options.dimensions), *stages)
        # Counted behind the answer, not before it.
        asyncio.get_running_loop().call_soon(self._measure, result)
        return result

    def check_count(self, texts: int) -> None:
        """Refuse a request of no texts (EmptyInput), or of too many (InputError)."""
        if texts == 0:
            raise EmptyInput("there is nothing to encode: send at least one text")
        if texts > self.max_texts:
            raise InputError(f"{texts:,} texts in one request, at most {self.max_texts:,} are taken: send fewer")

    async def probe(self, seconds: float = 5.0) -> bool:
        """Whether the model computes; asks it unless it has just shown that it does."""
        if time.monotonic() - self.queue.last_success < FRESH_SECONDS:
            return True
        caller = Caller("", time.monotonic() + seconds)
        try:
            options = EmbedOptions(outputs=self.encoder.outputs[:1])
            embedded = await self.embed(["probe"], options, caller, Priority.QUERY)
        except Exception:
            # A full queue that moves is a healthy one.
            return time.monotonic() - self.queue.last_success < seconds
        return isinstance(embedded.items[0], Encoded)

    async def warm_up(self) -> None:
        """Make the first caller's wait an ordinary one."""
        await on_a_thread(self.engine.warm_up)

    async def close(self) -> None:
        """Finish what was accepted."""
        await self.queue.drain()
        self._metrics.forget(self.name)

    def _measure(self, result: Embedded) -> None:
        stages = ("tokenize", "queue", "encode")
        seconds = (result.tokenize_seconds, result.queue_seconds, result.encode_seconds)
        for stage, value in zip(stages, seconds, strict=True):
            self._metrics.stage_seconds.labels(stage).observe(value)
        lengths = self._metrics.input_tokens.labels(self.name)
        for item in result.items:
            if isinstance(item, Encoded):
                lengths.observe(item.tokens)
                if item.truncated:
                    self._metrics.truncated.labels(self.name).inc()


class Catalog(Protocol):
    """What a server's configuration names and may be loaded at any time.

    Attributes:
        names: of the models.
    """

    @property
    def names(self) -> Sequence[str]:
        """What there is."""
        ...

    async def load(self, name: str) -> ServedModel | ServedReranker:
        """Load one, on a thread."""
        ...


class Models:
    """The models by name; the first is the one meant where no name is given."""

    def __init__(
        self, models: Sequence[ServedModel], catalog: Catalog | None = None, *, late_interaction: bool = False
    ) -> None:
        """Serve what is loaded.

        Args:
            models: encoders, the default first.
            catalog: what else can be loaded; None for nothing.
            late_interaction: whether an encoder reranks token by token where False compares whole vectors.
        """
        self._encoders = {model.name: model for model in models}
        self._rerankers: dict[str, ServedReranker] = {}
        self._catalog = catalog
        self._late = late_interaction
        self._changing = asyncio.Lock()
        self.kept: set[str] = {self.default.name}

    def __iter__(self) -> Iterator[ServedModel]:
        return iter(list(self._encoders.values()))

    @property
    def default(self) -> ServedModel:
        """The first."""
        return next(iter(self._encoders.values()))

    @property
    def rerankers(self) -> list[str]:
        """Names of the cross-encoders."""
        return list(self._rerankers)

    def get(self, name: str, adapter: str = "") -> ServedModel:
        """Return the encoder of this name; raises UnknownName, NotOffered."""
        whole = f"{name or self.default.name}:{adapter}" if adapter else name
        if not whole:
            return self.default
        if whole in self._encoders:
            return self._encoders[whole]
        if whole in self._rerankers:
            raise NotOffered(f"{whole[:100]!r} scores pairs of texts and makes no vectors: choose an encoder")
        raise self._unknown(whole, self._encoders)

    def label(self, name: str, *, reranking: bool = False) -> str:
        """The name of the model that a call means, for metrics; empty for one that is not here."""
        if name:
            return name if name in self._encoders or name in self._rerankers else ""
        return next(iter(self._rerankers), self.default.name) if reranking else self.default.name

    def reranker(self, name: str) -> Reranker:
        """Return what scores texts for a question; raises UnknownName."""
        from .reranking import EncoderReranker

        if not name and self._rerankers:
            return next(iter(self._rerankers.values()))
        if name in self._rerankers:
            return self._rerankers[name]
        if name and name not in self._encoders:
            raise self._unknown(name, {**self._rerankers, **self._encoders})
        return EncoderReranker(self.get(name), late=self._late)

    async def load(self, name: str) -> None:
        """Load a model of the catalog and let it warm up; one that is loaded stays as it is.

        Raises:
            UnknownName: the catalog has no such model.
            DecantError: it cannot be loaded.
        """
        async with self._changing:
            if name in self._encoders or name in self._rerankers:
                return
            if self._catalog is None or name not in self._catalog.names:
                raise self._unknown(name, {})
            made = await self._catalog.load(name)
            await made.warm_up()
            if isinstance(made, ServedModel):
                self._encoders[name] = made
            else:
                self._rerankers[name] = made

    async def unload(self, name: str) -> None:
        """Let a model finish what it has accepted, and free it.

        Raises:
            UnknownName: no such model is loaded.
            InputError: the server needs it.
        """
        async with self._changing:
            if name in self.kept:
                raise InputError(f"{name} is the server's default or a store's model: it stays loaded")
            model = self._encoders.pop(name, None) or self._rerankers.pop(name, None)
            if model is None:
                raise self._unknown(name, {**self._encoders, **self._rerankers})
            await model.close()
            gc.unfreeze()  # what `serve` has set aside is looked through again: the model is garbage now

    async def healthy(self) -> bool:
        """Whether every model computes."""
        return all(await asyncio.gather(*(model.probe() for model in self._all())))

    async def close(self) -> None:
        """Finish what was accepted, everywhere."""
        await asyncio.gather(*(model.close() for model in self._all()))

    def _all(self) -> list[ServedModel | ServedReranker]:
        return [*self._encoders.values(), *self._rerankers.values()]

    def _unknown(self, name: str, choices: Iterable[str]) -> UnknownName:
        loadable = [n for n in self._catalog.names if n not in self._encoders] if self._catalog else []
        offered = [*choices, *(f"{n} (not loaded)" for n in loadable if n not in self._rerankers)]
        return UnknownName(f"there is no model {name[:100]!r} here: choose from {', '.join(offered) or 'none'}")

"""The models that a configuration names, and how each is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from ..embedder import Encoder
from .config import ModelSetting, Settings
from .cross_encoder import CrossEncoder, ServedReranker
from .engine import EncoderEngine
from .metrics import Metrics
from .models import ServedModel
from .threads import on_a_thread

_RERANK_BATCH_TOKENS = 4096


class Loader(Protocol):
    """Loads an encoder; `Encoder.load`, or a double of it."""

    def __call__(
        self, path: str | None, /, *, device: str | None, dtype: str | None, rule: str | None, adapters: Sequence[str]
    ) -> Encoder:
        """Load it; raises ModelError."""
        ...


class ConfiguredModels:
    """A `Catalog` of `Settings.models`, and of every adapter as a model of its own, called `MODEL:ADAPTER`.

    An adapter is merged into a copy of its model, so that its texts cost what the model's do; memory is paid per
    adapter that is loaded.
    """

    def __init__(self, settings: Settings, default: str, metrics: Metrics, load: Loader | None = None) -> None:
        self._settings = settings
        self._metrics = metrics
        self._load: Loader = load or Encoder.load
        first = ModelSetting(
            name=default,
            path=settings.model,
            device=settings.device,
            dtype=settings.dtype,
            adapters=settings.adapters,
        )
        self._entries: dict[str, tuple[ModelSetting, str | None]] = {}
        for model in (first, *settings.models):
            if model is not first:
                self._entries[model.name] = (model, None)
            for adapter, folder in model.adapters.items():
                self._entries[f"{model.name}:{adapter}"] = (model, folder)

    @property
    def names(self) -> Sequence[str]:
        """Of models and adapters."""
        return list(self._entries)

    @property
    def at_start(self) -> Sequence[str]:
        """Those to load before the first call."""
        return [name for name, (model, _) in self._entries.items() if model.load == "start"]

    async def load(self, name: str) -> ServedModel | ServedReranker:
        """Load a model on a thread; raises ModelError."""
        model, adapter = self._entries[name]
        if model.kind == "reranker":
            scorer = await on_a_thread(lambda: CrossEncoder.load(str(model.path), device=model.device))
            limits = self._settings.limits(_RERANK_BATCH_TOKENS)
            return ServedReranker(name, scorer, limits, self._metrics, max_texts=self._settings.max_texts)
        encoder = await on_a_thread(lambda: self._encoder(model, adapter))
        limits = self._settings.limits(EncoderEngine(encoder).batch_tokens)
        return ServedModel(name, encoder, limits, self._metrics, max_texts=self._settings.max_texts)

    def _encoder(self, model: ModelSetting, adapter: str | None) -> Encoder:
        encoder = self._load(
            model.path,
            device=model.device,
            dtype=model.dtype,
            rule=model.rule,
            adapters=() if adapter is None else (adapter,),
        )
        # Reads every byte of the model once; here, where nobody waits for the event loop.
        _ = encoder.fingerprint
        return encoder


def default_name(settings: Settings, encoder: Encoder) -> str:
    """What clients call the model that is served first."""
    return settings.name or Path(encoder.path).name

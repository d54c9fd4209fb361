"""What the page says of a store and its models: which modes there are, and why the others are not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ...index import Store
from ...index.opening import ACCELERATORS
from ..models import Models, ServedModel
from ..search import SearchService

# As the page shows them, side by side.
MODES = ("hybrid", "dense", "sparse", "lexical")


class StoreFacts:
    """`Store.info` of each store until the store changes: asking reads every byte of its accelerators."""

    def __init__(self) -> None:
        self._kept: dict[str, tuple[object, dict[str, Any]]] = {}

    def of(self, store: Store) -> dict[str, Any]:
        """Return the facts of the newest version; on a worker thread."""
        manifests = sorted((store.root / ACCELERATORS).glob("*/manifest.json"))
        mark = (store.snapshot().version, [(str(file), _changed(file)) for file in manifests])
        kept = self._kept.get(str(store.root))
        if kept is None or kept[0] != mark:
            kept = self._kept[str(store.root)] = (mark, store.info())
        return kept[1]


def _changed(file: Path) -> int:
    try:
        return file.stat().st_mtime_ns
    except FileNotFoundError:  # an accelerator was taken out of use just now
        return 0


def status_of(service: SearchService | None, info: dict[str, Any] | None, models: Models) -> dict[str, Any]:
    """The facts, ready for JSON; `info` is `Store.info` without the paths of this machine."""
    if service is None or info is None:
        why = "this server has no store: start it with --store DIR"
        missing = [{"name": mode, "available": False, "reason": why} for mode in MODES]
        no = {"available": False, "reason": why}
        return {"info": None, "modes": missing, "terms": no, "ask": no, "models": [_model(m) for m in models]}
    reasons = {mode: "" if mode in info["modes"] else _reason(mode, service) for mode in MODES}
    sparse = "sparse" in service.encoder.outputs
    return {
        "info": {name: value for name, value in info.items() if name not in ("path", "model_path")},
        "modes": [{"name": mode, "available": not reason, "reason": reason} for mode, reason in reasons.items()],
        "terms": {"available": sparse, "reason": "" if sparse else _reason("sparse", service)},
        "ask": {"available": True, "reason": ""},
        "models": [_model(model) for model in models],
    }


def _reason(mode: str, service: SearchService) -> str:
    """Why a store cannot be searched in a mode."""
    if mode not in service.encoder.outputs:
        return f"search needs a model that makes {mode} vectors, and {service.model.name} makes none"
    return f"search needs {mode} vectors, and this store holds none: index it again with {service.model.name}"


def _model(model: ServedModel) -> dict[str, Any]:
    return {
        "name": model.name,
        "outputs": list(model.encoder.outputs),
        "dimensions": model.encoder.dimension,
        "max_tokens": model.encoder.max_tokens,
        "dtype": model.dtype,
        "device": model.device,
        "fingerprint": model.encoder.fingerprint,
    }

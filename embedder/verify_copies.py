"""Checks of what is saved: the same vectors from it here, and from plain sentence-transformers."""

from __future__ import annotations

import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .errors import ModelError
from .formats.sentence_transformers import FOREIGN_MODULE, MODULES_FILE, read_modules
from .measuring import (
    EXACT,
    EXACT_HALF,
    PARITY,
    PARITY_HALF,
    TEXTS,
    Measurement,
    Vectors,
    moved,
    same,
    unit,
    vectors_of,
)
from .router import router_modules

if TYPE_CHECKING:
    from .encoder import Encoder


def saved_copy(encoder: Encoder) -> Measurement:
    """Save the encoder, load the copy in the same number format, and compare the vectors bit by bit."""
    name, detail = "saved copy", "save, load, encode: the same bytes"
    with _copy(encoder) as copy:
        try:
            again = type(encoder).load(
                copy, device=encoder.backbone.device, dtype=encoder.backbone.number_format, verify=False
            )
        except ModelError as error:
            return Measurement(name, float("nan"), 0.0, False, f"it does not load: {error}")
        once, twice = vectors_of(encoder, list(TEXTS)), vectors_of(again, list(TEXTS))
    if moved(twice, once) == 0.0 or set(once) <= {"dense"}:
        worst = moved(twice, once)
        return Measurement(name, worst, 0.0, worst == 0.0, detail)
    # Where a head's weights lie in memory decides how the product over a vocabulary is rounded.
    return same(encoder, name, twice, once, (EXACT, EXACT_HALF), "save, load, encode: the same but for rounding")


def plain_copy(encoder: Encoder) -> Measurement:
    """Save the encoder, load the copy in plain sentence-transformers, and compare texts together and each alone.

    Some stock classes are bidirectional for a batch with padding and causal for a text alone; nothing says so.
    """
    name = "plain copy"
    if reason := _not_comparable(encoder):
        return Measurement(name, 0.0, PARITY, True, reason)
    texts = [text for text in TEXTS if " " in text]  # sentence-transformers pools nothing of some texts of one word
    worst = Measurement(name, 0.0, PARITY, True, "sentence-transformers on a saved copy, together and alone")
    with _copy(encoder) as copy:
        if read_modules(copy / MODULES_FILE)[0]["type"] == FOREIGN_MODULE:
            return Measurement(name, 0.0, PARITY, True, "sentence-transformers loads it through Decant")
        try:
            model = _in_the_library(encoder, copy)
            for kind in encoder.spec.prompts:
                wanted = vectors_of(encoder, texts, kind=kind)
                output = "dense" if "dense" in wanted else "sparse"
                for got in _by_the_library(model, texts, kind):
                    found = {output: _comparable(encoder, got)}
                    one = same(encoder, name, found, {output: wanted[output]}, (PARITY, PARITY_HALF), worst.detail)
                    worst = max(worst, one, key=lambda m: (not m.passed, m.value / m.bound))
        except Exception as error:
            # Any architecture's code may fail there, with whatever error its authors chose.
            why = (str(error).strip() or type(error).__name__).splitlines()[0]
            return Measurement(name, float("nan"), PARITY, False, f"sentence-transformers fails on it: {why}")
    return worst


def _not_comparable(encoder: Encoder) -> str | None:
    half = encoder.backbone.number_format != "float32"
    if encoder.outputs == ("router",):
        return "sentence-transformers has no router vectors"
    if encoder.backbone.number_format == "int8":
        return "not measured: int8 is computed here alone"
    if half and router_modules(encoder.backbone.model):
        return "not measured: in half precision, rounding chooses experts; verify in float32"
    return None


def _in_the_library(encoder: Encoder, folder: Path) -> Any:
    from sentence_transformers import SentenceTransformer, SparseEncoder

    kind = SentenceTransformer if "dense" in encoder.outputs else SparseEncoder
    options = {"dtype": encoder.backbone.dtype}
    return kind(str(folder), device=str(encoder.backbone.device), local_files_only=True, model_kwargs=options)


def _by_the_library(model: Any, texts: list[str], kind: str) -> Generator[Vectors]:
    """Rows of the texts in one batch, and of each in a batch of its own."""
    for size in (len(texts), 1):
        made = model.encode(texts, prompt_name=kind, batch_size=size, convert_to_tensor=True, show_progress_bar=False)
        yield (made.to_dense() if made.is_sparse else made).float().cpu().numpy()


def _comparable(encoder: Encoder, rows: Vectors) -> Vectors:
    """Rows in Decant's shape: sentence-transformers leaves a shortened vector shorter than 1, and pads vocabularies."""
    if "dense" in encoder.outputs:
        return unit(rows) if encoder.spec.normalize and encoder.spec.default_dimension else rows
    assert encoder.sparse_head is not None
    known = np.zeros(rows.shape[1], bool)
    known[: encoder.text_tokenizer.vocabulary_size] = True
    return np.where(known, rows, 0.0).astype(np.float32)


@contextmanager
def _copy(encoder: Encoder) -> Generator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        encoder.save(Path(folder) / "copy")
        yield Path(folder) / "copy"

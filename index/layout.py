"""Which representations the rows of a store hold, and how wide they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from scipy.sparse import csr_array

from ..embedder.embeddings import Embeddings
from ..embedder.errors import InputError, ModelError
from .encoder import Encoder

# In the order in which an encoder is asked for them.
OUTPUTS = ("dense", "sparse", "router")


@dataclass(frozen=True)
class Layout:
    """The widths of what a row holds besides its text.

    Attributes:
        dimension: D, of the dense vector.
        terms: V, the vocabulary of the sparse vector; 0 where the store holds none.
        router: R, of the router vector; 0 where the store holds none.
    """

    dimension: int
    terms: int = 0
    router: int = 0

    @property
    def outputs(self) -> tuple[str, ...]:
        """What to ask the encoder for."""
        held = {"dense": self.dimension, "sparse": self.terms, "router": self.router}
        return tuple(name for name in OUTPUTS if held[name])

    @property
    def width(self) -> int:
        """Width of the searched vector: the dense part and, where there is one, the router part behind it."""
        return self.dimension + self.router


def layout_of(encoder: Encoder, outputs: Sequence[str] | None = None) -> Layout:
    """The layout of these representations, None for those that the encoder wants held; may encode one word.

    Raises:
        ModelError: the encoder makes no dense vectors.
        InputError: `dense` is not among `outputs`, or one that the encoder does not make is.
    """
    if "dense" not in encoder.outputs:
        raise ModelError("this model makes no dense vectors: index with one that does")
    asked = encoder.indexed_outputs if outputs is None else tuple(outputs)
    if unknown := sorted(set(asked) - set(encoder.outputs)):
        raise InputError(f"this model makes {', '.join(encoder.outputs)} vectors, not {unknown[0]}")
    if "dense" not in asked:
        raise InputError("a store holds dense vectors, whatever else: name dense, too")
    held = tuple(name for name in OUTPUTS if name in asked)
    return Layout(encoder.dimension) if held == ("dense",) else widths(encoder.encode(["a"], outputs=held))


def widths(embeddings: Embeddings) -> Layout:
    """The layout of rows that hold these embeddings; dense ones must be there."""
    assert embeddings.dense is not None, "asked for"
    sparse, router = embeddings.sparse, embeddings.router
    return Layout(
        embeddings.dense.shape[1],
        0 if sparse is None else columns(sparse),
        0 if router is None else router.shape[1],
    )


def columns(rows: csr_array) -> int:
    """How many columns sparse rows have; scipy's own types do not say that they have any."""
    shape: Any = rows.shape
    return int(shape[1])

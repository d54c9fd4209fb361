"""All that the index knows of an encoder; `decant.embedder.Encoder` fits it, and so does a small test double."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from tokenizers import Tokenizer

from ..embedder.embeddings import Embeddings


class Encoder(Protocol):
    """Text in, vectors out.

    Attributes:
        fingerprint: changes whenever the same text could get another vector.
        dimension: width of a dense vector.
        tokenizer: neither truncates nor pads.
        max_tokens: longest sequence, prompt and special tokens included.
        outputs: the representations it offers: `dense`, `sparse`, `router`.
        indexed_outputs: those that a store holds where nothing else is asked for.
    """

    @property
    def fingerprint(self) -> str:
        """Identity of spec and weights."""
        ...

    @property
    def dimension(self) -> int:
        """Width of a dense vector."""
        ...

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer, with no truncation or padding set."""
        ...

    @property
    def max_tokens(self) -> int:
        """Longest sequence in tokens."""
        ...

    @property
    def outputs(self) -> tuple[str, ...]:
        """What `encode` can be asked for."""
        ...

    @property
    def indexed_outputs(self) -> tuple[str, ...]:
        """What a store holds by default."""
        ...

    def encode(
        self, texts: Sequence[str], *, kind: str = "document", outputs: Sequence[str] = ("dense",)
    ) -> Embeddings:
        """Encode N texts into the representations asked for, rows in input order."""
        ...

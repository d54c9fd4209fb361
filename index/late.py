"""Late chunking while indexing: a document's chunks are pooled from one encoding of the whole document."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from ..embedder.embeddings import Embeddings
from ..embedder.errors import InputError
from .documents import Chunk, Document
from .encoder import Encoder


@runtime_checkable
class LateEncoder(Protocol):
    """An encoder that can pool the chunks of a document it has encoded whole."""

    def encode_chunks(self, text: str, spans: Sequence[tuple[int, int]]) -> NDArray[np.float32]:
        """Return (chunks, D) float32 for character spans in the order of the text."""
        ...


def late_encoder(encoder: Encoder, outputs: Sequence[str]) -> LateEncoder:
    """Return the encoder as one that can do it, before anything is read.

    Raises:
        InputError: if it cannot, or the store holds more than dense vectors.
    """
    if set(outputs) != {"dense"}:
        raise InputError("late chunking makes dense vectors only, this index holds others too: index without it")
    if not isinstance(encoder, LateEncoder):
        raise InputError("this encoder cannot encode a document whole: index without late chunking")
    encoder.encode_chunks("a", [(0, 1)])
    return encoder


def encode_late(encoder: Encoder, late: LateEncoder, document: Document, chunks: list[Chunk]) -> Embeddings:
    """One row per chunk; no title goes in front, as each chunk has seen its document."""
    dense = late.encode_chunks(document.text, [(chunk.start_char, chunk.end_char) for chunk in chunks])
    encodings = encoder.tokenizer.encode_batch([chunk.text for chunk in chunks], add_special_tokens=False)
    tokens = np.array([len(encoding.ids) for encoding in encodings], np.int32)
    return Embeddings(tokens=tokens, truncated=np.zeros(len(chunks), np.bool_), dense=dense)

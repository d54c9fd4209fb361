"""An encoder double: vectors from words by hashing, no weights, the same on every machine.

For tests of everything above the encoder. It knows nothing of meaning: texts are close if they share words.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from tokenizers import Tokenizer, models, pre_tokenizers

from ..embedder.embeddings import Embeddings
from .documents import Chunk, Document
from .encoder import Encoder
from .schema import IndexedDocument


class HashEncoder:
    """A bag of words, each word a fixed pseudo-random direction of `dimension` numbers; unit vectors."""

    def __init__(self, dimension: int = 16, max_tokens: int = 64, name: str = "hash") -> None:
        self.dimension = dimension
        self.max_tokens = max_tokens
        self.fingerprint = f"{name}-{dimension}"
        self.tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
        self.tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()

    def encode(self, texts: Sequence[str], *, kind: str = "document") -> Embeddings:
        """Encode N texts as (N, dimension) unit vectors; `kind` makes no difference."""
        words = [text.lower().split() for text in texts]
        dense = np.zeros((len(texts), self.dimension), np.float32)
        for row, found in zip(dense, words, strict=True):
            for word in found[: self.max_tokens] or [""]:
                row += self._direction(word)
            row /= np.linalg.norm(row)
        lengths = np.array([len(found) for found in words], np.int32)
        return Embeddings(np.minimum(lengths, self.max_tokens), lengths > self.max_tokens, dense)

    def _direction(self, word: str) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
        seed = int.from_bytes(hashlib.blake2b(word.encode(), digest_size=8).digest(), "little")
        return np.random.default_rng(seed).standard_normal(self.dimension, np.float32)


def indexed(doc_id: str, text: str, encoder: Encoder, *, version: str = "", **fields: Any) -> IndexedDocument:
    """A document cut at its line ends, ready for `Store.replace`; `fields` are those of `Document`."""
    chunks: list[Chunk] = []
    start = 0
    for line in text.splitlines(keepends=True):
        end = start + len(line)
        if line.strip():
            chunks.append(Chunk(doc_id, len(chunks), start, end, line))
        start = end
    vectors = encoder.encode([chunk.text for chunk in chunks]).dense
    assert vectors is not None, "an encoder double makes dense vectors"
    digest = hashlib.blake2b((version + text).encode(), digest_size=8).hexdigest()
    return IndexedDocument(Document(doc_id, text, **fields), digest, chunks, vectors)

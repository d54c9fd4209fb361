"""An encoder double: vectors from words by hashing, no weights, the same on every machine.

For tests of everything above the encoder. It knows nothing of meaning: texts are close if they share words.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from tokenizers import Tokenizer, models, pre_tokenizers

from ..embedder.embeddings import Embeddings
from ..embedder.errors import InputError
from .documents import Chunk, Document
from .encoder import Encoder
from .schema import IndexedDocument


class HashEncoder:
    """A bag of words, each word a fixed pseudo-random direction of `dimension` numbers; unit vectors."""

    def __init__(
        self,
        dimension: int = 16,
        max_tokens: int = 64,
        name: str = "hash",
        outputs: Sequence[str] = ("dense",),
        terms: int = 512,
        router: int = 8,
    ) -> None:
        self.dimension = dimension
        self.outputs = self.indexed_outputs = tuple(outputs)
        self._terms, self._router = terms, router
        self.max_tokens = max_tokens
        self.fingerprint = f"{name}-{dimension}"
        self.tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
        self.tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()

    def encode(
        self, texts: Sequence[str], *, kind: str = "document", outputs: Sequence[str] = ("dense",)
    ) -> Embeddings:
        """Encode N texts; `kind` makes no difference.

        Dense (N, dimension) unit vectors; sparse (N, terms), each word a term that weighs log(1 + its count); router
        (N, router), shares of words by their hash.
        """
        if set(outputs) - set(self.outputs):
            raise InputError(f"this double offers {self.outputs}, not {outputs}")
        words = [text.lower().split() for text in texts]
        dense = np.zeros((len(texts), self.dimension), np.float32)
        for row, found in zip(dense, words, strict=True):
            for word in found[: self.max_tokens] or [""]:
                row += self._direction(word)
            row /= np.linalg.norm(row)
        lengths = np.array([len(found) for found in words], np.int32)
        counts = self._counts(words) if set(outputs) & {"sparse", "router"} else csr_array((len(texts), self._terms))
        return Embeddings(
            np.minimum(lengths, self.max_tokens),
            lengths > self.max_tokens,
            dense if "dense" in outputs else None,
            csr_array(np.log1p(counts.toarray()), dtype=np.float32) if "sparse" in outputs else None,
            self._shares(counts) if "router" in outputs else None,
        )

    def _counts(self, words: list[list[str]]) -> csr_array:
        counts = np.zeros((len(words), self._terms), np.float32)
        for row, found in zip(counts, words, strict=True):
            for word in found[: self.max_tokens]:
                row[zlib.crc32(word.encode()) % self._terms] += 1
        return csr_array(counts)

    def _shares(self, counts: csr_array) -> NDArray[np.float32]:
        experts = np.arange(self._terms) % self._router
        full = counts.toarray()
        shares = np.ones((len(full), self._router), np.float32)
        np.add.at(shares.T, experts, full.T)
        return shares / shares.sum(axis=1, keepdims=True)

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
    made = encoder.encode([chunk.text for chunk in chunks], outputs=encoder.outputs)
    assert made.dense is not None, "an encoder double makes dense vectors"
    digest = hashlib.blake2b((version + text).encode(), digest_size=8).hexdigest()
    return IndexedDocument(Document(doc_id, text, **fields), digest, chunks, made.dense, made.sparse, made.router)

"""Rerankers: a cross-encoder that reads query and passage together, or late interaction over token vectors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..embedder.errors import ModelError
from .documents import Hit

BATCH = 32


class CrossEncoderReranker:
    """A sentence-transformers CrossEncoder folder; nothing is ever downloaded."""

    def __init__(self, folder: str | Path, *, device: str | None = None) -> None:
        """Load the model; raises `ModelError` where the folder holds none."""
        from sentence_transformers import CrossEncoder

        if not (Path(folder) / "config.json").is_file():
            raise ModelError(f"{folder} is not a cross-encoder's folder: config.json is missing")
        try:
            self._model: Any = CrossEncoder(str(folder), device=device, local_files_only=True)
        except (OSError, ValueError, RuntimeError) as error:
            raise ModelError(f"{folder} cannot be loaded as a cross-encoder ({str(error).splitlines()[0]})") from error

    def scores(self, query: str, hits: Sequence[Hit]) -> NDArray[np.float32]:
        """The model's score of the query with each hit's text, (len(hits),)."""
        pairs = [(query, hit.chunk.text) for hit in hits]
        found = self._model.predict(pairs, batch_size=BATCH, show_progress_bar=False, convert_to_numpy=True)
        return np.asarray(found, np.float32).reshape(len(hits), -1)[:, -1]


class TokenEncoder(Protocol):
    """Vectors of every token of some texts."""

    def token_vectors(self, texts: Sequence[str], *, kind: str = "document") -> list[NDArray[np.float32]]:
        """For each text (tokens, H) float32; prompt and special tokens left out."""
        ...


class LateInteraction:
    """ColBERT's score (Khattab and Zaharia, SIGIR 2020, arXiv 2004.12832) over an encoder's own token vectors.

    The sum over the query's tokens of the greatest cosine with any token of the passage, divided by the number of
    the query's tokens, so that it lies between -1 and 1.
    """

    def __init__(self, encoder: TokenEncoder) -> None:
        self._encoder = encoder

    def scores(self, query: str, hits: Sequence[Hit]) -> NDArray[np.float32]:
        """One score per hit, (len(hits),)."""
        [asked] = self._encoder.token_vectors([query], kind="query")
        passages = self._encoder.token_vectors([hit.chunk.text for hit in hits], kind="document")
        return np.array([late_interaction(asked, passage) for passage in passages], np.float32)


def late_interaction(query: NDArray[np.float32], passage: NDArray[np.float32]) -> float:
    """Mean over (q, H) query tokens of the greatest cosine with (p, H) passage tokens; 0 where either has none."""
    if not len(query) or not len(passage):
        return 0.0
    return float((_unit(query) @ _unit(passage).T).max(axis=1).mean())


def _unit(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)

"""A stream of texts, encoded window by window: while one window is computed, the next is read and tokenised."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

import numpy as np

from .embeddings import Embeddings
from .errors import ModelError
from .tokenization import TokenizedTexts

# Texts tokenised and sorted together; bounds the memory of a stream.
WINDOW_TEXTS = 4096


def encoded_windows(
    texts: Iterable[str],
    tokenize: Callable[[list[str], int], TokenizedTexts],
    represent: Callable[[TokenizedTexts], Embeddings],
) -> Iterator[Embeddings]:
    """Encode any number of texts in constant memory.

    Args:
        texts: read one window ahead.
        tokenize: takes a window and the number of its first text; runs on a thread of its own.
        represent: takes what `tokenize` made.

    Yields:
        The embeddings of each window, in input order.

    Raises:
        ModelError: for a vector with NaN or infinity, naming its text.
    """
    rest, start = iter(texts), 0
    with ThreadPoolExecutor(1, "decant-tokenize") as beside:
        window = list(islice(rest, WINDOW_TEXTS))
        tokenized = tokenize(window, start) if window else None
        while tokenized is not None:
            following, first = list(islice(rest, WINDOW_TEXTS)), start + len(window)
            coming = beside.submit(tokenize, following, first) if following else None
            result = represent(tokenized)
            _refuse_broken(result, start)
            yield result
            del result
            window, start = following, first
            tokenized = coming.result() if coming else None


def _refuse_broken(result: Embeddings, first: int) -> None:
    for vectors in (result.dense, result.router):
        bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1)) if vectors is not None else []
        if len(bad):
            raise ModelError(f"text {first + bad[0]} gave a vector with NaN or infinity: try dtype=float32")

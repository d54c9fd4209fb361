"""While one window of texts is computed the next is tokenised, and rows come back in the order of the texts."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from decant.embedder import Encoder, InputError, windows
from decant.embedder.transfer import Rows, sent

TEXTS = [f"text {'word ' * (i % 5)}{i}" for i in range(11)]


@pytest.fixture
def encoder(encoder_of: Callable[..., Encoder], monkeypatch: pytest.MonkeyPatch) -> Encoder:
    monkeypatch.setattr(windows, "WINDOW_TEXTS", 4)
    return encoder_of()


def test_the_next_window_is_tokenised_meanwhile(encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenised = [threading.Event() for _ in range(3)]
    tokenize, represent = encoder.tokenize, encoder.represent
    computed: list[int] = []

    def watched(*args: Any, **options: Any) -> Any:
        result = tokenize(*args, **options)
        tokenised[options.get("first", 0) // 4].set()
        return result

    def after_the_next(*args: Any, **options: Any) -> Any:
        coming = min(len(computed) + 1, 2)
        computed.append(coming)
        assert tokenised[coming].wait(20), f"window {coming} waits for the one before it"
        return represent(*args, **options)

    monkeypatch.setattr(encoder, "tokenize", watched)
    monkeypatch.setattr(encoder, "represent", after_the_next)
    assert len(encoder.encode(TEXTS)) == len(TEXTS)
    assert computed == [1, 2, 2]


def test_windows_do_not_change_a_vector(encoder: Encoder) -> None:
    alone = np.concatenate([encoder.encode(text).dense for text in TEXTS])
    assert encoder.encode(TEXTS).dense.tobytes() == alone.tobytes()
    parts = list(encoder.encode_stream(iter(TEXTS)))
    assert [len(part) for part in parts] == [4, 4, 3]
    assert np.concatenate([part.dense for part in parts]).tobytes() == alone.tobytes()


def test_a_bad_text_is_named_after_the_windows_before_it(encoder: Encoder) -> None:
    texts: list[Any] = [*TEXTS[:6], None, *TEXTS[7:]]
    stream = encoder.encode_stream(texts)
    assert len(next(stream)) == 4
    with pytest.raises(InputError, match="text 6"):
        next(stream)


def test_rows_come_back_in_order() -> None:
    device = torch.device("cpu")
    rows = Rows(5, 2, device)
    rows.add(sent(np.array([[3, 3], [0, 0]]), device))
    rows.add(torch.tensor([[4.0, 4.0], [1.0, 1.0], [2.0, 2.0]], dtype=torch.bfloat16))
    ordered = rows.in_order(np.array([3, 0, 4, 1, 2]))
    assert ordered.dtype == np.float32
    assert ordered.tolist() == [[i, i] for i in range(5)]
    assert Rows(0, 2, device).in_order(np.empty(0, np.int64)).shape == (0, 2)

"""Moves a reader to another encoder: what it makes of that one's states is fitted to what it made of its own.

Only the first layer of a reader sees an encoder's states. A ridge regression over texts that both encoders read puts
the new states where the old ones were, token by token by their places in the text, so that training goes on instead
of beginning anew.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from ...embedder.encoder import Encoder
from ..states import States, encode_states
from .model import SpanReader

_RIDGE = 1e-3
_AT_ONCE = 64


@torch.inference_mode()
def move(reader: SpanReader, own: SpanReader, old: Encoder, new: Encoder, texts: Sequence[tuple[str, str]]) -> float:
    """Set a reader's first layer so that states of `new` become what `own` makes of states of `old`.

    Args:
        reader: for `new`; changed.
        own: trained on `old`, of the same width.
        old: the encoder that `own` reads.
        new: the one that `reader` is to read.
        texts: (text, kind) pairs, some hundreds.

    Returns:
        The share of the variance that the fit explains, 0 to 1, on the texts themselves.
    """
    width = new.backbone.hidden_size
    xx, xy = torch.zeros(width + 1, width + 1).double(), torch.zeros(width + 1, own.config.width).double()
    total, count, squares = torch.zeros(own.config.width).double(), 0, 0.0
    for before, after in _pairs(old, new, texts):
        y = own.project(own.norm(torch.from_numpy(before.hidden.astype(np.float32))))
        rows, kept = _places(before.offsets, after.offsets)
        y = y[torch.from_numpy(rows)].double()
        x = _plain(torch.from_numpy(after.hidden[kept].astype(np.float32)))
        xx += x.T @ x
        xy += x.T @ y
        total, count, squares = total + y.sum(0), count + len(y), squares + float(y.square().sum())
    ridge = _RIDGE * count * torch.eye(width + 1).double()
    ridge[-1, -1] = 0
    found = torch.linalg.solve(xx + ridge, xy)
    reader.norm.weight.fill_(1.0)
    reader.norm.bias.fill_(0.0)
    reader.project.weight.copy_(found[:-1].T)
    reader.project.bias.copy_(found[-1])
    left = squares - 2 * float((found * xy).sum()) + float((found * (xx @ found)).sum())
    return 1 - left / (squares - float(total.square().sum()) / count)


def _pairs(old: Encoder, new: Encoder, texts: Sequence[tuple[str, str]]) -> Iterator[tuple[States, States]]:
    for kind in dict.fromkeys(kind for _, kind in texts):
        own = [text for text, other in texts if other == kind]
        for start in range(0, len(own), _AT_ONCE):
            part = own[start : start + _AT_ONCE]
            both = zip(encode_states(old, part, kind), encode_states(new, part, kind), strict=True)
            yield from (pair for pair in both if len(pair[0]) and len(pair[1]))


def _plain(hidden: Tensor) -> Tensor:
    """(T, H) normalized, with a column of ones."""
    return F.pad(F.layer_norm(hidden, hidden.shape[-1:]), (0, 1), value=1.0).double()


def _places(before: NDArray[np.int32], after: NDArray[np.int32]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """For each token of `after` the one of `before` that ends where it does, or the next; and which have one."""
    rows = np.searchsorted(before[:, 1], after[:, 1])
    kept = rows < len(before)
    return rows[kept], kept

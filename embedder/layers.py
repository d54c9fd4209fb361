"""What an encoder holds of its texts behind every layer, for measures that compare layers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..kernels.attention import PackedLayout
from .encoder import Encoder
from .errors import InputError
from .forwards import token_batches


@dataclass(frozen=True)
class LayerStates:
    """One forward.

    Attributes:
        texts: (batch,) which texts it read.
        states: (total_tokens, H) behind the embeddings and behind each layer, the last one's after the final norm.
        layout: where each text lies.
        keep: (total_tokens,) bool, the tokens that are pooled; None for all.
    """

    texts: NDArray[np.int64]
    states: list[Tensor]
    layout: PackedLayout
    keep: Tensor | None

    def kept(self, states: Tensor) -> Tensor:
        """The rows of (total_tokens, ...) that belong to pooled tokens."""
        return states if self.keep is None else states[self.keep]


@torch.inference_mode()
def layer_states(
    encoder: Encoder, texts: Sequence[str], *, kind: str = "document", batch_tokens: int | None = None
) -> Iterator[LayerStates]:
    """Read texts batch by batch, longest first; arguments as of `Encoder.encode`.

    Raises:
        InputError: there is no text, or the model has no such kind.
    """
    if not texts:
        raise InputError("there is no text to read")
    for batch in token_batches(encoder, encoder.tokenize(texts, kind), batch_tokens):
        yield LayerStates(batch.texts, encoder.backbone.layers(batch.ids, batch.layout), batch.layout, batch.keep)

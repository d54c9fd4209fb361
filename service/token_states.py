"""One vector per token, for late interaction: the backbone's last hidden states, split by text."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from ..embedder import Encoder


@torch.inference_mode()
def token_states(encoder: Encoder, texts: Sequence[NDArray[np.int32]]) -> list[NDArray[np.float32]]:
    """Run token ids through the backbone in one packed forward.

    Args:
        encoder: whose backbone.
        texts: N arrays of token ids, (n_i,) each.

    Returns:
        N arrays (n_i, H) float32.
    """
    backbone = encoder.backbone
    layout = backbone.layout([len(ids) for ids in texts])
    ids = torch.from_numpy(np.concatenate(texts)).long().to(backbone.device)
    hidden = backbone(ids, layout).float().cpu().numpy()
    return np.split(hidden, np.cumsum([len(ids) for ids in texts])[:-1])

"""Keys and values of passages, made once per passage and joined for a question: the alternative to cross-attention.

Each passage is encoded by itself from position 0 and its keys are turned to where it stands in the prompt, as TurboRAG
and PromptCache do (arXiv 2410.07590, 2311.04934): rotary positions add up, so a key turned by a is turned to b by
b - a. Exact for the first passage; the others have not seen those before them.

Shapes: (1, kv_heads, T, head) per layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel

from ..xc.block import rotate
from ..xc.config import rope_theta


@dataclass(frozen=True)
class PassageKv:
    """One passage's keys and values by layer.

    Attributes:
        tokens: how many tokens the passage has; fewer may be kept.
    """

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    tokens: int

    @property
    def nbytes(self) -> int:
        """Bytes of the tensors."""
        return sum(t.numel() * t.element_size() for t in (*self.keys, *self.values))


@torch.inference_mode()
def encode_passage(model: PreTrainedModel, ids: Tensor, sink: Tensor | None = None) -> PassageKv:
    """Run a decoder over a passage's (T,) ids alone, or behind the ids of a sink.

    The first tokens of any text draw attention whatever they say (Xiao et al. 2023, arXiv 2309.17453), so passages
    joined without a sink bring one such place each. Behind a shared sink they bring none; it is joined once, in front.
    """
    cache = DynamicCache(config=model.config)
    before = 0 if sink is None else len(sink)
    read = ids if sink is None else torch.cat([sink, ids])
    cast(nn.Module, model.model)(input_ids=read[None], past_key_values=cache, use_cache=True)
    theta = rope_theta(model.config)
    back = torch.full((len(ids),), -before, device=ids.device)
    layers = cast(Any, cache.layers)
    keys = tuple(rotate(layer.keys[:, :, before:], back, theta) if before else layer.keys for layer in layers)
    return PassageKv(keys, tuple(layer.values[:, :, before:] for layer in layers), len(ids))


def compress(passage: PassageKv, keep: float) -> PassageKv:
    """Keep the share of tokens whose keys are shortest, head by head, in their order.

    Short keys draw attention (Devoto et al. 2024, arXiv 2406.11430): no attention has to be computed to choose.
    """
    count = max(1, round(keep * passage.keys[0].shape[2]))
    keys: list[Tensor] = []
    values: list[Tensor] = []
    for key, value in zip(passage.keys, passage.values, strict=True):
        kept = key.norm(dim=-1).topk(count, largest=False).indices.sort().values[..., None]
        keys.append(key.gather(2, kept.expand(-1, -1, -1, key.shape[-1])))
        values.append(value.gather(2, kept.expand(-1, -1, -1, value.shape[-1])))
    return PassageKv(tuple(keys), tuple(values), passage.tokens)


def join(model: PreTrainedModel, passages: Sequence[PassageKv]) -> tuple[DynamicCache, int]:
    """One cache of all passages in their order, and the position that follows them."""
    theta = rope_theta(model.config)
    cache = DynamicCache(config=model.config)
    for layer in range(len(passages[0].keys)):
        keys: list[Tensor] = []
        start = 0
        for passage in passages:
            key = passage.keys[layer]
            places = torch.full((key.shape[2],), start, device=key.device)
            keys.append(rotate(key, places, theta))
            start += passage.tokens
        cache.update(torch.cat(keys, 2), torch.cat([p.values[layer] for p in passages], 2), layer)
    return cache, sum(passage.tokens for passage in passages)

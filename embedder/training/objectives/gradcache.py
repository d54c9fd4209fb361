"""Contrastive batches bigger than memory (GradCache, arXiv 2101.06983), on packed chunks.

sentence-transformers' cached losses run padded mini-batches of a SentenceTransformer; chunks here hold a budget of
tokens and no padding, and their dropout is seeded, not restored from a saved state.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...packing import pack_by_length
from ..packed_texts import PackedTexts


@dataclass(frozen=True)
class Chunk:
    """Texts of one forward: their rows in the batch, and their tokens."""

    rows: Tensor
    texts: PackedTexts


def chunks(
    rows: Sequence[NDArray[np.integer]], pool_from: NDArray[np.integer], chunk_tokens: int, device: torch.device
) -> list[Chunk]:
    """Cuts a batch into forwards of at most `chunk_tokens` tokens, longest texts first."""
    return [
        Chunk(torch.from_numpy(part).to(device), PackedTexts.of([rows[i] for i in part], pool_from[part]).to(device))
        for part in pack_by_length([len(row) for row in rows], chunk_tokens)
    ]


def cached_backward(
    parts: Sequence[Chunk],
    embed: Callable[[PackedTexts], Tensor],
    loss_of: Callable[[Tensor], Tensor],
    weight: float,
    seed: int,
) -> Tensor:
    """Propagates `weight * loss_of(vectors)` back through `embed`, with the memory of one chunk.

    First every chunk is embedded without a graph, and the loss gives the gradient of each vector; then every chunk is
    embedded again and takes its vectors' gradients. Both passes seed dropout alike.

    Args:
        parts: the batch; one chunk alone is embedded once.
        embed: vectors (texts, D) of packed texts.
        loss_of: the loss of all vectors (N, D), row i of text i.
        weight: factor on the gradient.
        seed: of the dropout masks.

    Returns:
        The loss, without a graph.
    """
    order = torch.cat([part.rows for part in parts]).argsort()
    if len(parts) == 1:
        torch.manual_seed(seed)
        loss = loss_of(embed(parts[0].texts)[order])
        (weight * loss).backward()
        return loss.detach()
    with torch.no_grad():
        found = [_embed(embed, part, seed + i) for i, part in enumerate(parts)]
    leaf = torch.cat(found)[order].requires_grad_()
    loss = loss_of(leaf)
    (weight * loss).backward()
    assert leaf.grad is not None
    for i, part in enumerate(parts):
        _embed(embed, part, seed + i).backward(leaf.grad[part.rows])
    return loss.detach()


def _embed(embed: Callable[[PackedTexts], Tensor], part: Chunk, seed: int) -> Tensor:
    torch.manual_seed(seed)
    return embed(part.texts)

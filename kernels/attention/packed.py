"""Attention over a packed batch in plain PyTorch: every run of equally long sequences is one dense block.

No token of padding is computed and no mask is built unless a sliding window needs one. This is the CPU path, and the
twin every faster kernel is judged by.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from ..rows import aligned, rounds_by_rows
from .half import half_attention, suits
from .layout import PackedLayout


def packed_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    layout: PackedLayout,
    *,
    scale: float,
    window: int | None = None,
    softcap: float | None = None,
    sinks: Tensor | None = None,
    dropout: float = 0.0,
) -> Tensor:
    """Let each token attend to the tokens of its own sequence.

    Args:
        query: (heads, total_tokens, head_dim).
        key: (kv_heads, total_tokens, head_dim); `heads` is a multiple of `kv_heads`.
        value: (kv_heads, total_tokens, value_dim).
        layout: where each sequence lies, and whether attention is causal.
        scale: factor on the scores.
        window: causal, a token sees itself and the `window - 1` tokens before it; bidirectional, it sees those at
            a distance of at most `window`: transformers' two conventions.
        softcap: scores become `softcap * tanh(scores / softcap)` (Gemma 2).
        sinks: (heads,) logits that join the softmax and carry no value (gpt-oss).
        dropout: probability with which a weight is dropped.

    Returns:
        (total_tokens, heads, value_dim), contiguous, of the query's dtype.
    """
    heads, total, _ = query.shape
    plain = softcap is None and sinks is None
    if plain and window is None and not layout.causal and not dropout and suits(query, key, scale, layout.max_seqlen):
        return _written_out(query, key, value, layout, scale)

    def attend(q: Tensor, k: Tensor, v: Tensor, count: int, length: int) -> Tensor:
        """One run's (heads, count * length, dim) to (count * length, heads, dim)."""
        q, k, v = (x.unflatten(1, (count, length)).transpose(0, 1) for x in (q, k, v))
        mask = _window_mask(length, window, layout.causal, query.device)
        if plain:
            block = scaled_dot_product_attention(
                q,
                k,
                v,
                attn_mask=mask,
                dropout_p=dropout,
                is_causal=layout.causal and mask is None and length > 1,
                scale=scale,
                enable_gqa=k.shape[1] != heads,
            )
        else:
            if layout.causal and mask is None:
                mask = torch.ones(length, length, dtype=torch.bool, device=query.device).tril()
            block = _explicit_attention(q, k, v, mask, scale, softcap, sinks, dropout)
        return block.transpose(1, 2).flatten(0, 1)

    width = value.shape[-1]
    if rounds_by_rows(query.dtype, query.device):
        query, key, value = (aligned(x) for x in (query, key, value))

    # Split and joined at once: a slice a run would cost its gradient a tensor of the whole batch's size.
    sizes = [count * length for _, count, length in layout.runs]
    sizes.append(total - sum(sizes))
    parts = zip(query.split(sizes, 1), key.split(sizes, 1), value.split(sizes, 1), strict=True)
    blocks = [attend(q, k, v, count, length) for (q, k, v), (_, count, length) in zip(parts, layout.runs, strict=False)]
    joined = torch.cat([*blocks, query.new_zeros(sizes[-1], heads, value.shape[-1])])
    return joined if width == value.shape[-1] else joined[..., :width].contiguous()


def _written_out(query: Tensor, key: Tensor, value: Tensor, layout: PackedLayout, scale: float) -> Tensor:
    """`packed_attention` by batched products, see `half.py`."""
    heads, total, _ = query.shape
    out = query.new_empty(total, heads, value.shape[-1])
    end = 0
    for start, count, length in layout.runs:
        end = start + count * length
        q, k, v = (x[:, start:end].unflatten(1, (count, length)) for x in (query, key, value))
        half_attention(q, k, v, scale, out[start:end].unflatten(0, (count, length)))
    out[end:].zero_()
    return out


def packed_attention_lse(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    layout: PackedLayout,
    *,
    scale: float,
    window: int | None = None,
    softcap: float | None = None,
    sinks: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """`packed_attention` with the log-sum-exp of each query's scores, (heads, total_tokens), sinks included.

    With it attention over parts of the keys can be merged exactly. Scores are written out, run by run.
    """
    heads, total, _ = query.shape
    out = query.new_empty(total, heads, value.shape[-1])
    lse: list[Tensor] = []
    for start, count, length in layout.runs:
        stop = start + count * length
        q, k, v = (x[:, start:stop].unflatten(1, (count, length)).transpose(0, 1) for x in (query, key, value))
        mask = _window_mask(length, window, layout.causal, query.device)
        if layout.causal and mask is None:
            mask = torch.ones(length, length, dtype=torch.bool, device=query.device).tril()
        scores = _scores(q, k, mask, scale, softcap, sinks)
        out[start:stop] = _explicit_attention(q, k, v, mask, scale, softcap, sinks, 0.0).transpose(1, 2).flatten(0, 1)
        lse.append(scores.logsumexp(-1).transpose(0, 1).flatten(1))
    return out, torch.cat(lse, 1)


def _window_mask(length: int, window: int | None, causal: bool, device: torch.device) -> Tensor | None:
    """(length, length) bool, True where a query (row) sees a key; None where the window hides nothing."""
    if window is None or window >= length:
        return None
    distance = torch.arange(length, device=device)[:, None] - torch.arange(length, device=device)
    return (distance >= 0) & (distance < window) if causal else distance.abs() <= window


def _explicit_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    scale: float,
    softcap: float | None,
    sinks: Tensor | None,
    dropout: float,
) -> Tensor:
    """Attention with the scores written out, (n, heads, length, dim): for what SDPA has no argument for."""
    scores = _scores(query, key, mask, scale, softcap, sinks)
    weights = scores.softmax(-1)[..., : key.shape[2]].to(value.dtype)
    groups = query.shape[1] // key.shape[1]
    return torch.dropout(weights, dropout, train=dropout > 0) @ value.repeat_interleave(groups, 1)


def _scores(
    query: Tensor, key: Tensor, mask: Tensor | None, scale: float, softcap: float | None, sinks: Tensor | None
) -> Tensor:
    """(n, heads, length, keys) in float32, with one more column where there are sinks."""
    key = key.repeat_interleave(query.shape[1] // key.shape[1], 1)
    scores = (query @ key.mT).float() * scale
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    if sinks is not None:
        column = sinks.float().view(1, -1, 1, 1).expand(*scores.shape[:3], 1)
        scores = torch.cat([scores, column], dim=-1)
    return scores

"""From token ids to representations: packed forwards of the backbone, and the heads that read them.

`TokenEncoder` is the way in; what stands here takes it as its first argument.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array, vstack
from torch import Tensor
from torch.nn import functional

from ..kernels.attention import PackedLayout
from .embeddings import Embeddings
from .errors import InputError
from .packing import pack_by_length
from .router import RouterHead
from .tokenization import TextTokenizer, TokenizedTexts, Truncate
from .transfer import Rows, sent

if TYPE_CHECKING:
    from .encoder import Encoder
    from .token_encoder import TokenEncoder


@dataclass(frozen=True)
class Forward:
    """One forward of the backbone.

    Attributes:
        texts: (batch,) which texts it read.
        ids: (total_tokens,) token ids.
        hidden: (total_tokens, H) last hidden states.
        layout: where each text lies.
        keep: (total_tokens,) bool, the tokens to pool; None for all.
        heard: the router's logits where they were listened to.
    """

    texts: NDArray[np.int64]
    ids: Tensor
    hidden: Tensor
    layout: PackedLayout
    keep: Tensor | None
    heard: list[list[Tensor]]


def forwards(
    encoder: TokenEncoder, tokenized: TokenizedTexts, batch_tokens: int | None, listener: RouterHead | None = None
) -> Iterator[Forward]:
    """Read all texts, packed by length under a budget of tokens; the order is the packing's."""
    for texts, ids, layout, keep in token_batches(encoder, tokenized, batch_tokens):
        with listener.listening() if listener else nullcontext([]) as heard:
            hidden = encoder.backbone(ids, layout)
        yield Forward(texts, ids, hidden, layout, keep, heard)


def token_batches(
    encoder: TokenEncoder, tokenized: TokenizedTexts, batch_tokens: int | None
) -> Iterator[tuple[NDArray[np.int64], Tensor, PackedLayout, Tensor | None]]:
    """Pack all texts by length under a budget of tokens: which texts, their ids, where they lie, what to pool.

    Raises:
        InputError: for a budget below one token.
    """
    if batch_tokens is not None and batch_tokens < 1:
        raise InputError(f"batch_tokens must be at least 1, not {batch_tokens}")
    backbone = encoder.backbone
    lengths = [len(ids) for ids in tokenized.ids]
    for texts in pack_by_length(lengths, batch_tokens or encoder.batch_tokens):
        layout = backbone.layout([lengths[i] for i in texts])
        ids = sent(np.concatenate([tokenized.ids[i] for i in texts]).astype(np.int64), backbone.device)
        keep = None
        if (pool_from := tokenized.pool_from[texts]).any():
            keep = layout.position_ids() >= sent(pool_from, backbone.device)[layout.sequence_ids()]
        yield texts, ids, layout, keep


@torch.inference_mode()
def represent(
    encoder: TokenEncoder,
    tokenized: TokenizedTexts,
    outputs: Sequence[str],
    *,
    dimensions: int | None = None,
    batch_tokens: int | None = None,
    normalize: bool | None = None,
) -> Embeddings:
    """Return every representation asked for; see `TokenEncoder.represent`, which has checked the outputs."""
    count, head = len(tokenized.ids), encoder.head
    device = encoder.backbone.device
    dense = Rows(count, head.width(dimensions), device) if "dense" in outputs else None
    listener = encoder.router_head if "router" in outputs else None
    router = Rows(count, listener.experts, device) if listener else None
    sparse_head = encoder.sparse_head if "sparse" in outputs else None
    parts: list[csr_array] = []
    order: list[NDArray[np.int64]] = []
    for made in forwards(encoder, tokenized, batch_tokens, listener):
        order.append(made.texts)
        if dense is not None:
            dense.add(head(made.hidden, made.layout, made.keep, dimensions, normalize=normalize))
        if router is not None and listener is not None:
            router.add(listener(made.heard, made.layout, made.keep))
        if sparse_head is not None:
            parts.append(sparse_head.rows(made.hidden, made.ids, made.layout, made.keep))
    place = np.concatenate(order) if order else np.empty(0, np.int64)
    return Embeddings(
        np.array([len(ids) for ids in tokenized.ids], np.int32),
        tokenized.truncated,
        dense.in_order(place) if dense else None,
        _in_order(parts, place, sparse_head.terms) if sparse_head else None,
        router.in_order(place) if router else None,
    )


@torch.inference_mode()
def token_vectors(
    encoder: Encoder, texts: Sequence[str], kind: str, truncate: Truncate, batch_tokens: int | None
) -> list[NDArray[np.float32]]:
    """Return the unit vectors of each text's own tokens; see `Encoder.token_vectors`."""
    source = encoder.text_tokenizer.source
    # The prompt is told apart from the text even where the model pools both.
    tokenizer = TextTokenizer(source, replace(encoder.spec, include_prompt=False))
    tokenized = tokenizer(texts, encoder.spec.template(kind, None, ()), truncate)
    special = torch.tensor(source.all_special_ids, dtype=torch.long, device=encoder.backbone.device)
    found: dict[int, NDArray[np.float32]] = {}
    for made in forwards(encoder, tokenized, batch_tokens):
        own = ~torch.isin(made.ids, special)
        own = own if made.keep is None else own & made.keep
        rows = functional.normalize(made.hidden[own].float(), dim=-1).cpu().numpy()
        counts = torch.bincount(made.layout.sequence_ids()[own].long(), minlength=len(made.texts))
        ends = counts.cumsum(0)[:-1].tolist()
        found.update(zip(made.texts.tolist(), np.split(rows, ends), strict=True))
    return [found[i] for i in range(len(texts))]


def _in_order(parts: list[csr_array], place: NDArray[np.int64], terms: int) -> csr_array:
    """Join the rows of all batches, row i for text i."""
    if not parts:
        return csr_array((0, terms), dtype=np.float32)
    back = np.empty(len(place), np.int64)
    back[place] = np.arange(len(place))
    return csr_array(csr_array(vstack(parts, format="csr"))[back])

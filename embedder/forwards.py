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
from .packing import pack_by_length, pack_evenly
from .parallel import in_parallel
from .router import RouterHead
from .tokenization import TextTokenizer, TokenizedTexts, Truncate
from .transfer import Rows, sent

if TYPE_CHECKING:
    from .encoder import Encoder
    from .token_encoder import TokenEncoder


@dataclass(frozen=True)
class Batch:
    """Texts side by side.

    Attributes:
        texts: (batch,) which texts they are.
        ids: (total_tokens,) token ids.
        layout: where each text lies.
        keep: (total_tokens,) bool, the tokens to pool; None for all.
    """

    texts: NDArray[np.int64]
    ids: Tensor
    layout: PackedLayout
    keep: Tensor | None


@dataclass(frozen=True)
class Forward:
    """What the backbone made of a batch.

    Attributes:
        batch: what it read.
        hidden: (total_tokens, H) last hidden states.
        heard: the router's logits where they were listened to.
    """

    batch: Batch
    hidden: Tensor
    heard: list[list[Tensor]]


def forwards(encoder: TokenEncoder, tokenized: TokenizedTexts, batch_tokens: int | None) -> Iterator[Forward]:
    """Read all texts, packed by length under a budget of tokens; the order is the packing's. Raises as `in_batches`."""
    order, at_once = in_batches(encoder, tokenized, batch_tokens)

    @torch.inference_mode()
    def read(texts: NDArray[np.int64]) -> Forward:
        return forward(encoder, token_batch(encoder, tokenized, texts))

    return in_parallel(read, order, at_once)


def forward(encoder: TokenEncoder, batch: Batch, listener: RouterHead | None = None) -> Forward:
    """Run the backbone over a batch."""
    with listener.listening() if listener else nullcontext([]) as heard:
        hidden = encoder.backbone(batch.ids, batch.layout)
    return Forward(batch, hidden, heard)


def token_batches(encoder: TokenEncoder, tokenized: TokenizedTexts, batch_tokens: int | None) -> Iterator[Batch]:
    """All batches one after the other; raises as `in_batches`."""
    for texts in in_batches(encoder, tokenized, batch_tokens, alone=True)[0]:
        yield token_batch(encoder, tokenized, texts)


def in_batches(
    encoder: TokenEncoder, tokenized: TokenizedTexts, batch_tokens: int | None, *, alone: bool = False
) -> tuple[list[NDArray[np.int64]], int]:
    """Pack all texts by length under a budget of tokens: which texts stand together, and how many batches at once.

    Args:
        encoder: what is to read them.
        tokenized: the texts.
        batch_tokens: the budget; None for what is quickest, a text more or less.
        alone: whether each batch needs the backbone to itself.

    Raises:
        InputError: for a budget below one token.
    """
    if batch_tokens is not None and batch_tokens < 1:
        raise InputError(f"batch_tokens must be at least 1, not {batch_tokens}")
    lengths = [len(ids) for ids in tokenized.ids]
    at_once = 1 if alone else encoder.backbone.batches_at_once(sum(lengths))
    if batch_tokens is None and at_once > 1:
        order = pack_evenly(lengths, encoder.batch_tokens, at_once)
    else:
        order = pack_by_length(lengths, batch_tokens or encoder.batch_tokens)
    return order, min(at_once, len(order))


def token_batch(encoder: TokenEncoder, tokenized: TokenizedTexts, texts: NDArray[np.int64]) -> Batch:
    """Put (batch,) texts side by side."""
    device = encoder.backbone.device
    layout = encoder.backbone.layout([len(tokenized.ids[i]) for i in texts])
    ids = sent(np.concatenate([tokenized.ids[i] for i in texts]).astype(np.int64), device)
    keep = None
    if (pool_from := tokenized.pool_from[texts]).any():
        keep = layout.position_ids() >= sent(pool_from, device)[layout.sequence_ids()]
    return Batch(texts, ids, layout, keep)


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

    @torch.inference_mode()
    def read(texts: NDArray[np.int64]) -> tuple[Tensor | None, Tensor | None, csr_array | None]:
        made = forward(encoder, batch := token_batch(encoder, tokenized, texts), listener)
        where = batch.layout, batch.keep
        return (
            head(made.hidden, *where, dimensions, normalize=normalize) if dense is not None else None,
            listener(made.heard, *where) if listener else None,
            sparse_head.rows(made.hidden, batch.ids, *where) if sparse_head else None,
        )

    order, at_once = in_batches(encoder, tokenized, batch_tokens, alone=listener is not None)
    for vectors, routes, terms in in_parallel(read, order, at_once):
        if dense is not None and vectors is not None:
            dense.add(vectors)
        if router is not None and routes is not None:
            router.add(routes)
        if terms is not None:
            parts.append(terms)
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
        batch = made.batch
        own = ~torch.isin(batch.ids, special)
        own = own if batch.keep is None else own & batch.keep
        rows = functional.normalize(made.hidden[own].float(), dim=-1).cpu().numpy()
        counts = torch.bincount(batch.layout.sequence_ids()[own].long(), minlength=len(batch.texts))
        ends = counts.cumsum(0)[:-1].tolist()
        found.update(zip(batch.texts.tolist(), np.split(rows, ends), strict=True))
    return [found[i] for i in range(len(texts))]


def _in_order(parts: list[csr_array], place: NDArray[np.int64], terms: int) -> csr_array:
    """Join the rows of all batches, row i for text i."""
    if not parts:
        return csr_array((0, terms), dtype=np.float32)
    back = np.empty(len(place), np.int64)
    back[place] = np.arange(len(place))
    return csr_array(csr_array(vstack(parts, format="csr"))[back])

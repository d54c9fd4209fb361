"""Late chunking (arXiv 2409.04701): a document is encoded once, and each chunk is pooled from its own tokens.

A chunk's vector then knows what the document is about, and who its "it" is. That needs tokens which see what follows
them, so only a bidirectional encoder does it, and one that pools by averaging. A document longer than the encoder
takes is encoded in windows that overlap, and a chunk is pooled from the window that holds it whole, with text on both
sides of it wherever there is room.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from ..kernels.attention import PackedLayout
from .errors import InputError
from .packing import pack_by_length
from .spec import Attention, Pooling, Rewrite
from .template import Template

if TYPE_CHECKING:
    from .encoder import Encoder

Span = tuple[int, int]
# Part of a window that a chunk may count on as context in front of it.
CONTEXT_SHARE = 4


@dataclass(frozen=True)
class Window:
    """One sequence for the backbone and the chunks pooled from it.

    Attributes:
        ids: (tokens,) int32, everything around the text included.
        chunks: for each, its number and the indices of its tokens in `ids`.
    """

    ids: NDArray[np.int32]
    chunks: list[tuple[int, NDArray[np.int64]]]


def encode_chunks(
    encoder: Encoder,
    text: str,
    spans: Sequence[Span],
    *,
    kind: str = "document",
    dimensions: int | None = None,
    batch_tokens: int | None = None,
) -> NDArray[np.float32]:
    """Encode a document once and return one vector per chunk; see `Encoder.encode_chunks`."""
    _refuse(encoder)
    template = encoder.spec.template(kind, None, ())
    if not template.is_prefix:
        raise InputError("late chunking needs a prompt that stands in front of the text: use another model")
    windows = list(windows_of(encoder, text, spans, template))
    out = np.empty((len(spans), encoder.head.width(dimensions)), np.float32)
    for batch in pack_by_length([len(window.ids) for window in windows], batch_tokens or encoder.batch_tokens):
        _pool(encoder, [windows[i] for i in batch], out, dimensions)
    return out


def _refuse(encoder: Encoder) -> None:
    spec = encoder.spec
    if spec.rewrite is not Rewrite.NONE:
        raise InputError("this model rewrites its texts, so chunks have no place in them: index without late chunking")
    if spec.attention is not Attention.BIDIRECTIONAL:
        raise InputError("late chunking needs a bidirectional encoder, this one is causal: index without it")
    if spec.pooling is not Pooling.MEAN:
        raise InputError(
            f"late chunking averages a chunk's tokens, this model pools by {spec.pooling}: index without it"
        )


@torch.inference_mode()
def _pool(encoder: Encoder, windows: list[Window], out: NDArray[np.float32], dimensions: int | None) -> None:
    backbone = encoder.backbone
    layout = backbone.layout([len(window.ids) for window in windows])
    ids = torch.from_numpy(np.concatenate([window.ids for window in windows])).long().to(backbone.device)
    hidden = backbone(ids, layout)
    starts = layout.cu_seqlens.tolist()
    chunks = [
        (number, tokens + start)
        for window, start in zip(windows, starts, strict=False)
        for number, tokens in window.chunks
    ]
    # Chunks become a packed batch of their own, in which each is pooled whole.
    chunks.sort(key=lambda chunk: len(chunk[1]))
    rows = torch.from_numpy(np.concatenate([tokens for _, tokens in chunks])).to(hidden.device)
    lengths = [len(tokens) for _, tokens in chunks]
    own = PackedLayout.from_lengths(lengths, causal=False, device=hidden.device)
    out[[number for number, _ in chunks]] = encoder.head(hidden[rows], own, None, dimensions).cpu().numpy()


def windows_of(encoder: Encoder, text: str, spans: Sequence[Span], template: Template) -> Iterator[Window]:
    """Cut a text into windows such that every span lies whole in one.

    Raises:
        InputError: for a span that is out of order, empty, or longer than a window.
    """
    tokenizer = encoder.text_tokenizer
    offsets = np.array(tokenizer.backend.encode(text, add_special_tokens=False).offsets, np.int64).reshape(-1, 2)
    room = encoder.max_tokens - _around(encoder, template)
    places = [_tokens_of(offsets, span, number) for number, span in enumerate(spans)]
    if any(later[0] < earlier[0] for earlier, later in zip(places, places[1:], strict=False)):
        raise InputError("chunks must be given in the order they have in the text")
    number = 0
    while number < len(places):
        first, last = places[number]
        if last - first > room:
            raise InputError(
                f"chunk {number} has {last - first} tokens, a window of this model {room}: make it smaller"
            )
        begin = 0 if len(offsets) <= room else max(0, min(first - room // CONTEXT_SHARE, len(offsets) - room))
        begin = max(begin, last - room)
        end = min(begin + room, len(offsets))
        # A chunk at the window's end has nothing behind it: leave it to the next one, unless the text ends there too.
        limit = end if end == len(offsets) else end - room // CONTEXT_SHARE
        held = number + 1
        while held < len(places) and places[held][1] <= limit:
            held += 1
        yield _window(encoder, text, offsets, (begin, end), list(enumerate(spans))[number:held], template)
        number = held


def _around(encoder: Encoder, template: Template) -> int:
    """Tokens of everything around a text, and a few for those that differ where a window is cut."""
    tokenizer = encoder.text_tokenizer
    prompt = len(tokenizer.backend.encode(template.parts[0], add_special_tokens=False).ids)
    return tokenizer.special_tokens + prompt + 4


def _tokens_of(offsets: NDArray[np.int64], span: Span, number: int) -> Span:
    """First token of a span of characters, and the one behind its last."""
    inside = np.flatnonzero((offsets[:, 0] < span[1]) & (offsets[:, 1] > span[0]))
    if not len(inside):
        raise InputError(f"chunk {number} holds no token: leave it out")
    return int(inside[0]), int(inside[-1]) + 1


def _window(
    encoder: Encoder,
    text: str,
    offsets: NDArray[np.int64],
    tokens: Span,
    spans: list[tuple[int, Span]],
    template: Template,
) -> Window:
    begin, end = int(offsets[tokens[0], 0]), int(offsets[tokens[1] - 1, 1])
    wrapped = template.wrap(text[begin:end])
    tokenizer = encoder.text_tokenizer
    encoding = tokenizer.backend.encode(wrapped, add_special_tokens=encoder.spec.add_special_tokens)
    ids = tokenizer([text[begin:end]], template).ids[0]
    if len(ids) > encoder.max_tokens or len(ids) < len(encoding.ids):
        raise InputError("this text has other tokens where it is cut: index it without late chunking")
    shift = begin - len(template.parts[0])
    places = np.array(encoding.offsets, np.int64) + shift
    plain = np.array(encoding.special_tokens_mask) == 0
    chunks: list[tuple[int, NDArray[np.int64]]] = []
    for number, (start, stop) in spans:
        inside = np.flatnonzero((places[:, 0] < stop) & (places[:, 1] > start) & (places[:, 1] > begin) & plain)
        if not len(inside):
            raise InputError(f"chunk {number} holds no token: leave it out")
        chunks.append((number, inside))
    return Window(ids, chunks)

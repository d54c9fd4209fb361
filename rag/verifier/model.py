"""A verifier reads a question and a piece of a passage as one text, and says where in it the answer is, if at all.

The reader (`rag.reader`) knows question and passage only by states that were made apart. What it proposes is read again
here by the same decoder, with low-rank adapters in its layers, whose attention sees both sides at once: BERT's question
answering with a null answer at the first token (Devlin et al. 2019, arXiv 1810.04805), used to verify what another
reader proposes (Hu et al. 2018, arXiv 1808.05759).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ...embedder.encoder import Encoder
from ...embedder.errors import ModelError
from ...embedder.training.packed_texts import PackedTexts
from ...kernels.attention import PackedLayout

# Tokens of a pair that are neither the question's nor the passage's.
MARKS = 3
Hidden = Callable[[PackedTexts, PackedLayout], Tensor]


@dataclass(frozen=True)
class Marks:
    """Ids of the tokens before a question, between it and a passage, and behind both."""

    first: int
    between: int

    @classmethod
    def of(cls, encoder: Encoder) -> Marks:
        """A tokenizer's own tokens for the beginning and the end of a text.

        Raises:
            ModelError: it has no token that ends a text.
        """
        source: Any = encoder.text_tokenizer.source
        end = source.sep_token_id if source.sep_token_id is not None else source.eos_token_id
        begin = source.cls_token_id if source.cls_token_id is not None else source.bos_token_id
        if end is None:
            raise ModelError("the tokenizer has no token that ends a text: nothing parts a question from a passage")
        return cls(end if begin is None else begin, end)


@dataclass(frozen=True)
class Pair:
    """A question and a piece of a passage, without marks.

    Attributes:
        question: (M,) token ids.
        piece: (T,) token ids.
    """

    question: NDArray[np.int32]
    piece: NDArray[np.int32]

    def row(self, marks: Marks) -> NDArray[np.int64]:
        """(M + T + MARKS,) ids as they are read."""
        parts = ([marks.first], self.question, [marks.between], self.piece, [marks.between])
        return np.concatenate([np.asarray(part, np.int64) for part in parts])


class SpanHead(nn.Module):
    """First and last token of the answer from the states of a pair; the first token stands for there being none."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.ends = nn.Linear(hidden, 2)
        self.nothing = nn.Sequential(nn.Linear(hidden, hidden), nn.GELU(), nn.Linear(hidden, 2))

    def forward(self, states: Sequence[Tensor], pairs: Sequence[Pair]) -> tuple[Tensor, Tensor]:
        """Logits of the first and of the last token.

        Args:
            states: for each pair (M + T + MARKS, H) float32.
            pairs: what was read.

        Returns:
            Two (B, T + 1) float32; the last place is the null answer. Padding is -inf.
        """
        longest = max(len(pair.piece) for pair in pairs)
        logits = states[0].new_full((len(pairs), longest + 1, 2), -torch.inf)
        null = self.nothing(torch.stack([rows[0] for rows in states]))
        pieces = [rows[len(pair.question) + 2 : -1] for rows, pair in zip(states, pairs, strict=True)]
        found = self.ends(torch.cat(pieces)).split([len(piece) for piece in pieces])
        for i, own in enumerate(found):
            logits[i, : len(own)] = own
        logits[:, -1] = null
        return logits[..., 0], logits[..., 1]


def read_pairs(
    hidden: Hidden, head: SpanHead, pairs: Sequence[Pair], marks: Marks, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Logits (B, T + 1), see `SpanHead.forward`, of B pairs that are read in one forward."""
    texts = PackedTexts.of([pair.row(marks) for pair in pairs]).to(device)
    packed = hidden(texts, texts.layout(causal=False)).float().split(texts.lengths)
    return head([packed[i] for i in texts.restore.tolist()], pairs)


def piece_around(length: int, first: int, last: int, room: int) -> slice:
    """At most `room` of a passage's tokens; those from `first` to `last` are in the middle if both sides have more."""
    start = min(max(0, (first + last + 1 - room) // 2), max(0, length - room), first)
    return slice(start, min(length, start + room))


def most_asked(tokens: int) -> int:
    """How many tokens of a question are read in a pair of `tokens`."""
    return tokens // 2 - MARKS


def pair_around(
    question: NDArray[np.int32], passage: NDArray[np.int32], first: int, last: int, tokens: int
) -> tuple[Pair, int]:
    """A pair of `tokens` at most, and where its piece begins in the passage; a long question is cut to half of them."""
    question = question[: most_asked(tokens)]
    piece = piece_around(len(passage), first, last, tokens - MARKS - len(question))
    return Pair(question, passage[piece]), piece.start

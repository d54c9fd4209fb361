"""Beam search over runs of words, by their probability at all places where they stand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from ..reader.decode import MAX_TOKENS
from .lit import Lit
from .model import NEVER, CopyWriter, begin_logs, onward, step_logs

BEAMS = 4


@dataclass(frozen=True)
class Run:
    """An answer.

    Attributes:
        words: its ids.
        first, last: the place that it most likely was taken from, in tokens of all passages, both ends included.
        log_probability: natural, of these words at any place.
    """

    words: tuple[int, ...]
    first: int
    last: int
    log_probability: float


@dataclass(frozen=True)
class _Beam:
    """What is written so far.

    Attributes:
        path: (N,) log-probability that these are the words and that they end at a token.
    """

    words: tuple[int, ...]
    path: Tensor

    @property
    def log_probability(self) -> float:
        """Of these words, whatever follows."""
        return float(self.path.logsumexp(0))


@torch.inference_mode()
def write(
    writer: CopyWriter, lit: Lit, asked: Sequence[int], *, beams: int = BEAMS, max_tokens: int = MAX_TOKENS
) -> tuple[list[Run], float]:
    """The likeliest run of words for one question, up to three others, and the log-probability that there is no answer.

    Args:
        writer: who writes.
        lit: of the one question.
        asked: ids of the question.
        beams: how many are followed at a time, and returned at most.
        max_tokens: longer runs are not looked at.

    Returns:
        Runs, the best first; never empty.
    """
    memories, key = writer.remember(lit), writer.head.key(lit.memory)
    cache = DynamicCache(config=writer.decoder.base.config)
    inner, device = cast(nn.Module, writer.decoder.base.model), lit.ids.device

    def head(fed: Tensor, step: int) -> tuple[Tensor, Tensor, Tensor]:
        states = inner(input_ids=fed, past_key_values=cache, use_cache=True, xc_memories=memories).last_hidden_state
        return writer.head(states[:, -1:], lit, key, step)

    copied, _, nothing = head(torch.tensor([writer.prompt(asked)], device=device), 0)
    begins, none = begin_logs(copied[:, 0], nothing, lit)
    live = _likeliest([((), begins[0])], lit.ids[0], beams)
    done: list[Run] = []
    for step in range(1, max_tokens + 1):
        # No run gets likelier by going on.
        if not live or (done and live[0][0].log_probability <= done[0].log_probability):
            break
        cache.reorder_cache(cast(torch.LongTensor, torch.tensor([row for _, row in live], device=device)))
        copied, stopped, _ = head(torch.tensor([[beam.words[-1]] for beam, _ in live], device=device), step)
        goes, stops = step_logs(copied, stopped, lit)
        ends = [beam.path + stops[row, 0] for row, (beam, _) in enumerate(live)]
        done += [_run(beam.words, end) for (beam, _), end in zip(live, ends, strict=True)]
        done = sorted(done, key=lambda run: -run.log_probability)[:beams]
        ahead = [(beam.words, onward(beam.path + goes[row, 0])) for row, (beam, _) in enumerate(live)]
        live = _likeliest(ahead, lit.ids[0], beams)
    return done, float(none[0])


def _run(words: tuple[int, ...], ends: Tensor) -> Run:
    last = int(ends.argmax())
    return Run(words, last - len(words) + 1, last, float(ends.logsumexp(0)))


def _likeliest(ahead: Sequence[tuple[tuple[int, ...], Tensor]], ids: Tensor, count: int) -> list[tuple[_Beam, int]]:
    """The likeliest words that are one longer, the best first, each with the row that it goes on from.

    `ahead` has the words of each row, and (N,) log-probabilities that a token is the next one.
    """
    found: list[tuple[float, _Beam, int]] = []
    for row, (words, path) in enumerate(ahead):
        places = (path > NEVER / 2).nonzero()[:, 0]
        following, which = ids[places].unique(return_inverse=True)
        chances = torch.zeros(len(following), device=ids.device).index_add_(0, which, path[places].exp())
        for word in following[chances.topk(min(count, len(following))).indices].tolist():
            beam = _Beam((*words, word), path.masked_fill(ids != word, NEVER))
            found.append((beam.log_probability, beam, row))
    found.sort(key=lambda entry: -entry[0])
    return [(beam, row) for _, beam, row in found[:count]]

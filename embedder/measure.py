"""How fast an encoder is on given texts here, where its time goes, and how fast it could be at best."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from statistics import median
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from .encoder import Encoder
from .errors import InputError
from .forwards import forward, in_batches, token_batch, token_batches
from .parallel import in_parallel
from .tokenization import TokenizedTexts

T = TypeVar("T")

STAGES = ("tokenize", "pack", "backbone", "head")


@dataclass(frozen=True)
class Measurement:
    """What a run over the texts took; times are medians over the rounds.

    Attributes:
        texts: how many.
        tokens: theirs, everything around them included.
        seconds: of one pass.
        stages: seconds by stage: tokenising, laying out batches, the decoder, pooling and what follows it; the
            mean of the threads that read batches at once.
        flops: floating-point operations of one pass, counted as it ran.
        ceiling_flops_per_second: rate of the model's own matrix products alone, at the batch's number of tokens.
        threads: threads of one operation on a CPU.
    """

    texts: int
    tokens: int
    seconds: float
    stages: dict[str, float]
    flops: int
    ceiling_flops_per_second: float
    threads: int

    @property
    def utilisation(self) -> float:
        """Share of the ceiling that a whole pass reaches."""
        return self.flops / self.seconds / self.ceiling_flops_per_second


def measure(
    encoder: Encoder, texts: Sequence[str], *, kind: str = "document", rounds: int = 3, batch_tokens: int | None = None
) -> Measurement:
    """Encode the texts several times and say where the time went.

    Args:
        encoder: any.
        texts: the kind of texts that will be encoded; some hundreds say enough.
        kind: which of the model's prompts to use.
        rounds: passes over the texts, after one that is only counted.
        batch_tokens: token budget of one forward.

    Raises:
        InputError: without texts or rounds, or for a text that cannot be encoded.
    """
    if not texts or rounds < 1:
        raise InputError("there is nothing to measure: give texts, and at least one round")
    tokenized = encoder.tokenize(texts, kind)
    onednn = getattr(torch.ops.mkldnn, "_linear_pointwise", None)
    counts = {onednn: _operations_of_linear} if onednn is not None else None
    with FlopCounterMode(display=False, custom_mapping=counts) as counter, torch.no_grad():
        # One after the other: the counter sees what its own thread computes.
        for batch in token_batches(encoder, tokenized, batch_tokens):
            hidden = forward(encoder, batch).hidden
            if "dense" in encoder.outputs:
                encoder.head(hidden, batch.layout)
    passes: list[float] = []
    lines: list[dict[str, float]] = []
    for _ in range(rounds):
        spent: dict[str, float] = {}
        start = time.perf_counter()
        tokenized = _timed(encoder, spent, "tokenize", lambda: encoder.tokenize(texts, kind))
        _pass(encoder, tokenized, batch_tokens, spent)
        passes.append(time.perf_counter() - start)
        lines.append(spent)
    tokens = sum(len(ids) for ids in tokenized.ids)
    return Measurement(
        texts=len(texts),
        tokens=tokens,
        seconds=median(passes),
        stages={stage: median(line.get(stage, 0.0) for line in lines) for stage in STAGES},
        flops=counter.get_total_flops(),
        ceiling_flops_per_second=ceiling(encoder, min(batch_tokens or encoder.batch_tokens, tokens)),
        threads=torch.get_num_threads(),
    )


def _operations_of_linear(x: Sequence[int], weight: Sequence[int], *_: object, **__: object) -> int:
    """What oneDNN's product of these shapes takes; PyTorch counts its own only."""
    return 2 * prod(x) * weight[0]


def measure_threads(
    encoder: Encoder,
    texts: Sequence[str],
    numbers: Sequence[int],
    *,
    kind: str = "document",
    rounds: int = 3,
    batch_tokens: int | None = None,
) -> dict[int, float]:
    """Tokens per second by number of threads: in turns, so that all meet the same machine; medians over the rounds.

    PyTorch has as many threads afterwards as before.

    Raises:
        InputError: without texts, numbers or rounds, with a number below 1, or for a text that cannot be encoded.
    """
    if not texts or not numbers or rounds < 1 or min(numbers) < 1:
        raise InputError("there is nothing to measure: give texts, numbers of threads and at least one round")
    before = torch.get_num_threads()
    tokens = 0
    spent: dict[int, list[float]] = {number: [] for number in numbers}
    try:
        for _ in range(rounds + 1):
            for number, seconds in spent.items():
                torch.set_num_threads(number)
                start = time.perf_counter()
                tokens = int(encoder.encode(texts, kind=kind, batch_tokens=batch_tokens).tokens.sum())
                seconds.append(time.perf_counter() - start)
    finally:
        torch.set_num_threads(before)
    # The first turn of each is not counted.
    return {number: tokens / median(seconds[1:]) for number, seconds in spent.items()}


def _pass(encoder: Encoder, tokenized: TokenizedTexts, batch_tokens: int | None, spent: dict[str, float]) -> None:
    """Compute as `represent` does; where several batches are read at once, a stage takes the mean of their threads'."""

    @torch.inference_mode()
    def read(texts: NDArray[np.int64]) -> dict[str, float]:
        own: dict[str, float] = {}
        batch = _timed(encoder, own, "pack", lambda: token_batch(encoder, tokenized, texts))
        made = _timed(encoder, own, "backbone", lambda: forward(encoder, batch))
        if "dense" in encoder.outputs:
            _timed(encoder, own, "head", lambda: encoder.head(made.hidden, batch.layout).cpu())
        return own

    order, at_once = _timed(encoder, spent, "pack", lambda: in_batches(encoder, tokenized, batch_tokens))
    for own in in_parallel(read, order, at_once):
        for stage, seconds in own.items():
            spent[stage] = spent.get(stage, 0.0) + seconds / at_once


def _timed(encoder: Encoder, spent: dict[str, float], stage: str, work: Callable[[], T]) -> T:
    start = time.perf_counter()
    result = work()
    if encoder.backbone.device.type == "cuda":
        torch.cuda.synchronize(encoder.backbone.device)
    spent[stage] = spent.get(stage, 0.0) + time.perf_counter() - start
    return result


@torch.inference_mode()
def ceiling(encoder: Encoder, tokens: int, *, rounds: int = 5) -> float:
    """Operations per second of the decoder's linear layers by themselves: each shape measured, weighed by its number.

    The best of the rounds counts: whatever else the machine does only makes it slower.
    """
    backbone = encoder.backbone
    shapes = Counter((m.in_features, m.out_features) for m in backbone.model.modules() if isinstance(m, nn.Linear))
    if not shapes:  # some mixtures keep their experts in other modules
        shapes = Counter({(backbone.hidden_size, backbone.hidden_size): 1})
    operations = seconds = 0.0
    for (wide, high), count in shapes.items():
        x = torch.randn(tokens, wide, device=backbone.device).to(backbone.dtype)
        weight = torch.randn(high, wide, device=backbone.device).to(backbone.dtype)
        spent: list[dict[str, float]] = [{} for _ in range(rounds + 1)]
        for line in spent:
            _timed(encoder, line, "product", lambda x=x, weight=weight: functional.linear(x, weight))
        operations += 2.0 * tokens * wide * high * count
        seconds += min(line["product"] for line in spent[1:]) * count
    return operations / seconds

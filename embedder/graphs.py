"""Small batches on a GPU, recorded once and replayed (CUDA graphs).

A query of a dozen tokens keeps a GPU busy for less time than Python takes to start its few hundred kernels one by one.
A graph starts them all at once, but its shapes and addresses are fixed. So batches are filled up to a few sizes with
one more sequence that nobody reads, and ids, positions and the attention kernel's tables are copied to where the graph
reads them. Each graph is compared with the plain forward when it is recorded.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel

from ..kernels.attention import PackedLayout
from ..kernels.attention.fixed import FixedTables
from ..kernels.dispatch import KernelError
from .lean import hooks_of
from .transfer import sent

# Beyond so many tokens the kernels themselves take longer than starting them.
FEWEST_TOKENS, MOST_TOKENS = 16, 512
MOST_TEXTS = 64
# What is asked once is not recorded: that takes as long as many plain forwards.
CALLS = 2
MIN_COSINE = 0.999

Forward = Callable[[Tensor, Tensor, PackedLayout], Tensor]
Recorder = Callable[[Callable[[], Tensor]], tuple[Callable[[], None], Tensor]]


@dataclass(frozen=True)
class _Recorded:
    """A graph and the memory that it reads and writes.

    Attributes:
        ids: (rows,) int64.
        positions: (rows,) int64.
        tables: who attends to whom.
        replay: computes `hidden` from them.
        hidden: (rows, H).
    """

    ids: Tensor
    positions: Tensor
    tables: FixedTables
    replay: Callable[[], None]
    hidden: Tensor


class Replays:
    """Forwards of small batches from graphs. Threads may share it."""

    def __init__(
        self, model: PreTrainedModel, forward: Forward, first_position: int = 0, record: Recorder | None = None
    ) -> None:
        """Record nothing yet.

        Args:
            model: whose weights `forward` reads.
            forward: ids, positions and a layout to (tokens, H) hidden states.
            first_position: of a text.
            record: makes a graph of a computation; CUDA's if None.
        """
        self._model = model
        self._forward = forward
        self._first = first_position
        self._record = record or _Cuda(model.device)
        self._met: Counter[tuple[int, bool]] = Counter()
        self._recorded: dict[tuple[int, bool], _Recorded] = {}
        self._guard = threading.Lock()
        self._weights = _addresses(model)
        self._hooks = hooks_of(model)

    def __call__(self, input_ids: Tensor, layout: PackedLayout) -> Tensor | None:
        """The last hidden states, (total_tokens, H), of a packed batch; None where it should be computed plainly.

        Raises:
            KernelError: the model cannot be recorded, or its graph computes something else.
        """
        total = layout.total_tokens
        if total > MOST_TOKENS or layout.batch_size >= MOST_TEXTS or type(layout) is not PackedLayout:
            return None
        if layout.trace is not None or any(self._hooks) or not torch.is_inference_mode_enabled():
            return None
        lengths = layout.lengths_on_host()
        size = max(FEWEST_TOKENS, 1 << (total - 1).bit_length())
        key = (size, layout.causal)
        with self._guard:
            if self._weights != (now := _addresses(self._model)):
                self._weights = now
                self._recorded.clear()
            self._met[key] += 1
            if self._met[key] < CALLS:
                return None
            if (made := self._recorded.get(key)) is None:
                made = self._recorded[key] = self._made(input_ids, layout, lengths, size)
            return self._replayed(made, input_ids, lengths)

    def _replayed(self, made: _Recorded, input_ids: Tensor, lengths: list[int]) -> Tensor:
        made.ids[: len(input_ids)].copy_(input_ids)
        rows = len(made.ids)
        made.tables.load(_filled(lengths, rows))
        made.positions.copy_(sent(self._positions(lengths, rows), made.positions.device), non_blocking=True)
        made.replay()
        # The next replay writes where this one did.
        return made.hidden[: len(input_ids)].clone()

    def _made(self, input_ids: Tensor, layout: PackedLayout, lengths: list[int], rows: int) -> _Recorded:
        device = input_ids.device
        ids = functional.pad(input_ids, (0, rows - len(input_ids)))
        positions = sent(self._positions(lengths, rows), device).clone()
        tables = FixedTables(_filled(lengths, rows), MOST_TEXTS, device)
        # Without runs only the kernel, which reads the tables, can compute attention.
        fixed = PackedLayout(layout.cu_seqlens, rows, (), layout.causal, filling=rows, tables=tables)
        try:
            replay, hidden = self._record(lambda: self._forward(ids, positions, fixed))
        except (RuntimeError, IndexError, NotImplementedError) as error:
            raise KernelError(f"the forward cannot be recorded: {str(error).splitlines()[0]}; choose torch") from error
        made = _Recorded(ids, positions, tables, replay, hidden)
        self._prove(made, input_ids, layout, lengths)
        return made

    def _prove(self, made: _Recorded, input_ids: Tensor, layout: PackedLayout, lengths: list[int]) -> None:
        plain = self._forward(input_ids, layout.position_ids() + self._first, layout).float()
        replayed = self._replayed(made, input_ids, lengths).float()
        cosine = float(functional.cosine_similarity(plain, replayed).min())
        if not cosine >= MIN_COSINE:
            raise KernelError(f"the recorded forward gives other states (cosine {cosine:.4f}); choose torch")

    def _positions(self, lengths: list[int], rows: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        return np.concatenate([np.arange(length) for length in _filled(lengths, rows)]) + self._first


class _Cuda:
    """Records with `torch.cuda.graph` on one device; all graphs of a model share one pool of memory."""

    # CUDA records one graph of a process at a time, and another model's may be under way.
    _recording = threading.Lock()

    def __init__(self, device: torch.device) -> None:
        self._pool = torch.cuda.graph_pool_handle()
        self._beside = torch.cuda.Stream(device)

    def __call__(self, compute: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
        # Kernels are compiled and libraries set up before anything is recorded, on another stream, as PyTorch asks.
        plainly = torch.cuda.current_stream(self._beside.device)
        self._beside.wait_stream(plainly)
        with torch.cuda.stream(self._beside):
            for _ in range(2):
                compute()
        plainly.wait_stream(self._beside)
        graph = torch.cuda.CUDAGraph()
        # PyTorch's own stream is of whichever device came first. Other threads, whose larger batches are computed
        # plainly meanwhile, may ask for memory; by default that would spoil the recording, and them.
        recording = torch.cuda.graph(graph, pool=self._pool, stream=self._beside, capture_error_mode="thread_local")
        with self._recording, recording:
            hidden = compute()
        return graph.replay, hidden


def cannot_record(engine: str, attention: str, rope_types: set[str]) -> str | None:
    """Why a model's forwards cannot be recorded; None where they perhaps can."""
    if engine != "packed":
        return "its texts need forwards of equal length"
    if attention != "triton":
        return "attention runs in torch, batch by batch"
    if looking := rope_types & {"dynamic", "longrope"}:
        return f"its positions are of kind {min(looking)}, which looks at each batch"
    return None


def _filled(lengths: list[int], rows: int) -> list[int]:
    filling = rows - sum(lengths)
    return [*lengths, filling] if filling else lengths


def _addresses(model: PreTrainedModel) -> tuple[int, ...]:
    return tuple(weight.data_ptr() for weight in model.parameters())

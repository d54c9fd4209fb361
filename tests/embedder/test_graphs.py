"""Recorded forwards: all but CUDA's own recording, which a recorder that computes again in the same memory stands for.

Recorded, attention runs in Triton's interpreter, from the tables that a graph would read; plainly, in torch.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest
import torch
from torch import Tensor

from decant.embedder import Encoder, graphs
from decant.embedder.graphs import Replays, cannot_record
from decant.embedder.measuring import random_ids
from decant.kernels.attention import PackedLayout
from decant.kernels.attention.fixed import FixedTables
from decant.kernels.attention.ragged import Ragged
from decant.kernels.dispatch import KernelError

BATCHES = [[5], [12], [3, 9], [16], [1], [7, 7, 1, 1], [15, 1]]


class Recorder:
    """Computes once, and again into the same memory at each replay."""

    def __init__(self, spoil: float = 0.0) -> None:
        self.recorded = self.replayed = 0
        self.spoil = spoil

    def __call__(self, compute: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
        self.recorded += 1
        hidden = compute()

        def replay() -> None:
            self.replayed += 1
            hidden.copy_(compute())
            hidden[:, 0] += self.spoil

        return replay, hidden


@pytest.fixture
def encoder(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> Encoder:
    monkeypatch.setattr(graphs, "MOST_TEXTS", 6)  # the interpreter takes its time for each empty tile
    return Encoder.load(tiny_model, device="cpu", dtype="float32", verify=False)


def replays_of(encoder: Encoder, recorder: Recorder) -> Replays:
    return Replays(encoder.backbone.model, encoder.backbone._states, record=recorder)


def batch_of(encoder: Encoder, lengths: list[int]) -> tuple[Tensor, PackedLayout]:
    return torch.cat(random_ids(encoder, tuple(lengths))), encoder.backbone.layout(lengths)


@torch.inference_mode()
def test_replays_give_what_plain_forwards_give(encoder: Encoder) -> None:
    recorder = Recorder()
    replays = replays_of(encoder, recorder)
    for lengths in [[4], *BATCHES, *BATCHES]:
        ids, layout = batch_of(encoder, lengths)
        made, plain = replays(ids, layout), encoder.backbone(ids, layout)
        if made is not None:
            torch.testing.assert_close(made, plain, rtol=1e-5, atol=1e-5)
    # All of up to 16 tokens share one graph; the first call is computed plainly, the second recorded and proved.
    assert (recorder.recorded, recorder.replayed) == (1, 2 * len(BATCHES) + 1)


@torch.inference_mode()
def test_sizes_and_masks_have_graphs_of_their_own(encoder: Encoder) -> None:
    recorder = Recorder()
    replays = replays_of(encoder, recorder)
    for lengths in ([10], [30], [17]):
        ids, _ = batch_of(encoder, lengths)
        for causal in (False, True):
            own = PackedLayout.from_lengths(lengths, causal=causal)
            results = [replays(ids, own) for _ in range(2)]
            plain = encoder.backbone(ids, own)
            made = results[-1]
            assert made is not None
            torch.testing.assert_close(made, plain, rtol=1e-5, atol=1e-5)
    assert recorder.recorded == 4  # of 16 and of 32 tokens


@torch.inference_mode()
def test_a_result_is_the_callers_own(encoder: Encoder) -> None:
    replays = replays_of(encoder, Recorder())
    first, layout = batch_of(encoder, [9])
    replays(first, layout)
    kept = replays(first, layout)
    assert kept is not None
    before = kept.clone()
    other, layout = batch_of(encoder, [6])
    replays(other, layout)
    assert torch.equal(kept, before)


@torch.inference_mode()
def test_what_is_large_or_listened_to_is_computed_plainly(encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = Recorder()
    replays = replays_of(encoder, recorder)
    ids, layout = batch_of(encoder, [9])
    handle = encoder.backbone.model.layers[0].register_forward_hook(lambda *call: None)
    assert [replays(ids, layout) for _ in range(3)] == [None] * 3
    handle.remove()
    traced = PackedLayout.from_lengths([9], causal=False, trace=[])
    assert [replays(ids, traced) for _ in range(3)] == [None] * 3
    monkeypatch.setattr(graphs, "MOST_TOKENS", 8)
    assert [replays(ids, layout) for _ in range(3)] == [None] * 3
    monkeypatch.setattr(graphs, "MOST_TOKENS", 512)
    monkeypatch.setattr(graphs, "MOST_TEXTS", 1)
    assert [replays(ids, layout) for _ in range(3)] == [None] * 3
    assert not recorder.recorded


def test_training_is_computed_plainly(encoder: Encoder) -> None:
    replays = replays_of(encoder, Recorder())
    ids, layout = batch_of(encoder, [9])
    assert [replays(ids, layout) for _ in range(3)] == [None] * 3


@torch.inference_mode()
def test_other_weights_are_recorded_anew(encoder: Encoder) -> None:
    recorder = Recorder()
    replays = replays_of(encoder, recorder)
    ids, layout = batch_of(encoder, [9])
    for _ in range(3):
        replays(ids, layout)
    layer: Any = encoder.backbone.model.layers[0].mlp.down_proj
    layer.weight = torch.nn.Parameter(layer.weight * 2, requires_grad=False)
    made = replays(ids, layout)
    assert made is not None and recorder.recorded == 2
    torch.testing.assert_close(made, encoder.backbone(ids, layout), rtol=1e-5, atol=1e-5)


@torch.inference_mode()
def test_a_graph_that_computes_something_else_is_refused(encoder: Encoder) -> None:
    replays = replays_of(encoder, Recorder(spoil=50.0))
    ids, layout = batch_of(encoder, [9])
    replays(ids, layout)
    with pytest.raises(KernelError, match="gives other states"):
        replays(ids, layout)


def test_cuda_records_on_the_models_device_and_leaves_other_threads_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = MagicMock()
    for name in ("graph_pool_handle", "Stream", "stream", "current_stream", "CUDAGraph", "graph"):
        monkeypatch.setattr(torch.cuda, name, getattr(cuda, name))
    recorder = graphs._Cuda(torch.device("cuda", 1))
    _, hidden = recorder(lambda: torch.ones(3, 2))
    cuda.Stream.assert_called_once_with(torch.device("cuda", 1))
    cuda.stream.assert_called_once_with(cuda.Stream())
    options = cuda.graph.call_args.kwargs
    assert options["stream"] is cuda.Stream() and options["capture_error_mode"] == "thread_local"
    assert hidden.shape == (3, 2)


@torch.inference_mode()
def test_without_the_kernel_nothing_can_be_recorded(encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    replays = replays_of(encoder, Recorder())
    ids, layout = batch_of(encoder, [9])
    replays(ids, layout)
    with pytest.raises(KernelError, match="cannot be recorded: the triton implementation of attention cannot run"):
        replays(ids, layout)


def test_graphs_run_only_where_asked_for_and_say_why_they_cannot(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert Encoder.load(tiny_model, device="cpu", dtype="float32").backbone._replays is None
    monkeypatch.setenv("DECANT_KERNELS", "forward=graph")
    with pytest.raises(KernelError, match="graph implementation of forward cannot run: attention runs in torch"):
        Encoder.load(tiny_model, device="cpu", dtype="float32")
    assert cannot_record("packed", "triton", {"default"}) is None
    assert "batch by batch" in str(cannot_record("packed", "torch", set()))
    assert "dynamic" in str(cannot_record("packed", "triton", {"default", "dynamic"}))
    assert "equal length" in str(cannot_record("equal-length", "triton", set()))


def test_fixed_tables_stay_in_place_and_describe_each_batch() -> None:
    tables = FixedTables([5, 11], 6, torch.device("cpu"))
    held, bounds = tables.tiles("queries", 4), tables.bounds("queries")
    for lengths in ([16], [1, 2, 3, 4, 5, 1], [15, 1]):
        tables.load(lengths)
        expected = Ragged(lengths, lengths, torch.device("cpu"))
        assert tables.tiles("queries", 4) is held and tables.bounds("queries")[0] is bounds[0]
        found = expected.tiles("queries", 4)
        assert torch.equal(held[: len(found)], found) and not held[len(found) :].any()
        assert all(torch.equal(a, b) for a, b in zip(bounds, expected.bounds("queries"), strict=True))
    for lengths in ([15], [10, 1, 1, 1, 1, 1, 1]):
        with pytest.raises(ValueError, match="made for 16 tokens"):
            tables.load(lengths)

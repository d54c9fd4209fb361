"""Batches at once: the same vectors in the same order, and nothing left behind."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import nn

from decant.embedder import Encoder, EncoderSpec
from decant.embedder.parallel import in_parallel


@pytest.fixture
def four_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def encoder(tiny_model) -> Encoder:
    return Encoder.load(tiny_model, dtype="float32", device="cpu", spec=EncoderSpec(max_tokens=64), verify=False)


TEXTS = [f"Text number {i} speaks of thing {i * i} " * (1 + i % 5) for i in range(200)]


def threads_elsewhere() -> int:
    """What a thread that is new computes with."""
    found: list[int] = []
    thread = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    return found[0]


def computing() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("decant-batch")]


@pytest.mark.usefixtures("four_threads")
def test_results_come_in_order_from_threads_of_their_own():
    both = threading.Barrier(2)

    def work(number: int) -> tuple[int, str, int]:
        if number < 2:
            both.wait(10)  # passes only where two are worked on at once
        return number, threading.current_thread().name, torch.get_num_threads()

    results = list(in_parallel(work, range(9), 2))
    assert [number for number, *_ in results] == list(range(9))
    assert {threads for *_, threads in results} == {2}
    assert threading.current_thread().name not in {name for _, name, _ in results}
    assert torch.get_num_threads() == threads_elsewhere() == 4
    assert not computing()


@pytest.mark.usefixtures("four_threads")
@pytest.mark.parametrize("at_once", [0, 1])
def test_one_at_a_time_is_the_callers_own_work(at_once):
    here = threading.current_thread()
    assert list(in_parallel(lambda _: threading.current_thread() is here, "abc", at_once)) == [True] * 3


@pytest.mark.usefixtures("four_threads")
@pytest.mark.parametrize("broken", [0, 3, 8])
def test_an_error_reaches_the_caller_and_ends_the_rest(broken):
    def work(number: int) -> int:
        if number == broken:
            raise MemoryError("no room")
        return number

    found: list[int] = []
    with pytest.raises(MemoryError, match="no room"):
        found.extend(in_parallel(work, range(9), 3))
    assert found == list(range(broken))
    assert not computing()
    assert torch.get_num_threads() == threads_elsewhere() == 4


@pytest.mark.usefixtures("four_threads")
def test_who_stops_early_takes_little_more():
    taken: list[int] = []

    def items() -> Iterator[int]:
        for number in range(1000):
            taken.append(number)
            yield number

    results = in_parallel(lambda number: number, items(), 2)
    assert next(results) == 0
    results.close()
    assert len(taken) <= 5
    assert not computing()


@pytest.mark.usefixtures("four_threads")
@pytest.mark.parametrize("batch_tokens", [None, 600])
def test_vectors_are_the_same_to_the_last_bit(encoder, batch_tokens, monkeypatch):
    names: set[str] = set()
    forward = type(encoder.backbone).__call__

    def watched(*args: object) -> torch.Tensor:
        names.add(threading.current_thread().name)
        return forward(*args)

    monkeypatch.setattr(type(encoder.backbone), "__call__", watched)
    many = encoder.encode(TEXTS, batch_tokens=batch_tokens)
    assert len(names) == 4
    assert threading.current_thread().name not in names
    torch.set_num_threads(1)
    names.clear()
    one = encoder.encode(TEXTS, batch_tokens=batch_tokens)
    assert names == {threading.current_thread().name}
    assert np.array_equal(many.dense, one.dense)
    assert np.array_equal(many.tokens, one.tokens)


@pytest.mark.usefixtures("four_threads")
def test_few_tokens_and_layers_that_somebody_listens_to_are_not_divided(encoder):
    assert encoder.backbone.batches_at_once(10_000) == 4
    assert encoder.backbone.batches_at_once(1_100) == 2
    assert encoder.backbone.batches_at_once(100) == encoder.backbone.batches_at_once(0) == 1
    layer = next(module for module in encoder.backbone.model.modules() if isinstance(module, nn.Linear))
    handle = layer.register_forward_hook(lambda *_: None)
    assert encoder.backbone.batches_at_once(10_000) == 1
    handle.remove()
    assert encoder.backbone.batches_at_once(10_000) == 4


@pytest.mark.usefixtures("four_threads")
def test_layers_that_were_not_prepared_are_not_divided(tiny_experts):
    experts = Encoder.load(tiny_experts, dtype="float32", device="cpu", spec=EncoderSpec(max_tokens=64), verify=False)
    assert experts.backbone.batches_at_once(10_000) == 1

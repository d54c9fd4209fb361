"""The context cache: right states, told hits, nothing across tenants or models, nothing corrupt."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import ks_2samp

from decant.embedder import Encoder, EncoderSpec
from decant.index import Chunk, Store
from decant.index.testing import indexed
from decant.rag.context_cache import ContextCache, cache_context
from decant.rag.states import States, encode_states

TEXT = "The Rhine flows from the Alps.\nIt reaches the North Sea.\nÉvian 😀 is bottled in France.\n"


def chunk(i: int, text: str = "") -> Chunk:
    text = text or f"passage {i}"
    return Chunk("doc", i, 0, len(text), text)


class Work:
    """Makes states from letters, slowly where asked to, and counts."""

    def __init__(self, seconds: float = 0.0, width: int = 8) -> None:
        self.texts: list[str] = []
        self.seconds, self.width = seconds, width

    def __call__(self, texts: Sequence[str]) -> list[States]:
        self.texts += texts
        end = time.perf_counter() + self.seconds * len(texts)
        while time.perf_counter() < end:
            pass
        return [self.states(text) for text in texts]

    def states(self, text: str) -> States:
        ids = np.frombuffer(text.encode(), np.uint8).astype(np.int32)
        places = np.arange(len(ids), dtype=np.int32)
        hidden = np.random.default_rng(len(text)).standard_normal((len(ids), self.width)).astype(np.float16)
        return States(ids, np.stack([places, places + 1], 1), hidden)


@pytest.fixture(scope="module")
def encoder(tiny_model: Path) -> Encoder:
    return Encoder.load(tiny_model, dtype="float32", spec=EncoderSpec(max_tokens=64), verify=False)


@pytest.fixture
def real_store(tmp_path: Path, encoder: Encoder):
    with Store.open(tmp_path / "store", encoder=encoder, create=True) as store:
        store.replace([indexed("a", TEXT, encoder), indexed("b", "Copper turns green.\n", encoder)])
        yield store


def same(one: States, other: States) -> bool:
    return all(np.array_equal(getattr(one, part), getattr(other, part)) for part in ("ids", "offsets", "hidden"))


def test_states_are_the_encoders_own_and_have_their_place_in_the_text(encoder):
    texts = ["The Rhine flows.", "Évian 😀 is bottled", "x " * 200]
    for text, states in zip(texts, encode_states(encoder, texts), strict=True):
        assert len(states) == len(states.hidden) == len(states.offsets)
        covered = {i for start, end in states.offsets for i in range(start, end)}
        read = int(states.offsets[-1, 1])
        assert all(i in covered for i, letter in enumerate(text[:read]) if not letter.isspace())
        assert read == len(text) or len(states) == 64
        vector = states.hidden.astype(np.float32).mean(0)
        dense = encoder.encode([text]).dense[0]
        np.testing.assert_allclose(vector / np.linalg.norm(vector), dense, atol=2e-3)


def test_states_of_many_passages_are_those_of_each(encoder):
    texts = [f"Passage {i} speaks of {'many ' * (i % 7)}things." for i in range(80)]
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        assert encoder.backbone.batches_at_once(sum(map(len, texts))) > 1
        many = encode_states(encoder, texts)
    finally:
        torch.set_num_threads(before)
    for text, own in zip(texts, many, strict=True):
        [alone] = encode_states(encoder, [text])
        assert np.array_equal(own.ids, alone.ids)
        assert np.array_equal(own.offsets, alone.offsets)
        assert np.array_equal(own.hidden, alone.hidden)


def test_hits_are_counted_and_equal_what_was_computed():
    work = Work()
    cache = ContextCache(work, "m")
    first, cached = cache.get([chunk(1), chunk(2)])
    assert cached == 0
    again, cached = cache.get([chunk(2), chunk(1), chunk(3)])
    assert same(again[0], first[1])
    assert same(again[1], first[0])
    assert cached == len(first[0]) + len(first[1])
    count = cache.counters
    assert (count.hits, count.misses, count.cached_tokens) == (2, 3, cached)
    assert count.bytes == sum(row.nbytes for row in again)


def test_the_same_passage_twice_is_encoded_once():
    work = Work()
    ContextCache(work, "m").get([chunk(1), chunk(1)])
    assert work.texts == ["passage 1"]


def test_memory_stays_within_its_budget_and_the_least_used_goes_first():
    work = Work()
    size = work.states("passage 1").nbytes
    cache = ContextCache(work, "m", budget_bytes=2 * size)
    for i in (1, 2, 1, 3, 1, 2):
        cache.get([chunk(i)])
        assert cache.counters.bytes <= 2 * size
    assert work.texts == [f"passage {i}" for i in (1, 2, 3, 2)]
    assert cache.counters.evictions == 2


def test_a_passage_larger_than_the_budget_is_served_and_not_kept():
    cache = ContextCache(Work(), "m", budget_bytes=10)
    [row], _ = cache.get([chunk(1)])
    assert len(row) == 9
    assert cache.counters.bytes == 0


@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_what_indexing_cached_is_read_from_disk(real_store, encoder, dtype):
    assert cache_context(real_store, encoder, dtype=dtype) == 4
    assert cache_context(real_store, encoder, dtype=dtype) == 0
    cache = ContextCache.of(real_store, encoder)
    chunks = real_store.chunks("a")
    rows, cached = cache.get(chunks)
    assert cached == sum(map(len, rows)) > 0
    assert (cache.counters.disk_hits, cache.counters.misses) == (3, 0)
    for row, fresh in zip(rows, encode_states(encoder, [c.text for c in chunks]), strict=True):
        assert np.array_equal(row.ids, fresh.ids)
        spread = np.abs(fresh.hidden.astype(np.float32)).max()
        tolerance = 0 if dtype == "float16" else spread / 127
        np.testing.assert_allclose(row.hidden.astype(np.float32), fresh.hidden.astype(np.float32), atol=tolerance)


def test_what_was_deleted_is_forgotten_and_what_changed_encoded(real_store, encoder):
    cache_context(real_store, encoder)
    real_store.delete(["a"])
    assert cache_context(real_store, encoder) == 1
    files = list((real_store.root / "context").rglob("*.safetensors"))
    assert len(files) == 1
    real_store.replace([indexed("b", "Copper turns brown.\n", encoder)])
    assert cache_context(real_store, encoder) == 1


def test_corrupt_rows_are_counted_computed_again_and_never_used(real_store, encoder):
    cache_context(real_store, encoder)
    [file] = (real_store.root / "context").rglob("*.safetensors")
    data = bytearray(file.read_bytes())
    for place in range(len(data) - 300, len(data)):
        data[place] ^= 0xFF
    file.write_bytes(data)
    cache = ContextCache.of(real_store, encoder)
    chunks = [*real_store.chunks("a"), *real_store.chunks("b")]
    rows, _ = cache.get(chunks)
    assert cache.counters.corrupt >= 1
    assert cache.counters.corrupt == cache.counters.misses
    for row, fresh in zip(rows, encode_states(encoder, [c.text for c in chunks]), strict=True):
        assert same(row, fresh)
    assert cache_context(real_store, encoder) == 4
    assert ContextCache.of(real_store, encoder).get(chunks)[1] > 0


def test_a_file_that_is_none_is_passed_over(real_store, encoder):
    cache_context(real_store, encoder)
    [file] = (real_store.root / "context").rglob("*.safetensors")
    file.write_bytes(file.read_bytes()[:100])
    cache = ContextCache.of(real_store, encoder)
    cache.get(real_store.chunks("a"))
    assert (cache.counters.corrupt, cache.counters.misses) == (1, 3)


def test_another_models_rows_are_never_seen(real_store, encoder):
    cache_context(real_store, encoder)
    folder = real_store.root / "context"
    other = ContextCache(lambda texts: encode_states(encoder, texts), "another model", folder=folder)
    other.get(real_store.chunks("a"))
    assert (other.counters.hits, other.counters.misses) == (0, 3)


def seconds(cache: ContextCache, tenant: str, i: int) -> float:
    began = time.perf_counter()
    cache.get([chunk(i)], tenant)
    return time.perf_counter() - began


def test_timing_tells_hits_within_a_tenant_and_nothing_across_tenants():
    """The prompt-cache audit of arXiv 2502.07776: times of what the victim asked and did not."""
    cache = ContextCache(Work(seconds=2e-4), "m")
    count = 100
    order = np.random.default_rng(0).permutation(2 * count).tolist()
    for i in range(count):
        cache.get([chunk(i)], "victim")
    within = [seconds(cache, "victim", i) for i in order]
    across = [seconds(cache, "attacker", i) for i in order]
    asked = np.array(order) < count

    def p_value(times: list[float]) -> float:
        """How likely such times are if what the victim asked is not answered faster."""
        values = np.array(times)
        return float(ks_2samp(values[asked], values[~asked], alternative="greater").pvalue)

    assert p_value(within) < 1e-8
    assert p_value(across) > 1e-5

"""RARe: examples retrieved for each query, to the byte; documents stay as they are."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from decant.embedder import Encoder, EncoderSpec, InputError, ModelError
from decant.embedder.examples import read_examples
from decant.embedder.prompts import apply_rule
from decant.embedder.spec import ExampleSpec
from decant.embedder.verify import verify_encoder

PAIRS = [
    ("what is a river", "A river carries water."),
    ("who met on tuesday", "The committee met."),
    ("how long is a river", "Some rivers are long."),
    ("budget of the committee", "Three hours of budget."),
    ("which river is the longest river", "The longest river."),
]
TASK = "Find it"


@pytest.fixture
def examples_file(tmp_path: Path) -> Path:
    file = tmp_path / "examples.jsonl"
    file.write_text("".join(json.dumps({"query": q, "positive": p}) + "\n" for q, p in PAIRS))
    return file


@pytest.fixture
def rare(new_model: Callable[..., Path], examples_file: Path) -> Callable[..., Encoder]:
    def make(count: int = 2, search: str = "bm25", max_tokens: int = 512) -> Encoder:
        folder = new_model("llama", "metaspace", name=f"m{count}{search}{max_tokens}", max_position_embeddings=512)
        spec = apply_rule("rare", EncoderSpec(max_tokens=max_tokens))
        spec = replace(spec, retrieved_examples=ExampleSpec(count, search))
        return Encoder.load(folder, dtype="float32", spec=spec, examples=examples_file)

    return make


def test_queries_get_their_examples_nearest_last(rare: Callable[..., Encoder]) -> None:
    encoder = rare()
    query = "how long is the longest river"
    found = encoder.example_index.for_query(query)
    assert found == [PAIRS[2], PAIRS[4]] or found == [PAIRS[4], PAIRS[2]]
    written = (
        "Instruct: Find it\n" + "".join(f"Query: {q}\nPositive Document: {p}\n\n" for q, p in found) + f"Query: {query}"
    )
    got = encoder.encode([query], kind="query", instruction=TASK).dense
    plain = encoder.encode([query], kind="query", instruction=TASK, examples=found).dense
    assert np.array_equal(got, plain)
    wrapped = encoder.spec.template("query", TASK, found).wrap(query)
    assert wrapped == written
    assert np.array_equal(encoder.tokenize([query], "query", TASK).ids[0], encoder.text_tokenizer([written], "").ids[0])


def test_a_query_is_no_example_of_its_own(rare: Callable[..., Encoder]) -> None:
    index = rare(count=5).example_index
    found = index.for_query(PAIRS[2][0])
    assert PAIRS[2] not in found and found[-1][0].count("river")
    assert index.for_query("zebra") == []  # nothing shares a word with it


def test_documents_and_rows_are_each_their_own(rare: Callable[..., Encoder]) -> None:
    encoder = rare()
    texts = ["how long is a river", "the committee budget", "zebra"]
    bare = encoder.text_tokenizer(texts, "")
    documents = encoder.tokenize(texts, "document")
    assert all(np.array_equal(a, b) for a, b in zip(documents.ids, bare.ids, strict=True))
    together = encoder.encode(texts, kind="query").dense
    alone = np.concatenate([encoder.encode([text], kind="query").dense for text in texts])
    assert np.abs(together - alone).max() <= 1e-6
    assert [m for m in verify_encoder(encoder) if not m.passed] == []


def test_dense_search_finds_by_the_models_vectors(rare: Callable[..., Encoder]) -> None:
    encoder = rare(count=2, search="dense")
    vectors = encoder._without_examples([q for q, _ in PAIRS])
    own = encoder._without_examples(["a river"])[0]
    nearest = [PAIRS[i] for i in np.argsort(-(vectors @ own))[:2]]
    assert encoder.example_index.for_query("a river") == nearest[::-1]


def test_examples_that_do_not_fit_are_left_out_farthest_first(rare: Callable[..., Encoder]) -> None:
    query = "how long is the longest river"
    whole = rare(count=3)
    found = whole.example_index.for_query(query)
    wrapped = [whole.spec.template("query", TASK, found[n:]).wrap(query) for n in range(3)]
    lengths = [len(whole.text_tokenizer([text], "").ids[0]) for text in wrapped]
    tight = rare(count=3, max_tokens=lengths[1] + 3)
    result = tight.encode([query], kind="query", instruction=TASK)
    assert not result.truncated[0] and result.tokens[0] == lengths[1]


def test_saved_and_loaded_again(rare: Callable[..., Encoder], tmp_path: Path) -> None:
    encoder = rare()
    encoder.save(tmp_path / "saved")
    again = Encoder.load(tmp_path / "saved", dtype="float32")
    texts = ["how long is a river", "zebra"]
    assert np.array_equal(again.encode(texts, kind="query").dense, encoder.encode(texts, kind="query").dense)
    before = again.fingerprint
    (tmp_path / "saved/examples.jsonl").write_text('{"query": "other", "positive": "words"}\n')
    assert Encoder.load(tmp_path / "saved", dtype="float32").fingerprint != before
    (tmp_path / "saved/examples.jsonl").unlink()
    with pytest.raises(ModelError, match=r"has no examples.jsonl: give them with examples="):
        Encoder.load(tmp_path / "saved")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "holds no examples"),
        ("no json\n", "line 1 is not JSON"),
        ('{"query": "a", "positive": "b"}\n{"query": "a", "positive": " "}\n', "line 2 has no text in 'positive'"),
        ('{"positive": "b"}\n', "line 1 has no text in 'query'"),
    ],
)
def test_broken_examples_are_named(content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "bad.jsonl").write_text(content)
    with pytest.raises(InputError, match=message):
        read_examples(tmp_path / "bad.jsonl")


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(ModelError, match="no prompt has a place for them"):
        EncoderSpec(retrieved_examples=ExampleSpec())
    with pytest.raises(ModelError, match="unknown example search 'exact'"):
        ExampleSpec(search="exact")
    with pytest.raises(ModelError, match="at least 1 example, not 0"):
        ExampleSpec(count=0)

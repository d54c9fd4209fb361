"""Prompt rules to the byte, few-shot examples, and what a template around a text promises."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

from decant.embedder import Encoder, EncoderSpec, InputError, ModelError
from decant.embedder.prompts import RULES, apply_rule
from decant.embedder.template import Template, parse

WEB = "Given a web search query, retrieve relevant passages that answer the query"

# name, kind, instruction, the exact string around the text "T"
GOLDEN = [
    ("e5-mistral", "query", None, f"Instruct: {WEB}\nQuery: T"),
    ("e5-mistral", "document", None, "T"),
    ("qwen3-embedding", "query", None, f"Instruct: {WEB}\nQuery:T"),
    ("qwen3-embedding", "document", None, "T"),
    ("nv-embed", "query", "Find it", "Instruct: Find it\nQuery: T"),
    ("nv-embed", "query", "", "T"),
    ("nv-embed", "document", None, "T"),
    ("llama-embed-nemotron", "query", "Find it", "Instruct: Find it\nQuery: T"),
    ("nemotron-3-embed", "query", None, "query: T"),
    ("nemotron-3-embed", "document", None, "passage: T"),
    ("embeddinggemma", "query", None, "task: search result | query: T"),
    ("embeddinggemma", "query", "code retrieval", "task: code retrieval | query: T"),
    ("embeddinggemma", "document", None, "title: none | text: T"),
    ("bge-en-icl", "query", "Find it", "<instruct>Find it\n<query>T\n<response>"),
    ("bge-en-icl", "document", None, "T"),
    ("gritlm", "query", "Find it", "<|user|>\nFind it\n<|embed|>\nT"),
    ("gritlm", "query", None, "<|embed|>\nT"),
    ("gritlm", "document", None, "<|embed|>\nT"),
    ("echo", "query", "Find it", "Instruct:Find it,\nQuery:T\nQuery again:T"),
    ("echo", "document", None, "Document:T\nDocument again:T"),
    ("prompt-eol", "document", None, 'This sentence : "T" means in one word:"'),
]
SHOTS = (("q1", "p1"), ("q2", "p2"))


@pytest.mark.parametrize(("name", "kind", "instruction", "expected"), GOLDEN)
def test_rule_to_the_byte(name: str, kind: str, instruction: str | None, expected: str) -> None:
    spec = apply_rule(name, EncoderSpec())
    assert spec.template(kind, instruction).wrap("T").encode() == expected.encode()


def test_every_rule_is_pinned() -> None:
    assert {name for name, *_ in GOLDEN} | {"rare"} == set(RULES)


def test_few_shot_examples_to_the_byte() -> None:
    bge = apply_rule("bge-en-icl", EncoderSpec()).template("query", "Find it", SHOTS)
    assert bge.wrap("T") == (
        "<instruct>Find it\n<query>q1\n<response>p1\n\n<instruct>Find it\n<query>q2\n<response>p2\n\n"
        "<instruct>Find it\n<query>T\n<response>"
    )
    rare = apply_rule("rare", EncoderSpec()).template("query", "Find it", SHOTS)
    assert rare.wrap("T") == (
        "Instruct: Find it\nQuery: q1\nPositive Document: p1\n\nQuery: q2\nPositive Document: p2\n\nQuery: T"
    )


def test_examples_are_for_queries_only() -> None:
    spec = apply_rule("bge-en-icl", EncoderSpec())
    with pytest.raises(InputError, match="document prompt takes no examples"):
        spec.template("document", None, SHOTS)
    with pytest.raises(InputError, match="query prompt takes no examples"):
        EncoderSpec().template("query", None, SHOTS)


def test_braces_in_what_is_filled_in_are_no_slots() -> None:
    spec = apply_rule("bge-en-icl", EncoderSpec())
    around = spec.template("query", "Return {text} or {passage}", [("{instruction}", "{text} {x}")])
    assert around.wrap("{examples}") == (
        "<instruct>Return {text} or {passage}\n<query>{instruction}\n<response>{text} {x}\n\n"
        "<instruct>Return {text} or {passage}\n<query>{examples}\n<response>"
    )
    assert parse("{other} {text}{}", {}).wrap("T") == "{other} T{}"


def test_rules_keep_lower_limits_and_the_layers_behind() -> None:
    spec = EncoderSpec(max_tokens=100, dimensions=(8,))
    assert apply_rule("e5-mistral", spec).max_tokens == 100
    assert apply_rule("e5-mistral", replace(spec, max_tokens=9999)).max_tokens == 4096
    assert apply_rule("e5-mistral", spec).dimensions == (8,)
    with pytest.raises(InputError, match="unknown prompt rule 'e5': choose from bge-en-icl"):
        apply_rule("e5", spec)


def test_specs_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ModelError, match="repeats the text"):
        EncoderSpec(prompts={"query": "{text} {text}"})
    with pytest.raises(ModelError, match="say in `example`"):
        EncoderSpec(prompts={"query": "{examples}"})
    with pytest.raises(ModelError, match="bare prompts for title"):
        EncoderSpec(bare_prompts={"title": ""})


@pytest.mark.parametrize("name", RULES)
def test_spec_of_every_rule_survives_json(name: str) -> None:
    spec = apply_rule(name, EncoderSpec())
    assert EncoderSpec.from_json(spec.to_json()) == spec


@pytest.fixture
def causal(encoder_of: Callable[..., Encoder]) -> Callable[..., Encoder]:
    def make(name: str, tokenizer: str = "byte", **changes: object) -> Encoder:
        spec = replace(apply_rule(name, EncoderSpec(max_tokens=64)), **changes)
        return encoder_of(spec, "llama", tokenizer)

    return make


class TestAroundAText:
    @pytest.mark.parametrize("tokenizer", ["byte", "metaspace", "byte-eos"])
    def test_suffix_survives_truncation(self, tokenizer: str, causal: Callable[..., Encoder]) -> None:
        encoder = causal("prompt-eol", tokenizer)
        texts = ["word " * n for n in (1, 20, 200, 2000)]
        result = encoder.text_tokenizer(texts, encoder.spec.template("document"))
        assert result.truncated.tolist() == [False, False, True, True]
        for text, ids in zip(texts, result.ids, strict=True):
            assert len(ids) <= 64
            written = encoder.tokenizer.decode(ids.tolist())
            # One of the tokenizers knows no quotation mark.
            bare = written.replace(" ", "").replace('"', "").removesuffix("<eos>")
            assert bare.endswith("meansinoneword:"), f"{text[:20]!r} became {written!r}"
        assert min(len(ids) for ids in result.ids[2:]) > 55, "no more is cut than has to be"

    def test_cut_inside_a_character_is_none(self, causal: Callable[..., Encoder]) -> None:
        encoder = causal("prompt-eol")
        for count in range(5, 30):
            (ids,) = encoder.text_tokenizer(["a" * count + "😀" * 40], encoder.spec.template("document")).ids
            assert "\ufffd" not in encoder.tokenizer.decode(ids.tolist())

    def test_prompt_that_leaves_no_room_is_refused(self, causal: Callable[..., Encoder]) -> None:
        encoder = causal("prompt-eol", max_tokens=20)
        with pytest.raises(InputError, match="text 0 is cut off: the prompt fills all 20 tokens"):
            encoder.encode(["word"])

    def test_too_long_is_refused_on_demand(self, causal: Callable[..., Encoder]) -> None:
        with pytest.raises(InputError, match="text 1 has .* tokens, the model takes 64"):
            causal("prompt-eol").encode(["a", "word " * 100], truncate="error")

    @pytest.mark.parametrize("tokenizer", ["byte", "metaspace", "wordpiece"])
    @pytest.mark.parametrize("text", ["sea", "Rivers carry water", "a b"])
    def test_echo_pools_the_second_copy(self, tokenizer: str, text: str, causal: Callable[..., Encoder]) -> None:
        encoder = causal("echo", tokenizer)
        template = encoder.spec.template("document")
        result = encoder.text_tokenizer([text], template)
        encoding = encoder.tokenizer.encode(template.wrap(text))
        start, _ = encoding.offsets[result.pool_from[0]]
        assert template.wrap(text)[start:].lstrip() == text
        assert result.ids[0][-1] == 2, "EOS closes it and is pooled"

    def test_echo_cuts_both_copies_alike(self, causal: Callable[..., Encoder]) -> None:
        encoder = causal("echo")
        result = encoder.text_tokenizer(["river water " * 50], encoder.spec.template("document"))
        assert result.truncated.tolist() == [True]
        assert 60 <= len(result.ids[0]) <= 64
        first, second = encoder.tokenizer.decode(result.ids[0][:-1].tolist()).split("\nDocument again:")
        assert first == f"Document:{second}"

    def test_echo_lets_every_pooled_state_see_the_whole_text(self, causal: Callable[..., Encoder]) -> None:
        """Only the last word differs; under a causal mask the first word's state in the second copy must differ."""
        encoder = causal("echo")
        template = encoder.spec.template("document")
        import torch

        states = []
        for text in ("rivers carry a", "rivers carry b"):
            tokens = encoder.text_tokenizer([text], template)
            layout = encoder.backbone.layout([len(tokens.ids[0])])
            with torch.inference_mode():
                states.append(encoder.backbone(torch.from_numpy(tokens.ids[0]).long(), layout)[tokens.pool_from[0]])
        assert (states[0] - states[1]).abs().max() > 1e-3

    def test_examples_reach_the_vector(self, causal: Callable[..., Encoder]) -> None:
        encoder = causal("rare")
        plain = encoder.encode(["a"], kind="query", instruction="x").dense
        shots = encoder.encode(["a"], kind="query", instruction="x", examples=[("b", "c")]).dense
        assert plain is not None and shots is not None
        assert np.abs(plain - shots).max() > 1e-3
        with pytest.raises(InputError, match="takes no examples"):
            encoder.encode(["a"], examples=[("b", "c")])

    def test_plain_prefix_is_no_template(self) -> None:
        assert Template(("query: ", "")).is_prefix
        assert parse("query: {text}", {}) == parse("query: ", {})


class TestSavingForOthers:
    """A prompt that is not pooled ends at its last token; sentence-transformers finds that by counting."""

    @pytest.mark.parametrize(
        ("prompt", "span", "pooling", "plain"),
        [
            ("query:", "offsets", "mean", True),
            ("query: ", "offsets", "mean", False),  # counted alone, its space would be a token, the first word's
            ("query: ", "tokens", "mean", True),
            ("query: ", "offsets", "last", True),
            ("", "offsets", "mean", True),
            ("", "text", "mean", False),
            ("query: {text} ?", "tokens", "last", False),
        ],
    )
    def test_agrees_or_refuses(
        self, prompt: str, span: str, pooling: str, plain: bool, encoder_of: Callable[..., Encoder], tmp_path: Path
    ) -> None:
        spec = EncoderSpec(
            prompts={"query": prompt},
            include_prompt=False,
            prompt_span=span,  # type: ignore[arg-type]
            pooling=pooling,  # type: ignore[arg-type]
            max_tokens=64,
        )
        encoder = encoder_of(spec, "llama", "byte")
        encoder.save(tmp_path / "saved")
        texts = ["Rivers carry water", "sea"]
        expected = encoder.encode(texts, kind="query").dense
        again = Encoder.load(tmp_path / "saved", dtype="float32").encode(texts, kind="query").dense
        assert np.abs(again - expected).max() <= 1e-6
        if plain:
            model = SentenceTransformer(str(tmp_path / "saved"), device="cpu")
            assert np.abs(model.encode(texts, prompt_name="query") - expected).max() <= 1e-5
        else:
            with pytest.raises(ValueError, match="not part of Sentence Transformers"):
                SentenceTransformer(str(tmp_path / "saved"), device="cpu")

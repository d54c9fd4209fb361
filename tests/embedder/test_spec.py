from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from decant.embedder import EncoderSpec, InputError, ModelError
from decant.embedder.spec import Activation, Attention, DenseSpec, Pooling, PromptSpan, SparseSpec

SPECS = st.builds(
    EncoderSpec,
    attention=st.sampled_from(Attention),
    pooling=st.sampled_from([pooling for pooling in Pooling if pooling is not Pooling.NONE]),
    prompts=st.dictionaries(st.sampled_from(["query", "document", "title"]), st.text(alphabet="ab: é\n", max_size=8)),
    instruction=st.text(max_size=8),
    include_prompt=st.booleans(),
    prompt_span=st.sampled_from([PromptSpan.OFFSETS, PromptSpan.TOKENS]),
    add_special_tokens=st.booleans(),
    append_eos=st.booleans(),
    lowercase=st.booleans(),
    max_tokens=st.integers(1, 10**6),
    dense=st.sampled_from([(), (DenseSpec(8, 4, True, Activation.TANH), DenseSpec(4, 2, False, Activation.GELU))]),
    normalize=st.booleans(),
    dimensions=st.lists(st.integers(1, 4096), max_size=4).map(tuple),
    default_dimension=st.none() | st.integers(1, 64),
)


@given(SPECS)
def test_json_round_trip(spec: EncoderSpec) -> None:
    again = EncoderSpec.from_json(spec.to_json())
    assert again == spec and again.to_json() == spec.to_json()


def test_strings_become_members() -> None:
    spec = EncoderSpec(attention="causal", pooling="last", prompt_span="tokens")  # type: ignore[arg-type]
    assert (spec.attention, spec.pooling) == (Attention.CAUSAL, Pooling.LAST)
    assert DenseSpec(1, 1, True, "gelu").activation is Activation.GELU  # type: ignore[arg-type]


def test_cannot_be_changed() -> None:
    spec = EncoderSpec(prompts={"query": "q: "})
    with pytest.raises(dataclasses.FrozenInstanceError):
        spec.normalize = False  # type: ignore[misc]
    with pytest.raises(TypeError):
        spec.prompts["query"] = "other"  # type: ignore[index]


def test_caller_keeps_his_dictionary() -> None:
    prompts = {"query": "q: "}
    spec = EncoderSpec(prompts=prompts)
    prompts["query"] = "changed"
    assert spec.prompts["query"] == "q: "


@pytest.mark.parametrize(
    ("values", "match"),
    [
        ({"attention": "both"}, "unknown attention 'both': choose from bidirectional, causal"),
        ({"pooling": "sum"}, "unknown pooling 'sum'"),
        ({"prompt_span": "words"}, "unknown prompt span 'words'"),
        ({"max_tokens": 0}, "max_tokens must be at least 1"),
        ({"dimensions": (8, 0)}, "must be positive"),
        ({"dense": (DenseSpec(8, 4, True, Activation.TANH),) * 2}, "gives 4 features, the next one takes 8"),
    ],
)
def test_nonsense_is_refused(values: dict[str, Any], match: str) -> None:
    with pytest.raises(ModelError, match=match) as caught:
        EncoderSpec(**values)
    assert "\n" not in str(caught.value)


def test_empty_dense_layer_is_refused() -> None:
    with pytest.raises(ModelError, match="is empty"):
        DenseSpec(0, 4, True, Activation.TANH)


class TestFromJson:
    @pytest.mark.parametrize("text", ["", "{", "[]", "3", "{}", '{"format": 1}', '{"format": 1, "spec": 3}'])
    def test_other_json(self, text: str) -> None:
        with pytest.raises(ModelError, match=r"decant\.json is not an encoder description"):
            EncoderSpec.from_json(text)

    def test_unknown_keys_are_named(self) -> None:
        document = json.loads(EncoderSpec().to_json())
        document["spec"]["colour"] = "red"
        with pytest.raises(ModelError, match=r"unknown keys \['colour'\]: upgrade Decant or remove them"):
            EncoderSpec.from_json(json.dumps(document))

    def test_newer_format(self) -> None:
        document = json.loads(EncoderSpec().to_json())
        document["format"] += 1
        with pytest.raises(ModelError, match="upgrade Decant"):
            EncoderSpec.from_json(json.dumps(document))

    def test_absent_keys_take_their_defaults(self) -> None:
        assert EncoderSpec.from_json('{"format": 1, "spec": {"pooling": "max"}}') == EncoderSpec(pooling=Pooling.MAX)

    @pytest.mark.parametrize(
        ("key", "value", "message"),
        [
            ("max_tokens", "many", "max_tokens must be a whole number, not 'many'"),
            ("max_tokens", True, "max_tokens must be a whole number, not True"),
            ("normalize", 1, "normalize must be true or false, not 1"),
            ("instruction", None, "instruction must be text, not None"),
            ("dense", [{"in_features": 1}], "dense[0].out_features is missing"),
            ("dense", 3, "dense must be a list, not 3"),
            ("prompts", 3, "prompts must be a mapping, not 3"),
            ("prompts", {"query": 3}, "prompts.query must be text, not 3"),
            ("dimensions", ["a"], "dimensions[0] must be a whole number, not 'a'"),
            ("latent", {"latents": 2, "heads": 1, "hidden_size": 8}, "latent.head_dim is missing"),
            ("latent", 8, "latent must be a mapping, not 8"),
            ("sparse", {"topk": 8}, "sparse.topk is unknown; known keys are top_k, special_tokens, shifted"),
            ("router", {"pooling": 3}, "router.pooling must be text, not 3"),
        ],
    )
    def test_a_value_that_does_not_fit_is_named(self, key: str, value: Any, message: str) -> None:
        with pytest.raises(ModelError) as caught:
            EncoderSpec.from_json(json.dumps({"format": 1, "spec": {key: value}}))
        assert str(caught.value).startswith(f"decant.json: {message}")
        assert "\n" not in str(caught.value)

    def test_a_part_without_values_takes_its_defaults(self) -> None:
        spec = EncoderSpec.from_json('{"format": 1, "spec": {"sparse": {}, "router": null}}')
        assert (spec.sparse, spec.router) == (SparseSpec(), None)


class TestPrompt:
    SPEC = EncoderSpec(prompts={"query": "Instruct: {instruction}\nQuery:", "title": "{x} "}, instruction="find it")

    def test_kinds(self) -> None:
        assert self.SPEC.prompt("query", None) == "Instruct: find it\nQuery:"
        assert self.SPEC.prompt("query", "sort it") == "Instruct: sort it\nQuery:"
        assert self.SPEC.prompt("document", None) == ""

    def test_other_braces_are_text(self) -> None:
        assert self.SPEC.prompt("title", None) == "{x} "

    def test_unknown_kind(self) -> None:
        with pytest.raises(InputError, match="unknown kind 'image': this model knows document, query, title"):
            self.SPEC.prompt("image", None)

    def test_instruction_without_a_place(self) -> None:
        with pytest.raises(InputError, match="document prompt takes no instruction"):
            self.SPEC.prompt("document", "find it")

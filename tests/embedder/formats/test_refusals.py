"""What official folders can get wrong, each named in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import official
import pytest

from decant.embedder import Encoder, EncoderSpec, ModelError, UnsupportedModelError
from decant.embedder.formats.llm2vec import read_spec
from decant.embedder.spec import TextLimit


def load(path: Path, **options: Any) -> Encoder:
    return Encoder.load(path, dtype="float32", **options)


@pytest.fixture(scope="module")
def llm2vec_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("llm2vec")
    official.llm2vec.llm2vec(folder)
    return folder


class TestLLM2Vec:
    @pytest.fixture
    def folder(self, llm2vec_folder: Path) -> Path:
        return llm2vec_folder

    def test_adapter_on_a_plain_decoder_is_not_guessed_at(self, folder: Path) -> None:
        with pytest.raises(UnsupportedModelError, match="names a plain decoder as its base"):
            load(folder / "supervised")

    def test_chain_of_adapters_is_followed(self, folder: Path, tmp_path: Path) -> None:
        chained = tmp_path / "chained"
        chained.mkdir()
        for file in (folder / "supervised").iterdir():
            (chained / file.name).write_bytes(file.read_bytes())
        official.edit_json(chained / "adapter_config.json", {"base_model_name_or_path": str(folder / "mntp")})
        stacked = load(folder / "mntp", adapters=[folder / "supervised"]).encode(list(official.TEXTS)).dense
        assert np.array_equal(load(chained).encode(list(official.TEXTS)).dense, stacked)

    def test_every_adapter_takes_effect(self, folder: Path) -> None:
        spec = load(folder / "mntp", adapters=[folder / "supervised"]).spec
        vectors = [
            load(folder / "base", adapters=[folder / name for name in names], spec=spec).encode(["sea"]).dense
            for names in ((), ("mntp",), ("supervised",), ("mntp", "supervised"))
        ]
        for i, one in enumerate(vectors):
            for other in vectors[:i]:
                assert np.abs(one - other).max() > 1e-3

    def test_what_is_no_adapter_is_refused(self, folder: Path) -> None:
        with pytest.raises(ModelError, match="is no adapter"):
            load(folder / "mntp", adapters=[folder / "base"])

    def test_adapter_that_leads_back_to_itself_is_refused(self, folder: Path, tmp_path: Path) -> None:
        for name, base in (("a", "b"), ("b", "a")):
            (tmp_path / name).mkdir()
            official.edit_json(
                tmp_path / name / "adapter_config.json", {"base_model_name_or_path": str(tmp_path / base)}
            )
        with pytest.raises(ModelError, match="leads back to itself"):
            load(tmp_path / "a")

    @pytest.mark.parametrize("change", [{"pooling_mode": "median"}, {"layers": [1, 2]}])
    def test_options_that_are_not_its_own_are_refused(self, change: dict[str, Any], tmp_path: Path) -> None:
        (tmp_path / "llm2vec_config.json").write_text(json.dumps(change))
        with pytest.raises(UnsupportedModelError, match="which Decant cannot honour"):
            read_spec(tmp_path, "", "llama")

    @pytest.mark.parametrize(
        ("base", "mode", "expected"),
        [
            ("mistralai/Mistral-7B-Instruct-v0.2", "mean", "[INST] do it: T [/INST]"),
            (
                "meta-llama/Meta-Llama-3-8B-Instruct",
                "mean",
                "<|start_header_id|>user<|end_header_id|>\n\ndo it: T<|eot_id|>",
            ),
            ("google/gemma-2-9b-it", "mean", "<bos><start_of_turn>user\ndo it: T<end_of_turn>"),
            ("Qwen/Qwen2-7B-Instruct", "mean", "<|im_start|>user\ndo it: T<|im_end|>"),
            ("meta-llama/Meta-Llama-3-8B", "eos_token", "do it: T<|end_of_text|>"),
            ("princeton-nlp/Sheared-LLaMA-1.3B", "eos_token", "do it: T </s>"),
        ],
    )
    def test_chat_form_to_the_byte(self, base: str, mode: str, expected: str, tmp_path: Path) -> None:
        (tmp_path / "llm2vec_config.json").write_text(json.dumps({"pooling_mode": mode}))
        spec = read_spec(tmp_path, base, "llama")
        assert spec.template("query", "do it:").wrap("T") == expected
        assert spec.template("document").wrap("T") == expected.replace("do it: ", "")
        assert (spec.max_tokens, spec.text_limit) == (512, TextLimit(400, whole_words=True))

    def test_one_endless_word_is_cut_and_said_so(self, folder: Path) -> None:
        encoder = load(folder / "mntp", adapters=[folder / "supervised"])
        result = encoder.encode(["ab" * 4000, "sea"])
        assert result.truncated.tolist() == [True, False]
        assert result.tokens[0] <= 42


class TestNVEmbed:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        official.CASES["NV-Embed"](tmp_path / "model")
        return tmp_path / "model"

    def change(self, folder: Path, **values: Any) -> None:
        config = json.loads((folder / "config.json").read_text())
        config["latent_attention_config"] |= {k: v for k, v in values.items() if k in config["latent_attention_config"]}
        config |= {k: v for k, v in values.items() if k in config}
        (folder / "config.json").write_text(json.dumps(config))

    def test_latents_of_another_width_are_refused(self, folder: Path) -> None:
        self.change(folder, hidden_dim=64, latent_dim=64)
        with pytest.raises(ModelError, match=r"widths \[32, 64\].*hidden size 32"):
            load(folder)

    def test_heads_that_do_not_fit_the_weights_are_refused(self, folder: Path) -> None:
        self.change(folder, num_cross_heads=4)
        with pytest.raises(ModelError, match="the configuration says"):
            load(folder)

    def test_unknown_option_values_are_refused(self, folder: Path) -> None:
        self.change(folder, mask_type="c")
        with pytest.raises(UnsupportedModelError, match="mask_type"):
            load(folder)

    def test_missing_latent_weights_are_refused(self, folder: Path) -> None:
        (folder / "model-00002-of-00002.safetensors").unlink()
        with pytest.raises(ModelError):
            load(folder)

    def test_raw_vectors_where_the_configuration_says_so(self, folder: Path) -> None:
        self.change(folder, output_normalize=False)
        encoder = load(folder)
        assert not encoder.spec.normalize
        assert np.abs(np.linalg.norm(encoder.encode(["sea"]).dense, axis=1) - 1).max() > 0.1

    def test_latent_weights_are_in_the_fingerprint(self, folder: Path, tmp_path: Path) -> None:
        encoder = load(folder)
        encoder.save(tmp_path / "saved")
        before = load(tmp_path / "saved").fingerprint
        file = tmp_path / "saved/latent_attention/model.safetensors"
        data = bytearray(file.read_bytes())
        data[-1] ^= 1
        file.write_bytes(bytes(data))
        assert load(tmp_path / "saved").fingerprint != before


def test_declared_eos_is_honoured_where_the_tokenizer_file_lacks_it(tmp_path: Path) -> None:
    """transformers 5 ignores `add_eos_token` of Llama tokenizers; models published with it need the token."""
    built = official.CASES["E5-mistral (sentence-transformers folder)"](tmp_path / "model")
    official.save_tokenizer(built.path, "sentencepiece", "<s> $A", tokenizer_class="LlamaTokenizer", add_eos_token=True)
    encoder = load(built.path)
    for call in built.calls:
        assert np.abs(encoder.encode(**call.arguments).dense - call.expected).max() <= 1e-5
    encoder.save(tmp_path / "saved")
    from sentence_transformers import SentenceTransformer

    plain = SentenceTransformer(str(tmp_path / "saved"), device="cpu").encode(list(official.TEXTS))
    assert np.abs(plain - built.calls[0].expected).max() <= 1e-5


def test_special_tokens_left_out_are_left_out_of_the_saved_tokenizer(tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer

    built = official.CASES["Nemotron (is_causal=false)"](tmp_path / "model")
    encoder = load(built.path, spec=EncoderSpec(add_special_tokens=False, append_eos=True))
    assert [int(encoder.text_tokenizer(["sea"]).ids[0][i]) for i in (0, -1)] != [1, 2]
    encoder.save(tmp_path / "saved")
    plain = SentenceTransformer(str(tmp_path / "saved"), device="cpu").encode(list(official.TEXTS))
    assert np.abs(plain - encoder.encode(list(official.TEXTS)).dense).max() <= 1e-5

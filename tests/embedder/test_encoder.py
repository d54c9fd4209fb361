"""`Encoder`: the vector of a text depends on the text, and on nothing else."""

from __future__ import annotations

import json
import shutil
import socket
import tracemalloc
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from decant.embedder import Encoder, EncoderSpec, InputError, ModelError, windows
from decant.embedder.formats.folder import DEFAULT_MODEL, resolve

TEXTS = ["Rivers carry water from the mountains to the sea.", "sea", "Short text.", "words and word", "😀 e\u0301"]
SPEC = EncoderSpec(prompts={"query": "query: "}, dimensions=(16, 8), max_tokens=48)

Folders = Callable[..., Path]
# Text without surrogates, as every decoder of bytes gives it.
anything = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=60)


@pytest.fixture(scope="module")
def encoder(encoder_of: Callable[..., Encoder]) -> Encoder:
    return encoder_of(SPEC)


def _dense(encoder: Encoder, texts: Any, **options: Any) -> NDArray[np.float32]:
    dense = encoder.encode(texts, **options).dense
    assert dense is not None
    return dense


class TestVectors:
    @settings(max_examples=25, deadline=None)
    @given(st.lists(anything, min_size=1, max_size=12), st.integers(1, 200), st.randoms(use_true_random=False))
    def test_do_not_depend_on_company(self, encoder: Encoder, texts: list[str], budget: int, random: Any) -> None:
        order = list(range(len(texts)))
        random.shuffle(order)
        alone = np.concatenate([_dense(encoder, text) for text in texts])
        together = np.empty_like(alone)
        together[order] = _dense(encoder, [texts[i] for i in order], batch_tokens=budget)
        np.testing.assert_allclose(together, alone, rtol=0, atol=1e-6)

    def test_are_float32_rows_of_unit_norm(self, encoder: Encoder) -> None:
        result = encoder.encode(TEXTS)
        assert result.dense is not None
        assert result.dense.dtype == np.float32 and result.dense.shape == (5, encoder.dimension) == (5, 32)
        assert result.tokens.dtype == np.int32 and result.truncated.dtype == np.bool_
        assert len(result) == 5 and result.sparse is None and result.router is None
        np.testing.assert_allclose(np.linalg.norm(result.dense, axis=1), 1, atol=1e-6)

    def test_distinguish_texts(self, encoder: Encoder) -> None:
        dense = _dense(encoder, TEXTS)
        assert (np.abs(dense[:, None] - dense).max(-1) + np.eye(5) > 1e-3).all()

    def test_of_one_text_as_string(self, encoder: Encoder) -> None:
        assert np.array_equal(_dense(encoder, "sea"), _dense(encoder, ["sea"]))

    def test_of_no_texts(self, encoder: Encoder) -> None:
        result = encoder.encode([])
        assert len(result) == 0
        assert result.dense is not None and result.dense.shape == (0, 32) and result.tokens.shape == (0,)
        assert _dense(encoder, [], dimensions=8).shape == (0, 8)

    def test_of_any_sequence(self, encoder: Encoder) -> None:
        assert np.array_equal(_dense(encoder, tuple(TEXTS)), _dense(encoder, np.array(TEXTS, object)))

    def test_of_kinds(self, encoder: Encoder) -> None:
        assert np.array_equal(_dense(encoder, "query: sea"), _dense(encoder, "sea", kind="query"))
        assert np.array_equal(_dense(encoder, "sea"), _dense(encoder, "sea", kind="document"))

    def test_cut_and_normalised_again(self, encoder: Encoder) -> None:
        full = _dense(encoder, TEXTS)
        for width in (32, 16, 8):
            cut = full[:, :width] / np.linalg.norm(full[:, :width], axis=1, keepdims=True)
            np.testing.assert_allclose(_dense(encoder, TEXTS, dimensions=width), cut, rtol=0, atol=1e-6)

    def test_mean_by_hand(self, encoder: Encoder) -> None:
        ids = encoder.tokenizer.encode("Short text.").ids
        model = encoder.backbone.model
        with encoder.backbone.transformers_attention(), torch.no_grad():
            states = model(input_ids=torch.tensor([ids]), use_cache=False).last_hidden_state[0]
        want = states.mean(0) / states.mean(0).norm()
        np.testing.assert_allclose(_dense(encoder, "Short text.")[0], want.numpy(), rtol=0, atol=1e-6)

    def test_in_half_precision_point_the_same_way(self, model_folder: Folders, encoder: Encoder) -> None:
        half = Encoder.load(model_folder(), dtype="bfloat16", spec=SPEC)
        assert half.backbone.dtype is torch.bfloat16
        assert (_dense(half, TEXTS) * _dense(encoder, TEXTS)).sum(1).min() >= 0.999

    def test_that_are_no_numbers_are_refused(self, new_model: Folders) -> None:
        broken = Encoder.load(new_model(), dtype="float32", spec=SPEC)
        broken.backbone.model.norm.weight.fill_(float("inf"))
        with pytest.raises(ModelError, match="text 0 gave a vector with NaN or infinity"):
            broken.encode(TEXTS)

    def test_leave_no_graph(self, encoder: Encoder) -> None:
        with torch.enable_grad():
            encoder.encode(TEXTS)
        assert not any(p.requires_grad or p.grad is not None for p in encoder.backbone.model.parameters())


class TestThreads:
    def test_share_one_encoder(self, encoder: Encoder) -> None:
        """Each its own texts and options: tokenizers that change between calls fail here with 'Already borrowed'."""
        jobs = [{"kind": "query"}, {"truncate": "end"}, {"dimensions": 8}, {"batch_tokens": 5}] * 6
        long = "word " * 60
        texts = [[*TEXTS[i % 5 :], long][: 1 + i % 5] for i in range(len(jobs))]
        expected = [_dense(encoder, t, **job) for t, job in zip(texts, jobs, strict=True)]
        with ThreadPoolExecutor(8) as pool:
            for _ in range(3):
                futures = [pool.submit(_dense, encoder, t, **job) for t, job in zip(texts, jobs, strict=True)]
                for future, want in zip(futures, expected, strict=True):
                    assert np.array_equal(future.result(), want)


class TestStream:
    @pytest.mark.parametrize("count", [0, 1, 7, 8, 9, 24])
    def test_is_encode_in_parts(self, count: int, encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
        texts = [f"{TEXTS[i % 5]} {i}" for i in range(count)]
        whole = encoder.encode(texts)
        monkeypatch.setattr(windows, "WINDOW_TEXTS", 8)
        parts = list(encoder.encode_stream(iter(texts)))
        assert [len(part) for part in parts] == [8] * (count // 8) + ([count % 8] if count % 8 else [])
        in_windows = encoder.encode(texts)
        for name in ("dense", "tokens", "truncated"):
            got = np.concatenate([getattr(whole, name)[:0], *(getattr(part, name) for part in parts)])
            np.testing.assert_allclose(got, getattr(whole, name), rtol=0, atol=1e-6)
            assert np.array_equal(got, getattr(in_windows, name))

    def test_reads_no_further_than_it_has_to(self, encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(windows, "WINDOW_TEXTS", 4)
        taken: list[int] = []

        def texts() -> Iterator[str]:
            for i in range(100):
                taken.append(i)
                yield f"text {i}"

        stream = encoder.encode_stream(texts())
        next(stream)
        assert len(taken) == 8  # the window that is asked for, and the one that is tokenised meanwhile
        next(stream)
        assert len(taken) == 12

    def test_memory_does_not_grow(self, encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(windows, "WINDOW_TEXTS", 64)

        def peak(count: int) -> int:
            tracemalloc.start()
            for _ in encoder.encode_stream(f"text number {i}" for i in range(count)):
                pass
            _, high = tracemalloc.get_traced_memory()
            tracemalloc.stop()
            return high

        peak(64)
        assert peak(2048) < 2 * peak(256)

    def test_errors_count_from_the_start(self, encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(windows, "WINDOW_TEXTS", 4)
        for encode in (lambda texts: list(encoder.encode_stream(texts)), encoder.encode):
            with pytest.raises(InputError, match="text 9 is int"):
                encode(["a"] * 9 + [3])


class TestOptions:
    @pytest.mark.parametrize(
        ("options", "match"),
        [
            ({"kind": "image"}, "unknown kind 'image'"),
            ({"instruction": "find"}, "takes no instruction"),
            ({"outputs": ("sparse",)}, "offers dense vectors, not sparse"),
            ({"outputs": ()}, "offers dense vectors, not nothing"),
            ({"dimensions": 7}, "not trained for 7 dimensions: choose from 32, 16, 8"),
            ({"dimensions": 0}, "not trained for 0 dimensions"),
            ({"truncate": "start"}, "unknown truncate"),
            ({"batch_tokens": -1}, "batch_tokens"),
            ({"batch_tokens": 0}, "batch_tokens"),
        ],
    )
    def test_that_cannot_be_honoured(self, options: dict[str, Any], match: str, encoder: Encoder) -> None:
        with pytest.raises(InputError, match=match) as caught:
            encoder.encode(TEXTS, **options)
        assert "\n" not in str(caught.value)
        with pytest.raises(InputError, match=match):
            list(encoder.encode_stream(TEXTS, **options))

    def test_truncation(self, encoder: Encoder) -> None:
        long = "word " * 100
        result = encoder.encode(["a", long])
        assert result.truncated.tolist() == [False, True] and result.tokens.tolist() == [1, 48]
        with pytest.raises(InputError, match="text 1 has .* tokens, the model takes 48"):
            encoder.encode(["a", long], truncate="error")


class TestLoading:
    def test_default_model_is_the_shipped_one(self) -> None:
        encoder = Encoder.load(dtype="float32")
        assert encoder.path == DEFAULT_MODEL and encoder.backbone.config.model_type == "llama"

    def test_plain_decoder_gets_the_default_conversion(self, model_folder: Folders) -> None:
        encoder = Encoder.load(model_folder("qwen3"), dtype="float32")
        assert encoder.spec == EncoderSpec(max_tokens=64) and encoder.path == model_folder("qwen3")

    @pytest.mark.parametrize("dtype", ["float32", "fp32", "bfloat16", "bf16", torch.bfloat16])
    def test_dtypes(self, dtype: Any, model_folder: Folders) -> None:
        encoder = Encoder.load(model_folder(), dtype=dtype)
        assert encoder.backbone.dtype is (torch.float32 if "32" in str(dtype) else torch.bfloat16)

    def test_checkpoint_dtype(self, new_model: Folders) -> None:
        assert Encoder.load(new_model(dtype="bfloat16"), dtype="checkpoint").backbone.dtype in (
            torch.float32,
            torch.bfloat16,
        )

    @pytest.mark.parametrize(
        ("options", "match"),
        [
            ({"dtype": "int4"}, "unknown dtype 'int4': choose from float32"),
            ({"device": "quantum"}, "device quantum cannot be used"),
            ({"device": "cuda:99"}, "device cuda:99 cannot be used"),
            ({"spec": EncoderSpec(dimensions=(64,))}, "lists 64 dimensions, the model has 32"),
        ],
    )
    def test_options_that_cannot_be_honoured(self, options: dict[str, Any], match: str, model_folder: Folders) -> None:
        with pytest.raises(ModelError, match=match) as caught:
            Encoder.load(model_folder(), **options)
        assert "\n" not in str(caught.value)

    def test_sharded_weights(self, new_model: Folders, encoder: Encoder) -> None:
        folder = new_model()
        encoder.backbone.model.save_pretrained(folder, max_shard_size="20KB")
        (folder / "model.safetensors").unlink()
        assert len(list(folder.glob("*.safetensors"))) > 1
        assert np.array_equal(_dense(Encoder.load(folder, dtype="float32", spec=SPEC), TEXTS), _dense(encoder, TEXTS))


class TestBrokenFolders:
    @staticmethod
    def _assert_refused(folder: Path | str, match: str) -> None:
        with pytest.raises(ModelError, match=match) as caught:
            Encoder.load(folder, dtype="float32")
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 500

    def test_no_such_folder(self, tmp_path: Path) -> None:
        self._assert_refused(tmp_path / "nothing", "no model folder at .*nothing")

    def test_file(self, tmp_path: Path) -> None:
        (tmp_path / "model").write_text("x")
        self._assert_refused(tmp_path / "model", "no model folder at")

    def test_empty_folder(self, tmp_path: Path) -> None:
        self._assert_refused(tmp_path, "is not a model folder: it has neither config.json nor modules.json")

    def test_unknown_name_without_network(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def connect(*_: object, **__: object) -> None:
            raise AssertionError("reached for the network")

        monkeypatch.setattr(socket.socket, "connect", connect)
        self._assert_refused("organisation/model-that-is-not-cached", "unknown model organisation/model-that-is-not")

    @pytest.mark.parametrize("name", ["model", "a/b/c", "../x", "", "bad name/x y"])
    def test_what_is_no_name(self, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        self._assert_refused(name, "no model folder at|unknown model|is not a model folder")

    def test_the_shipped_model_has_a_name_that_a_folder_may_take(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        assert resolve("decant-mini") == DEFAULT_MODEL
        (tmp_path / "decant-mini").mkdir()
        assert resolve("decant-mini") == Path("decant-mini")

    def test_missing_weights(self, new_model: Folders) -> None:
        folder = new_model()
        (folder / "model.safetensors").unlink()
        self._assert_refused(folder, "cannot load the weights")

    @pytest.mark.parametrize("kept", [0, 5, 1000])
    def test_cut_weights(self, kept: int, new_model: Folders) -> None:
        folder = new_model()
        file = folder / "model.safetensors"
        file.write_bytes(file.read_bytes()[:kept])
        self._assert_refused(folder, "cannot load the weights")

    def test_some_weights_missing(self, new_model: Folders) -> None:
        from safetensors.torch import load_file, save_file

        file = new_model() / "model.safetensors"
        state = load_file(file)
        del state["layers.1.mlp.up_proj.weight"]
        save_file(state, file, metadata={"format": "pt"})
        self._assert_refused(file.parent, r"lacks 1 of the model's weights, layers\.1\.mlp\.up_proj\.weight")

    def test_weights_of_another_width(self, new_model: Folders) -> None:
        folder = new_model()
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, "intermediate_size": 48}))
        self._assert_refused(folder, "weights")

    @pytest.mark.parametrize("text", ["", "{broken", "[]", "{}"])
    def test_configuration(self, text: str, new_model: Folders) -> None:
        folder = new_model()
        (folder / "config.json").write_text(text)
        self._assert_refused(folder, "no usable model configuration|config.json")

    def test_architecture_that_nobody_knows(self, new_model: Folders) -> None:
        folder = new_model()
        (folder / "config.json").write_text('{"model_type": "no-such-family"}')
        self._assert_refused(folder, "config.json: model_type 'no-such-family' is no architecture that transformers")

    def test_code_in_the_folder_is_not_run(self, new_model: Folders) -> None:
        folder = new_model()
        config = json.loads((folder / "config.json").read_text())
        config |= {"model_type": "mine", "auto_map": {"AutoConfig": "evil.Config", "AutoModel": "evil.Model"}}
        (folder / "config.json").write_text(json.dumps(config))
        (folder / "evil.py").write_text("raise SystemExit('this code must not run')")
        self._assert_refused(folder, "model_type 'mine' is no architecture that transformers")

    def test_no_tokenizer(self, new_model: Folders) -> None:
        folder = new_model()
        for file in folder.glob("tokenizer*"):
            file.unlink()
        self._assert_refused(folder, "no usable tokenizer|has no tokenizer.json|does not cover text")

    def test_broken_tokenizer(self, new_model: Folders) -> None:
        folder = new_model()
        (folder / "tokenizer.json").write_text('{"version": "1.0"}')
        self._assert_refused(folder, "no usable tokenizer")

    def test_tokenizer_with_more_tokens_than_the_model(self, new_model: Folders) -> None:
        self._assert_refused(new_model(vocab_size=280), r"has 300 tokens, the model embeds only 280")

    @pytest.mark.parametrize("text", ["{broken", '{"format": 99, "spec": {}}', '{"format": 1, "spec": {"x": 1}}'])
    def test_description(self, text: str, encoder: Encoder, tmp_path: Path) -> None:
        encoder.save(tmp_path / "saved")
        (tmp_path / "saved" / "decant.json").write_text(text)
        self._assert_refused(tmp_path / "saved", r"decant\.json")

    @pytest.mark.parametrize("family", ["bart", "t5"])
    def test_encoder_with_a_decoder_behind_it(self, family: str, new_model: Folders) -> None:
        sizes = {"d_model": 32, "d_kv": 8, "encoder_layers": 1, "decoder_layers": 1, "num_layers": 1, "num_heads": 4}
        self._assert_refused(new_model(family, **sizes), f"{family} is an encoder with a decoder behind it")


class TestFingerprint:
    def test_follows_content_and_not_place(self, new_model: Folders, tmp_path: Path, encoder: Encoder) -> None:
        folder = new_model()
        copy = shutil.copytree(folder, tmp_path / "copy")
        first = Encoder.load(folder, dtype="float32", spec=SPEC).fingerprint
        assert first == Encoder.load(copy, dtype="float32", spec=SPEC).fingerprint == encoder.fingerprint
        assert len(first) == 32 and int(first, 16)

    @pytest.mark.parametrize(
        "change",
        [
            {"pooling": "last"},
            {"normalize": False},
            {"prompts": {"query": "query:"}},
            {"max_tokens": 47},
            {"attention": "causal"},
            {"dimensions": (16,)},
        ],
        ids=str,
    )
    def test_changes_with_the_spec(self, change: dict[str, Any], encoder: Encoder, model_folder: Folders) -> None:
        other = Encoder.load(model_folder(), dtype="float32", spec=replace(SPEC, **change))
        assert other.fingerprint != encoder.fingerprint

    @pytest.mark.parametrize("file", ["model.safetensors", "tokenizer.json", "config.json"])
    def test_changes_with_every_file_that_matters(self, file: str, new_model: Folders, encoder: Encoder) -> None:
        folder = new_model()
        data = bytearray((folder / file).read_bytes())
        if file.endswith(".json"):
            data += b" "
        else:
            data[-1] ^= 1
        (folder / file).write_bytes(data)
        assert Encoder.load(folder, dtype="float32", spec=SPEC, verify=False).fingerprint != encoder.fingerprint

    def test_of_a_saved_copy_is_its_own_and_steady(self, encoder: Encoder, tmp_path: Path) -> None:
        encoder.save(tmp_path / "a")
        encoder.save(tmp_path / "b")
        prints = {Encoder.load(tmp_path / name, dtype="float32").fingerprint for name in "ab"}
        assert len(prints) == 1

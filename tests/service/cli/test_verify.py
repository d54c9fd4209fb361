"""`decant verify`: each fault the field has shipped is found, by name and exit status, and the sound model passes."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import processors
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2Model

from decant.embedder import backbone
from decant.embedder.router import RouterHead
from decant.embedder.sparse import SparseHead
from decant.embedder.spec import Attention
from decant.embedder.tokenization import TextTokenizer
from decant.embedder.verify import ALL_CHECKS

Patch = pytest.MonkeyPatch


def test_verify_prints_each_invariant_with_its_value(decant):
    done = decant("verify", "--json")
    assert done.code == 0
    assert done.json["passed"] is True
    assert len(done.json["measurements"]) == len(ALL_CHECKS)
    shown = decant("verify")
    assert shown.code == 0
    assert all(m["name"] in shown.out for m in done.json["measurements"])
    assert "BROKEN" not in shown.out


def test_the_shipped_model_passes(decant, monkeypatch):
    monkeypatch.delenv("DECANT_MODEL")
    done = decant("verify", "--json")
    assert (done.code, done.json["passed"]) == (0, True)
    assert Path(done.json["model"]).name == "decant-mini"


def llm2vec_qwen2(folder: Path, tiny_model: Path) -> None:
    """A Qwen2 as LLM2Vec publishes it."""
    known = LlamaConfig.from_pretrained(tiny_model).to_dict()
    names = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    sizes = {name: known[name] for name in (*names, "num_key_value_heads", "max_position_embeddings")}
    torch.manual_seed(0)
    sizes["vocab_size"] += 8  # transformers gives every Qwen2 tokenizer Qwen's special tokens
    Qwen2Model(Qwen2Config(**sizes)).save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(folder)
    (folder / "llm2vec_config.json").write_text('{"pooling_mode": "mean", "max_length": 96, "doc_max_length": 64}')


def model_with_bos(folder: Path, tiny_model: Path) -> None:
    """A decoder with its language-model head, whose tokenizer puts a BOS in front."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.add_special_tokens({"bos_token": "<bos>"})
    special = [("<bos>", tokenizer.bos_token_id)]
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing("<bos> $A", special_tokens=special)
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig.from_pretrained(tiny_model, vocab_size=len(tokenizer), initializer_range=0.2)
    LlamaForCausalLM(config).save_pretrained(folder)


def still_causal(patch: Patch) -> None:
    """LLM2Vec's Qwen2 class: the mask was never replaced, and nothing said so."""
    honest = backbone.set_attention
    patch.setattr(backbone, "set_attention", lambda config, _: honest(config, Attention.CAUSAL))
    load = backbone.Backbone.load.__func__
    causal = classmethod(lambda cls, folder, attention, **options: load(cls, folder, Attention.CAUSAL, **options))
    patch.setattr(backbone.Backbone, "load", causal)


def instruction_pooled_in(patch: Patch) -> None:
    honest = TextTokenizer.__call__

    def tokenize(self: TextTokenizer, *args: Any, **options: Any) -> Any:
        made = honest(self, *args, **options)
        made.pool_from[:] = 0
        return made

    patch.setattr(TextTokenizer, "__call__", tokenize)


def bos_in_the_maximum(patch: Patch) -> None:
    honest = SparseHead.__init__

    def init(self: SparseHead, *args: Any) -> None:
        honest(self, *args)
        self._special = self._special[:0]

    patch.setattr(SparseHead, "__init__", init)


def scored_by_batch(patch: Patch) -> None:
    """MoEE's published code, which standardises over whatever shares the batch."""
    honest = RouterHead.__call__

    def call(self: RouterHead, *args: Any, **options: Any) -> torch.Tensor:
        rows = honest(self, *args, **options)
        return ((rows - rows.mean(0)) / (rows.std(0) + 1e-8)).nan_to_num(0.0)

    patch.setattr(RouterHead, "__call__", call)


@dataclass(frozen=True)
class Case:
    """A model, how it is converted, what goes wrong with it, and the invariants that must say so."""

    options: list[str]
    fault: Callable[[Patch], None]
    broken: set[str]
    build: Callable[[Path, Path], None] | None = None


CASES = {
    "causal": Case([], still_causal, {"future leak"}, llm2vec_qwen2),
    "instruction": Case(
        ["--query-prompt", "Find: {instruction} ", "--instruction", "the answer", "--exclude-prompt"],
        instruction_pooled_in,
        {"instruction masking"},
    ),
    "bos": Case(["--sparse", "--max-tokens", "64"], bos_in_the_maximum, {"sparse pooling"}, model_with_bos),
    "router": Case(
        ["--rule", "prompt-eol", "--router", "last"], scored_by_batch, {"router weights", "batch invariance"}
    ),
}


@pytest.fixture
def converted(decant, request, tiny_model, tiny_experts, tmp_path) -> tuple[Case, Path]:
    """A case, and its model converted to Decant's form while nothing was wrong yet."""
    case = CASES[request.param]
    source = tiny_experts if request.param == "router" else tiny_model
    if case.build:
        case.build(tmp_path / "source", tiny_model)
        source = tmp_path / "source"
    done = decant("convert", source, "made", *case.options)
    assert done.code == 0, done.err + done.out
    return case, tmp_path / "made"


@pytest.mark.parametrize("converted", CASES, indirect=True)
def test_a_known_fault_is_found_and_the_sound_model_passes(decant, converted, monkeypatch):
    case, model = converted
    sound = decant("verify", model, "--dtype", "float32")
    assert sound.code == 0 and "BROKEN" not in sound.out and "trusted" not in sound.err
    case.fault(monkeypatch)
    shown = decant("verify", model, "--dtype", "float32")
    assert shown.code == 4
    told = shown.err.splitlines()[-1]
    assert told.startswith("its vectors cannot be trusted: ")
    assert set(told.removeprefix("its vectors cannot be trusted: ").split(", ")) >= case.broken
    assert all(any(name in line and "BROKEN" in line for line in shown.out.splitlines()) for name in case.broken)
    found = decant("verify", model, "--dtype", "float32", "--json")
    assert (found.code, found.json["passed"]) == (4, False)
    assert {m["name"] for m in found.json["measurements"] if not m["passed"]} >= case.broken


def test_a_causal_model_is_refused_before_it_encodes_anything(decant, tiny_model, tmp_path, monkeypatch):
    llm2vec_qwen2(tmp_path / "source", tiny_model)
    still_causal(monkeypatch)
    done = decant("embed", "--model", "source", stdin="a text\n")
    assert done.code == 1
    assert "breaks the invariant 'future leak'" in done.error


def test_a_folder_that_says_both_is_refused(decant, tiny_model, tmp_path):
    """Weights converted to be bidirectional, under a configuration that other libraries read as causal."""
    llm2vec_qwen2(tmp_path / "source", tiny_model)
    assert decant("convert", "source", "made").code == 0
    config = json.loads((tmp_path / "made" / "config.json").read_text())
    (tmp_path / "made" / "config.json").write_text(json.dumps({**config, "is_causal": True}))
    done = decant("verify", "made")
    assert done.code == 1
    assert "made/config.json describes a causal model, decant.json a bidirectional one" in done.error

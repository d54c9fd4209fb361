"""Tiny random checkpoints in exactly the layout their makers publish, each with its method stated plainly.

A statement goes text by text through the stock transformers class with a mask written out, and shares no code with
Decant. `test_official.py` and `benchmarks/parity.py` read the same cases.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import Tensor
from torch.nn import functional
from transformers import (
    AutoModel,
    AutoTokenizer,
    Gemma3TextConfig,
    LlamaConfig,
    Ministral3Config,
    MistralConfig,
    PretrainedConfig,
    PreTrainedTokenizerFast,
    Qwen3Config,
)

Vectors = NDArray[np.float32]

TEXTS = (
    "Rivers carry water from the mountains to the sea.",
    "sea",
    "The committee met on Tuesday, discussed the budget for three hours, and adjourned without taking a decision.",
    "def add(a, b):\n    return a + b",
)
TASK = "Given a question, find the answer"
EXAMPLES = (("what is a river", "Rivers carry water."), ("who met", "The committee met on Tuesday."))

_WIDTHS: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


@dataclass(frozen=True)
class Call:
    """One way to encode: the arguments of `Encoder.encode`, and the same texts by the plain statement."""

    arguments: dict[str, Any]
    expected: Vectors


@dataclass(frozen=True)
class Built:
    """A checkpoint on disk: the arguments of `Encoder.load`, calls with their vectors, how plain loaders see it."""

    path: Path
    calls: list[Call]
    load: dict[str, Any] = field(default_factory=dict)
    plain: bool = False  # whether plain sentence-transformers loads it
    plain_again: bool = False  # whether it loads what Decant saves of it


Builder = Callable[[Path], Built]
CASES: dict[str, Builder] = {}


def case(name: str) -> Callable[[Builder], Builder]:
    def register(builder: Builder) -> Builder:
        CASES[name] = builder
        return builder

    return register


# Building blocks


@cache
def _trained(kind: str) -> str:
    special = ["<pad>", "<s>", "</s>", "<unk>", "<|im_end|>", "<instruct>", "<query>", "<response>"]
    size, corpus = 420, [*TEXTS, TASK, "Instruct: Query: task: search result | query: title: none | text: passage: "]
    if kind == "sentencepiece":
        tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
        tokenizer.decoder = decoders.Metaspace(prepend_scheme="first")
        letters = sorted({letter for text in corpus for letter in text} | set('<|>!"\n'))
    else:
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        letters = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=special, show_progress=False, initial_alphabet=letters
    )
    tokenizer.train_from_iterator(corpus, trainer)
    return tokenizer.to_str()


def save_tokenizer(folder: Path, kind: str, template: str, **config: Any) -> None:
    """Save a tokenizer whose own template is e.g. `<s> $A </s>`; `config` goes into tokenizer_config.json."""
    tokenizer = Tokenizer.from_str(_trained(kind))
    names = [name for name in template.split() if name != "$A"]
    if names:
        special = [(name, tokenizer.token_to_id(name)) for name in dict.fromkeys(names)]
        tokenizer.post_processor = processors.TemplateProcessing(single=template, special_tokens=special)
    options = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    whole = PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=256, **options)
    whole.save_pretrained(folder)
    edit_json(folder / "tokenizer_config.json", config)


def edit_json(file: Path, values: dict[str, Any]) -> None:
    present = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps({**present, **values}))


def random_model(config: PretrainedConfig, seed: int = 0) -> Any:
    torch.manual_seed(seed)
    config.vocab_size = 420
    model = AutoModel.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # the usual initialisation is so small that nothing could go wrong
            parameter.mul_(4.0 if parameter.ndim > 1 else 1.0).add_(0.02 * torch.randn_like(parameter))
    return model


def save_st(folder: Path, pooling: str, prompts: dict[str, str], dense: int = 0) -> None:
    """Write sentence-transformers' files around a model of width 32, in the layout published models carry."""
    names = ["Transformer", "Pooling", *["Dense"] * dense, "Normalize"]
    paths = ["" if i == 0 else f"{i}_{name}" for i, name in enumerate(names)]
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{name}"}
        for i, (name, path) in enumerate(zip(names, paths, strict=True))
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    modes = ("cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens", "weightedmean_tokens", "lasttoken")
    (folder / "1_Pooling").mkdir()
    edit_json(
        folder / "1_Pooling/config.json",
        {
            "word_embedding_dimension": 32,
            **{f"pooling_mode_{mode}": mode == pooling for mode in modes},
            "include_prompt": True,
        },
    )
    edit_json(folder / "sentence_bert_config.json", {"max_seq_length": 128, "do_lower_case": False})
    edit_json(folder / "config_sentence_transformers.json", {"prompts": prompts, "default_prompt_name": None})
    generator = torch.Generator().manual_seed(1)
    for i in range(dense):
        shape = (32, 96) if i else (96, 32)
        sizes = {"out_features": shape[0], "in_features": shape[1], "bias": False}
        (folder / f"{2 + i}_Dense").mkdir()
        edit_json(
            folder / f"{2 + i}_Dense/config.json",
            {**sizes, "activation_function": "torch.nn.modules.linear.Identity"},
        )
        save_file(
            {"linear.weight": torch.randn(shape, generator=generator) * 0.3},
            folder / f"{2 + i}_Dense/model.safetensors",
        )


@torch.no_grad()
def states(model: Any, ids: list[int], *, bidirectional: bool) -> Tensor:
    """Hidden states (tokens, H) of one text, through a stock causal class with its mask written out."""
    model.set_attn_implementation("eager")
    n = len(ids)
    hidden = torch.zeros(n, n) if bidirectional else torch.full((n, n), float("-inf")).triu(1)
    out = model(input_ids=torch.tensor([ids]), attention_mask=hidden[None, None], use_cache=False)
    return out.last_hidden_state[0]


def rows(vectors: list[Tensor], *, unit: bool = True) -> Vectors:
    stacked = torch.stack(vectors)
    return (functional.normalize(stacked, dim=-1) if unit else stacked).numpy()


# LLM2Vec


def save_adapter(folder: Path, model: Any, base: str, seed: int) -> None:
    """Save a random LoRA adapter over the base model, trained as LLM2Vec trains: on the inner model, no task type."""
    torch.manual_seed(seed)
    names = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)  # PEFT's, of transformers
        wrapped = get_peft_model(model, LoraConfig(r=4, lora_alpha=8, target_modules=names))
    for name, parameter in wrapped.named_parameters():
        if "lora_" in name:
            parameter.data.normal_(std=0.1)
    wrapped.save_pretrained(folder)
    wrapped.unload()
    edit_json(folder / "adapter_config.json", {"base_model_name_or_path": base})


def add_adapter(model: Any, folder: Path) -> None:
    """W += alpha / r * B A, written out."""
    state = load_file(folder / "adapter_model.safetensors")
    for name, a in state.items():
        if not name.endswith("lora_A.weight"):
            continue
        weight = model.get_parameter(name.removeprefix("base_model.model.").replace("lora_A.weight", "weight"))
        weight.data += 2.0 * state[name.replace("lora_A", "lora_B")] @ a


def llm2vec(folder: Path, family: type[PretrainedConfig] = LlamaConfig, **config: Any) -> Built:
    """Base, MNTP adapter merged, supervised adapter on top (github.com/McGill-NLP/llm2vec, `llm2vec.py`)."""
    settings = {"pooling_mode": "mean", "max_length": 96, "doc_max_length": 40, "skip_instruction": True, **config}
    model = random_model(family(**_WIDTHS))
    model.save_pretrained(folder / "base")
    save_tokenizer(folder / "base", "sentencepiece", "<s> $A")
    for seed, name in enumerate(("mntp", "supervised"), start=1):
        save_adapter(folder / name, model, str(folder / "base"), seed)
        add_adapter(model, folder / name)
    save_tokenizer(folder / "mntp", "sentencepiece", "<s> $A")
    edit_json(folder / "supervised/llm2vec_config.json", settings)
    tokenizer = AutoTokenizer.from_pretrained(folder / "base")

    def vector(instruction: str, text: str) -> Tensor:
        while (count := len(tokenizer(text, add_special_tokens=False, truncation=True, max_length=96).input_ids)) > 40:
            text = " ".join(text.split()[: int(len(text.split()) * (40 / count))])
        closing = {"eos_token": " </s>"}.get(settings["pooling_mode"], "")
        whole = f"{instruction.strip()} {text}{closing}" if instruction else text + closing
        ids = tokenizer(whole).input_ids
        length = len(tokenizer(text + closing, add_special_tokens=False).input_ids)
        hidden = states(model, ids, bidirectional=True)
        kept = hidden[-length:] if settings["skip_instruction"] else hidden
        match settings["pooling_mode"]:
            case "mean":
                return kept.mean(0)
            case "weighted_mean":
                weights = torch.arange(1.0, len(kept) + 1)
                return (weights / weights.sum()) @ kept
            case "bos_token":
                return hidden[ids.index(1)]
            case _:
                return hidden[-1]

    texts = [*TEXTS, " ".join(TEXTS) * 2]
    calls = [
        Call({"texts": texts}, rows([vector("", text) for text in texts], unit=False)),
        Call(
            {"texts": texts, "kind": "query", "instruction": f"{TASK}:"},
            rows([vector(f"{TASK}:", text) for text in texts], unit=False),
        ),
    ]
    return Built(folder / "mntp", calls, {"adapters": [folder / "supervised"]})


case("LLM2Vec (mean)")(llm2vec)
case("LLM2Vec (weighted mean)")(lambda folder: llm2vec(folder, pooling_mode="weighted_mean"))
case("LLM2Vec (EOS)")(lambda folder: llm2vec(folder, MistralConfig, pooling_mode="eos_token"))
case("LLM2Vec (BOS)")(lambda folder: llm2vec(folder, pooling_mode="bos_token"))
case("LLM2Vec (instruction pooled)")(lambda folder: llm2vec(folder, skip_instruction=False))


# NV-Embed


@case("NV-Embed")
def nv_embed(folder: Path) -> Built:
    """Mistral and latent attention (huggingface.co/nvidia/NV-Embed-v2, `modeling_nvembed.py`; METHODS 4.2)."""
    backbone = random_model(MistralConfig(**_WIDTHS, sliding_window=None))
    generator = torch.Generator().manual_seed(3)
    width, inner = 2 * 16, 4 * 32
    shapes = {
        "latents": (6, 32),
        "cross_attend_blocks.0.norm.weight": (32,),
        "cross_attend_blocks.0.norm.bias": (32,),
        "cross_attend_blocks.0.norm_context.weight": (32,),
        "cross_attend_blocks.0.norm_context.bias": (32,),
        "cross_attend_blocks.0.fn.to_q.weight": (width, 32),
        "cross_attend_blocks.0.fn.to_kv.weight": (2 * width, 32),
        "cross_attend_blocks.0.fn.to_out.weight": (32, width),
        "cross_attend_blocks.1.norm.weight": (32,),
        "cross_attend_blocks.1.norm.bias": (32,),
        "cross_attend_blocks.1.fn.net.0.weight": (2 * inner, 32),
        "cross_attend_blocks.1.fn.net.0.bias": (2 * inner,),
        "cross_attend_blocks.1.fn.net.2.weight": (32, inner),
        "cross_attend_blocks.1.fn.net.2.bias": (32,),
    }
    block = {name: torch.randn(shape, generator=generator) * 0.4 for name, shape in shapes.items()}
    folder.mkdir(parents=True, exist_ok=True)
    halves = {f"embedding_model.{k}": v.contiguous() for k, v in backbone.state_dict().items()}
    latent = {f"latent_attention_model.{k}": v for k, v in block.items()}
    shards = {"model-00001-of-00002.safetensors": halves, "model-00002-of-00002.safetensors": latent}
    for name, tensors in shards.items():
        save_file(tensors, folder / name, metadata={"format": "pt"})
    index = {key: name for name, tensors in shards.items() for key in tensors}
    edit_json(folder / "model.safetensors.index.json", {"metadata": {}, "weight_map": index})
    reference = "modeling_nvembed.NVEmbed"
    edit_json(
        folder / "config.json",
        {
            "architectures": ["NVEmbedModel"],
            "model_type": "nvembed",
            "auto_map": {"AutoConfig": "configuration_nvembed.NVEmbedConfig", "AutoModel": f"{reference}Model"},
            "hidden_size": 32,
            "latent_attention_config": {
                "model_type": "latent_attention",
                "num_latents_value": 6,
                "num_cross_heads": 2,
                "output_normalize": True,
                "hidden_dim": 32,
                "latent_dim": 32,
                "cross_dim_head": 16,
            },
            "text_config": {**backbone.config.to_dict(), "model_type": "bidir_mistral"},
            "padding_side": "right",
            "add_pad_token": True,
            "is_mask_instruction": True,
            "add_eos": True,
            "mask_type": "b",
            "torch_dtype": "float32",
        },
    )
    # Code that must never run: it would say so.
    for name in ("configuration_nvembed.py", "modeling_nvembed.py"):
        (folder / name).write_text("raise RuntimeError('remote code ran')\n")
    save_tokenizer(folder, "sentencepiece", "<s> $A", padding_side="right")
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)

    def vector(instruction: str, text: str) -> Tensor:
        hidden = states(backbone, tokenizer(instruction + text + "</s>").input_ids, bidirectional=True)
        mask = torch.ones(len(hidden))
        mask[: len(tokenizer.tokenize(instruction))] = 0
        return mask @ _latent_block(hidden, block) / mask.sum()

    prefix = f"Instruct: {TASK}\nQuery: "
    calls = [
        Call({"texts": list(TEXTS)}, rows([vector("", text) for text in TEXTS])),
        Call(
            {"texts": list(TEXTS), "kind": "query", "instruction": TASK}, rows([vector(prefix, text) for text in TEXTS])
        ),
    ]
    return Built(folder, calls)


def _latent_block(hidden: Tensor, w: dict[str, Tensor]) -> Tensor:
    """Heads in a loop, softmax written out."""
    first, second = "cross_attend_blocks.0.", "cross_attend_blocks.1."

    def norm(x: Tensor, name: str) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        scaled = centred / torch.sqrt((centred**2).mean(-1, keepdim=True) + 1e-5)
        return scaled * w[f"{name}.weight"] + w[f"{name}.bias"]

    q = norm(hidden, f"{first}norm") @ w[f"{first}fn.to_q.weight"].T
    k, v = (norm(w["latents"], f"{first}norm_context") @ w[f"{first}fn.to_kv.weight"].T).chunk(2, -1)
    heads = [torch.softmax(q[:, s] @ k[:, s].T / 16**0.5, -1) @ v[:, s] for s in (slice(0, 16), slice(16, 32))]
    hidden = hidden + torch.cat(heads, -1) @ w[f"{first}fn.to_out.weight"].T
    x, gate = (norm(hidden, f"{second}norm") @ w[f"{second}fn.net.0.weight"].T + w[f"{second}fn.net.0.bias"]).chunk(
        2, -1
    )
    gelu = gate * 0.5 * (1 + torch.erf(gate / 2**0.5))
    return hidden + (x * gelu) @ w[f"{second}fn.net.2.weight"].T + w[f"{second}fn.net.2.bias"]


# Causal decoders read at the last token


def _last_token(folder: Path, model: Any, text: str, *, eos: bool = False) -> Tensor:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    return states(model, tokenizer(text).input_ids + [2] * eos, bidirectional=False)[-1]


@case("E5-mistral (sentence-transformers folder)")
def e5_mistral_st(folder: Path) -> Built:
    """huggingface.co/intfloat/e5-mistral-7b-instruct: EOS by the tokenizer's template, last token."""
    model = random_model(MistralConfig(**_WIDTHS, sliding_window=64))
    model.save_pretrained(folder)
    save_tokenizer(folder, "sentencepiece", "<s> $A </s>", tokenizer_class="LlamaTokenizer", add_eos_token=True)
    prompt = f"Instruct: {TASK}\nQuery: "
    save_st(folder, "lasttoken", {"web_search_query": prompt})
    calls = [
        Call(arguments | {"texts": list(TEXTS)}, rows([_last_token(folder, model, before + text) for text in TEXTS]))
        for arguments, before in (({}, ""), ({"kind": "web_search_query"}, prompt))
    ]
    return Built(folder, calls, plain=True, plain_again=True)


@case("E5-mistral (bare decoder)")
def e5_mistral_bare(folder: Path) -> Built:
    """The same without sentence-transformers' files; the card appends EOS by hand."""
    model = random_model(MistralConfig(**_WIDTHS, sliding_window=64))
    model.save_pretrained(folder)
    save_tokenizer(folder, "sentencepiece", "<s> $A", tokenizer_class="LlamaTokenizer")
    prompt = f"Instruct: {TASK}\nQuery: "
    calls = [
        Call(
            arguments | {"texts": list(TEXTS)},
            rows([_last_token(folder, model, before + text, eos=True) for text in TEXTS]),
        )
        for arguments, before in (({}, ""), ({"kind": "query", "instruction": TASK}, prompt))
    ]
    return Built(folder, calls, {"rule": "e5-mistral"}, plain_again=True)


@case("bge-en-icl")
def bge_en_icl(folder: Path) -> Built:
    """huggingface.co/BAAI/bge-en-icl and FlagEmbedding `decoder_only/icl`: few-shot queries, bare passages."""
    model = random_model(MistralConfig(**_WIDTHS, sliding_window=None))
    model.save_pretrained(folder)
    save_tokenizer(folder, "sentencepiece", "<s> $A </s>", tokenizer_class="LlamaTokenizer", add_eos_token=True)
    save_st(folder, "lasttoken", {})
    shots = "\n\n".join(f"<instruct>{TASK}\n<query>{q}\n<response>{p}" for q, p in EXAMPLES) + "\n\n"

    def query(text: str, before: str = "") -> str:
        return f"{before}<instruct>{TASK}\n<query>{text}\n<response>"

    queries: dict[str, Any] = {"texts": list(TEXTS), "kind": "query", "instruction": TASK}
    calls = [
        Call({"texts": list(TEXTS)}, rows([_last_token(folder, model, text) for text in TEXTS])),
        Call(queries, rows([_last_token(folder, model, query(text)) for text in TEXTS])),
        Call(
            queries | {"texts": TEXTS[:2], "examples": EXAMPLES},
            rows([_last_token(folder, model, query(text, shots)) for text in TEXTS[:2]]),
        ),
    ]
    edit_json(folder / "sentence_bert_config.json", {"max_seq_length": 256})
    return Built(folder, calls, {"rule": "bge-en-icl"})


@case("Qwen3-Embedding")
def qwen3_embedding(folder: Path) -> Built:
    """huggingface.co/Qwen/Qwen3-Embedding-0.6B: the closing token is the padding token and not the tokenizer's EOS."""
    model = random_model(Qwen3Config(**_WIDTHS))
    model.save_pretrained(folder)
    save_tokenizer(
        folder,
        "byte-level",
        "$A </s>",
        tokenizer_class="Qwen2Tokenizer",
        pad_token="</s>",
        eos_token="<|im_end|>",
        bos_token=None,
        unk_token=None,
        padding_side="left",
    )
    prompt = f"Instruct: {TASK}\nQuery:"
    save_st(folder, "lasttoken", {"query": prompt, "document": ""})
    calls = [
        Call(arguments | {"texts": list(TEXTS)}, rows([_last_token(folder, model, before + text) for text in TEXTS]))
        for arguments, before in (({}, ""), ({"kind": "query"}, prompt))
    ]
    return Built(folder, calls, plain=True, plain_again=True)


# Bidirectional decoders read by their mean


@case("GritLM")
def gritlm(folder: Path) -> Built:
    """github.com/ContextualAI/gritlm, `gritlm.py`: embedding mode."""
    model = random_model(MistralConfig(**_WIDTHS, sliding_window=None))
    model.save_pretrained(folder)
    code = "modeling_gritlm7b.Mistral"
    classes = {"AutoModel": f"{code}Model", "AutoModelForCausalLM": f"{code}ForCausalLM"}
    edit_json(folder / "config.json", {"auto_map": classes})
    (folder / "modeling_gritlm7b.py").write_text("raise RuntimeError('remote code ran')\n")
    save_tokenizer(folder, "sentencepiece", "<s> $A", tokenizer_class="LlamaTokenizer")
    tokenizer = AutoTokenizer.from_pretrained(folder)

    def vector(instruction: str, text: str) -> Tensor:
        before = f"<|user|>\n{instruction}\n<|embed|>\n" if instruction else "<|embed|>\n"
        hidden = states(model, tokenizer(before + text).input_ids, bidirectional=True)
        return hidden[len(tokenizer(before).input_ids) :].mean(0)

    calls = [
        Call(arguments | {"texts": list(TEXTS)}, rows([vector(instruction, text) for text in TEXTS]))
        for arguments, instruction in (({}, ""), ({"kind": "query", "instruction": TASK}, TASK))
    ]
    return Built(folder, calls, plain_again=True)


@case("EmbeddingGemma")
def embedding_gemma(folder: Path) -> Built:
    """huggingface.co/google/embeddinggemma-300m: Gemma 3 made bidirectional by its own flag, two dense layers."""
    widths = {**_WIDTHS, "layer_types": ["sliding_attention", "full_attention"], "sliding_window": 8}
    model = random_model(Gemma3TextConfig(**widths, query_pre_attn_scalar=8, use_bidirectional_attention=True))
    model.save_pretrained(folder)
    save_tokenizer(folder, "sentencepiece", "<s> $A </s>", tokenizer_class="GemmaTokenizer")
    prompts = {"query": "task: search result | query: ", "document": "title: none | text: "}
    save_st(folder, "mean_tokens", prompts, dense=2)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    dense = [load_file(folder / f"{i}_Dense/model.safetensors")["linear.weight"] for i in (2, 3)]
    causal = AutoModel.from_config(Gemma3TextConfig(**widths, query_pre_attn_scalar=8, vocab_size=420)).eval()
    causal.load_state_dict(model.state_dict())

    @torch.no_grad()
    def vector(text: str) -> Tensor:
        ids = tokenizer(text).input_ids
        n = len(ids)
        distance = (torch.arange(n)[:, None] - torch.arange(n)).abs()
        # The configuration's window of 8 is the whole width: 4 tokens on either side.
        local = torch.zeros(n, n).masked_fill(distance > 8 // 2, float("-inf"))
        masks = {"full_attention": torch.zeros(1, 1, n, n), "sliding_attention": local[None, None]}
        causal.set_attn_implementation("eager")
        out = causal(input_ids=torch.tensor([ids]), attention_mask=masks, use_cache=False)
        return dense[1] @ (dense[0] @ out.last_hidden_state[0].mean(0))

    calls = [
        Call({"texts": list(TEXTS), "kind": kind}, rows([vector(prompt + text) for text in TEXTS]))
        for kind, prompt in prompts.items()
    ]
    return Built(folder, calls, plain=True, plain_again=True)


@case("Nemotron (is_causal=false)")
def nemotron(folder: Path) -> Built:
    """huggingface.co/nvidia/Nemotron-3-Embed-1B: a stock class, bidirectional by its configuration alone."""
    model = random_model(Ministral3Config(**_WIDTHS, sliding_window=None))
    model.save_pretrained(folder)
    edit_json(folder / "config.json", {"is_causal": False})
    save_tokenizer(folder, "byte-level", "<s> $A")
    prompts = {"query": "query: ", "document": "passage: "}
    save_st(folder, "mean_tokens", prompts)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    calls = [
        Call(
            {"texts": list(TEXTS), "kind": kind},
            rows([states(model, tokenizer(before + text).input_ids, bidirectional=True).mean(0) for text in TEXTS]),
        )
        for kind, before in prompts.items()
    ]
    return Built(folder, calls, plain=True, plain_again=True)


@case("Llama-Embed-Nemotron (llama_bidirec)")
def llama_embed_nemotron(folder: Path) -> Built:
    """huggingface.co/nvidia/llama-embed-nemotron-8b: Llama under a name of its own, with code nobody needs."""
    model = random_model(LlamaConfig(**_WIDTHS))
    model.save_pretrained(folder)
    code = {
        "AutoConfig": "llama_bidirectional_model.LlamaBidirectionalConfig",
        "AutoModel": "llama_bidirectional_model.LlamaBidirectionalModel",
    }
    (folder / "llama_bidirectional_model.py").write_text("raise RuntimeError('remote code ran')\n")
    architecture = {"model_type": "llama_bidirec", "architectures": ["LlamaBidirectionalModel"], "auto_map": code}
    edit_json(folder / "config.json", {**architecture, "pooling": "avg", "temperature": 0.02})
    save_tokenizer(folder, "byte-level", "<s> $A")
    save_st(folder, "mean_tokens", {"query": f"Instruct: {TASK}\nQuery: ", "document": ""})
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    calls = [
        Call(
            {"texts": list(TEXTS), "kind": kind},
            rows([states(model, tokenizer(before + text).input_ids, bidirectional=True).mean(0) for text in TEXTS]),
        )
        for kind, before in (("query", f"Instruct: {TASK}\nQuery: "), ("document", ""))
    ]
    return Built(folder, calls, plain_again=True)

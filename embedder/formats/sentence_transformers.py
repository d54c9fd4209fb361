"""The sentence-transformers folder: both layouts are read, the legacy one is written, for it loads everywhere.

Layouts as of sentence-transformers 6.2 (`base/modules`, `sentence_transformer/modules`).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from transformers import PretrainedConfig

from ..errors import ModelError, UnsupportedModelError
from ..model_config import first_position, load_config
from ..spec import Activation, Attention, DenseSpec, EncoderSpec, Pooling, PromptSpan, Rewrite
from .json_file import read_json, write_json

MODULES_FILE = "modules.json"
FOREIGN_MODULE = "decant.embedder.formats.foreign_module.DecantModule"
MODEL_FILE = "config_sentence_transformers.json"
TRANSFORMER_FILE = "sentence_bert_config.json"

_POOLING = {
    "mean": Pooling.MEAN,
    "weightedmean": Pooling.WEIGHTED_MEAN,
    "lasttoken": Pooling.LAST,
    "cls": Pooling.FIRST,
    "max": Pooling.MAX,
}
_LEGACY_POOLING = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
_ACTIVATIONS = {
    "torch.nn.modules.linear.Identity": Activation.IDENTITY,
    "torch.nn.modules.activation.Tanh": Activation.TANH,
    "torch.nn.modules.activation.ReLU": Activation.RELU,
    "torch.nn.modules.activation.GELU": Activation.GELU,
    "torch.nn.modules.activation.SiLU": Activation.SILU,
}
_DOCUMENT_PROMPTS = ("document", "passage", "corpus")


@dataclass
class SentenceTransformerParts:
    """What a sentence-transformers folder holds."""

    spec: EncoderSpec
    backbone: Path
    tokenizer: Path
    dense: list[Path] = field(default_factory=list[Path])


def read(folder: Path) -> SentenceTransformerParts:
    """Read a folder with a modules.json.

    Raises:
        ModelError: if a file is missing or broken.
        UnsupportedModelError: for a module, option or order that would not be honoured.
    """
    modules = read_modules(folder / MODULES_FILE)
    names = [str(m["type"]).rsplit(".", 1)[-1] for m in modules]
    if names[:2] != ["Transformer", "Pooling"]:
        raise UnsupportedModelError(
            f"{folder} has modules {names}: Decant honours Transformer, Pooling, Dense, Normalize"
        )
    backbone = folder / str(modules[0]["path"])
    pooling, include_prompt = _read_pooling(folder / str(modules[1]["path"]))
    dense: list[DenseSpec] = []
    files: list[Path] = []
    for position, (name, module) in enumerate(zip(names[2:], modules[2:], strict=True), start=3):
        path = folder / str(module["path"])
        if name == "Dense":
            dense.append(_read_dense(path))
            files.append(path / "model.safetensors")
        elif name != "Normalize" or position != len(names):
            raise UnsupportedModelError(f"{folder} has a {name} module at place {position}, which Decant cannot honour")
    plain = read_spec(folder, backbone)
    spec = replace(
        plain, pooling=pooling, include_prompt=include_prompt, dense=tuple(dense), normalize=names[-1] == "Normalize"
    )
    return SentenceTransformerParts(spec, backbone, backbone, files)


def dense_folder(number: int) -> str:
    """Folder of the dense layer `number`, counted from 0: modules are numbered, and two come before."""
    return f"{number + 2}_Dense"


def inexpressible(spec: EncoderSpec) -> str | None:
    """Say why sentence-transformers' own modules cannot compute this encoder's vectors; None where they can."""
    templates = [spec.template(kind) for kind in spec.prompts]
    skips = not spec.include_prompt
    if reason := around_the_text(spec):
        return reason
    if spec.latent:
        return "it has no latent attention"
    if spec.pooling is Pooling.NONE:
        return "it has no vectors of that kind alone"
    if spec.standardize:
        return "it does not standardise vectors"
    if skips and spec.prompt_span is PromptSpan.TEXT:
        return "it leaves special tokens out of the vector only where there is a prompt"
    if skips and spec.prompt_span is PromptSpan.BARE_TOKENS and any(template.parts[0] for template in templates):
        return "it counts a prompt's tokens with the special ones"
    return None


def around_the_text(spec: EncoderSpec) -> str | None:
    """Say what of the way from text to tokens sentence-transformers cannot do; None where it can do all."""
    if spec.rewrite is not Rewrite.NONE:
        return "it does not rewrite texts"
    if spec.retrieved_examples:
        return "it retrieves no examples"
    if not all(spec.template(kind).is_prefix for kind in spec.prompts):
        return "its prompts stand in front of a text only"
    if spec.text_limit:
        return "it limits a text only together with its prompt"
    return None


def write_foreign(folder: Path, spec: EncoderSpec) -> None:
    """Write a modules.json that leads sentence-transformers to Decant, or to a refusal; never to a plain reading."""
    write_json(folder / MODULES_FILE, [{"idx": 0, "name": "0", "path": "", "type": FOREIGN_MODULE}])
    similarity = "cosine" if spec.normalize else "dot"
    # Decant knows the prompts; here they are told apart.
    model = {"model_type": "SentenceTransformer", "prompts": {kind: kind for kind in spec.prompts}}
    write_json(folder / MODEL_FILE, {**model, "similarity_fn_name": similarity})


def write(folder: Path, spec: EncoderSpec, hidden_size: int) -> list[Path]:
    """Write everything but weights and tokenizer; return where each dense layer's weights belong."""
    modules: list[dict[str, Any]] = []

    def add(name: str, path: str, config: dict[str, Any] | None) -> Path:
        modules.append(
            {
                "idx": len(modules),
                "name": str(len(modules)),
                "path": path,
                "type": f"sentence_transformers.models.{name}",
            }
        )
        if path:
            (folder / path).mkdir(parents=True, exist_ok=True)
        if config is not None:
            write_json(folder / path / "config.json", config)
        return folder / path

    add("Transformer", "", None)
    write_json(folder / TRANSFORMER_FILE, {"max_seq_length": spec.max_tokens, "do_lower_case": spec.lowercase})
    modes = {key: _POOLING.get(mode) is spec.pooling for key, mode in _LEGACY_POOLING.items()}
    add(
        "Pooling",
        "1_Pooling",
        {"word_embedding_dimension": hidden_size, **modes, "include_prompt": spec.include_prompt},
    )
    files: list[Path] = []
    names = {activation: dotted for dotted, activation in _ACTIVATIONS.items()}
    for layer in spec.dense:
        config = {
            "in_features": layer.in_features,
            "out_features": layer.out_features,
            "bias": layer.bias,
            "activation_function": names[layer.activation],
        }
        files.append(add("Dense", dense_folder(len(files)), config) / "model.safetensors")
    if spec.normalize:
        add("Normalize", f"{len(modules)}_Normalize", None)
    write_json(folder / MODULES_FILE, modules)
    prompts = {kind: spec.prompt(kind, None) for kind in spec.prompts}
    write_json(
        folder / MODEL_FILE,
        {
            "model_type": "SentenceTransformer",
            "prompts": prompts,
            "default_prompt_name": "document" if prompts["document"] else None,
            "similarity_fn_name": "cosine" if spec.normalize else "dot",
            **({"truncate_dim": spec.default_dimension} if spec.default_dimension else {}),
        },
    )
    return files


def longest_sequence(config: PretrainedConfig, tokenizer: Path, limit: int | None) -> int:
    """Return the most tokens a text may have: the given limit, or the tokenizer's, never beyond the positions."""
    file = tokenizer / "tokenizer_config.json"
    declared = read_json(file).get("model_max_length") if file.is_file() else None
    positions = getattr(config.get_text_config(), "max_position_embeddings", None)
    if isinstance(positions, int):
        positions -= first_position(config.get_text_config())
    known = [int(n) for n in (limit or declared, positions) if isinstance(n, int | float) and 0 < n < 10**9]
    return min(known, default=512)


def read_modules(file: Path) -> list[dict[str, Any]]:
    """Read a modules.json, in order.

    Raises:
        ModelError: if it lists something that is no module, or nothing.
    """
    modules = read_json(file, list)
    if not modules or not all(
        isinstance(module, dict) and {"idx", "type", "path"} <= module.keys() for module in modules
    ):
        raise ModelError(f"{file} lists a module without idx, type or path")
    return sorted(modules, key=lambda module: module["idx"])


def declares_eos(tokenizer: Path) -> bool:
    """Whether a tokenizer_config.json asks for a closing EOS that tokenizer.json need not have.

    Llama and Gemma tokenizers obeyed `add_eos_token` up to transformers 4; version 5 ignores it, and models that were
    published and trained with it would lose the token they are pooled at.
    """
    file = tokenizer / "tokenizer_config.json"
    config = read_json(file) if file.is_file() else {}
    family = str(config.get("tokenizer_class", "")).removesuffix("Fast")
    return family in ("LlamaTokenizer", "GemmaTokenizer", "CodeLlamaTokenizer") and config.get("add_eos_token") is True


def _read_pooling(folder: Path) -> tuple[Pooling, bool]:
    config = read_json(folder / "config.json")
    modes = config.get("pooling_mode") or [name for key, name in _LEGACY_POOLING.items() if config.get(key)] or ["mean"]
    modes = [modes] if isinstance(modes, str) else list(modes)
    if len(modes) != 1 or modes[0] not in _POOLING:
        raise UnsupportedModelError(
            f"{folder} pools by {' + '.join(modes)}: Decant honours one of {', '.join(_POOLING)}"
        )
    return _POOLING[modes[0]], bool(config.get("include_prompt", True))


def _read_dense(folder: Path) -> DenseSpec:
    config = read_json(folder / "config.json")
    activation = str(config.get("activation_function", "torch.nn.modules.activation.Tanh"))
    keys = [config.get(f"module_{end}_name", "sentence_embedding") for end in ("input", "output")]
    if activation not in _ACTIVATIONS or config.get("use_residual") or set(keys) - {"sentence_embedding", None}:
        raise UnsupportedModelError(f"{folder} is a dense layer with options Decant cannot honour: {config}")
    if not {"in_features", "out_features"} <= config.keys():
        raise ModelError(f"{folder / 'config.json'} does not say how many features the dense layer has")
    return DenseSpec(
        int(config["in_features"]),
        int(config["out_features"]),
        bool(config.get("bias", True)),
        _ACTIVATIONS[activation],
    )


def read_spec(folder: Path, backbone: Path, model_type: str = "SentenceTransformer") -> EncoderSpec:
    """Read what a folder says of itself outside its modules: attention, prompts, limits and widths.

    Raises:
        UnsupportedModelError: if it says that it is a model of another type.
    """
    transformer = read_json(backbone / TRANSFORMER_FILE) if (backbone / TRANSFORMER_FILE).is_file() else {}
    model = read_json(folder / MODEL_FILE) if (folder / MODEL_FILE).is_file() else {}
    if model.get("model_type", model_type) != model_type:
        raise UnsupportedModelError(f"{folder} is a {model['model_type']}, which this version of Decant cannot load")
    config = load_config(backbone) if (backbone / "config.json").is_file() else PretrainedConfig()
    width = model.get("truncate_dim")
    return EncoderSpec(
        attention=Attention.BIDIRECTIONAL if is_bidirectional(config) else Attention.CAUSAL,
        prompts=_prompts(model),
        prompt_span=PromptSpan.TOKENS,
        append_eos=declares_eos(backbone),
        lowercase=bool(transformer.get("do_lower_case", False)),
        max_tokens=longest_sequence(config, backbone, transformer.get("max_seq_length")),
        dimensions=tuple(model.get("matryoshka_dimensions") or ()) + ((width,) if width else ()),
        default_dimension=width,
    )


def _prompts(model: dict[str, Any]) -> dict[str, str]:
    """Follow sentence-transformers: a query takes `query`, a document the first that exists, else the default."""
    prompts: dict[str, str] = dict(model.get("prompts") or {})
    default = prompts.get(model.get("default_prompt_name") or "", "")
    document = next((prompts[name] for name in _DOCUMENT_PROMPTS if name in prompts), default)
    return {**prompts, "query": prompts.get("query", default), "document": document}


def is_bidirectional(config: PretrainedConfig) -> bool:
    """Whether transformers' forward of this folder is bidirectional, which sentence-transformers would run as is."""
    text = config.get_text_config()
    declared = getattr(text, "is_causal", getattr(config, "is_causal", None))
    if declared is not None:
        return not declared
    if getattr(text, "use_bidirectional_attention", None) in (True, "all"):
        return True
    return not is_decoder(text)


def is_decoder(config: PretrainedConfig) -> bool:
    """Whether transformers knows the architecture as a causal language model and not as a masked one."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as CAUSAL
    from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES as MASKED

    return config.model_type in CAUSAL and config.model_type not in MASKED

"""The sentence-transformers SparseEncoder folder: a language model's logits and their SPLADE pooling.

Read in every layout from 5.0 to 6.2. Written as `MLMTransformer` for a masked language model, for that loads in all of
them, and as 6.2's `Transformer` over text generation for a decoder, which earlier versions cannot run at all.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from ..errors import UnsupportedModelError
from ..spec import EncoderSpec, Pooling, SparseSpec
from .json_file import read_json, write_json
from .sentence_transformers import (
    MODEL_FILE,
    MODULES_FILE,
    TRANSFORMER_FILE,
    SentenceTransformerParts,
    around_the_text,
    read_modules,
    read_spec,
)

_POOLING_FOLDER = "1_SpladePooling"
_LEGACY = "sentence_transformers.sparse_encoder.models"
_LOGITS = {"text": {"method": "forward", "method_output_name": "logits"}}
_EVERY_TOKEN = {"text": {"logits_to_keep": 0}}
_READERS = ("Transformer", "MLMTransformer")


def is_sparse_encoder(folder: Path) -> bool:
    """Whether a folder with a modules.json is a SparseEncoder's."""
    file = folder / MODEL_FILE
    declared = read_json(file).get("model_type") if file.is_file() else None
    modules = read_modules(folder / MODULES_FILE)
    return declared == "SparseEncoder" or any(str(m["type"]).endswith(".SpladePooling") for m in modules)


def read(folder: Path) -> SentenceTransformerParts:
    """Read a SparseEncoder folder.

    Its pooling takes every token, special ones too, and so does the spec.

    Raises:
        ModelError: if a file is missing or broken.
        UnsupportedModelError: for a module or option that would not be honoured.
    """
    modules = read_modules(folder / MODULES_FILE)
    names = [str(module["type"]).rsplit(".", 1)[-1] for module in modules]
    if names[0] in ("Router", "SparseStaticEmbedding"):
        raise UnsupportedModelError(
            f"{folder} reads queries by a table of weights without a model, which Decant cannot do: use its document "
            "encoder for both, from the subfolder it lies in"
        )
    if len(names) != 2 or names[0] not in _READERS or names[1] != "SpladePooling":
        raise UnsupportedModelError(f"{folder} has modules {names}: Decant honours a Transformer and its SpladePooling")
    backbone = folder / str(modules[0]["path"])
    _check_logits(backbone, names[0])
    pooling = read_json(folder / str(modules[1]["path"]) / "config.json")
    strategy, activation = pooling.get("pooling_strategy", "max"), pooling.get("activation_function", "relu")
    if strategy != "max" or activation not in ("relu", "log1p_relu"):
        raise UnsupportedModelError(
            f"{folder / _POOLING_FOLDER} pools by {strategy} over {activation}: Decant honours max, over relu or "
            "log1p_relu"
        )
    plain = read_spec(folder, backbone, model_type="SparseEncoder")
    cap = read_json(folder / MODEL_FILE).get("max_active_dims") if (folder / MODEL_FILE).is_file() else None
    sparse = SparseSpec(top_k=cap, special_tokens=True, double_log=activation == "log1p_relu")
    spec = replace(plain, pooling=Pooling.NONE, normalize=False, sparse=sparse)
    return SentenceTransformerParts(spec, backbone, backbone)


def _check_logits(backbone: Path, reader: str) -> None:
    """Refuse a decoder of which only the last token's logits would be pooled, which is 6.2's default."""
    options = read_json(backbone / TRANSFORMER_FILE) if (backbone / TRANSFORMER_FILE).is_file() else {}
    task = options.get("transformer_task", "fill-mask" if reader == "MLMTransformer" else None)
    if task == "fill-mask":
        return
    kept = dict(dict(options.get("processing_kwargs") or {}).get("text") or {}).get("logits_to_keep")
    if task != "text-generation" or kept != 0:
        raise UnsupportedModelError(
            f"{backbone / TRANSFORMER_FILE} has transformer_task={task} and logits_to_keep={kept}: Decant honours "
            "fill-mask, and text-generation with logits_to_keep=0"
        )


def inexpressible(spec: EncoderSpec) -> str | None:
    """Say why a SparseEncoder cannot compute this encoder's rows; None where it can."""
    if spec.sparse is None or spec.router or spec.pooling is not Pooling.NONE:
        return "it gives sparse vectors alone"
    if not spec.sparse.special_tokens:
        return "its pooling takes special tokens as well"
    if spec.sparse.shifted:
        return "its pooling takes the logits of a text's last token, too"
    if not spec.include_prompt:
        return "its sparse pooling takes the prompt as well"
    return around_the_text(spec)


def write(folder: Path, spec: EncoderSpec, *, masked: bool) -> None:
    """Write everything but weights and tokenizer; `masked` for a masked language model, else it is a decoder."""
    assert spec.sparse is not None
    first = f"{_LEGACY}.MLMTransformer" if masked else "sentence_transformers.base.modules.transformer.Transformer"
    kinds = [("", first), (_POOLING_FOLDER, f"{_LEGACY}.SpladePooling")]
    modules = [{"idx": i, "name": str(i), "path": path, "type": kind} for i, (path, kind) in enumerate(kinds)]
    write_json(folder / MODULES_FILE, modules)
    options: dict[str, Any] = {"max_seq_length": spec.max_tokens, "do_lower_case": spec.lowercase}
    if not masked:
        options = {
            "transformer_task": "text-generation",
            "modality_config": _LOGITS,
            "module_output_name": "token_embeddings",
            "processing_kwargs": _EVERY_TOKEN,
        }
    write_json(folder / TRANSFORMER_FILE, options)
    activation = "log1p_relu" if spec.sparse.double_log else "relu"
    (folder / _POOLING_FOLDER).mkdir()
    write_json(
        folder / _POOLING_FOLDER / "config.json",
        {"pooling_strategy": "max", "activation_function": activation, "word_embedding_dimension": None},
    )
    prompts = {kind: spec.prompt(kind, None) for kind in spec.prompts}
    model = {
        "model_type": "SparseEncoder",
        "prompts": prompts,
        "default_prompt_name": "document" if prompts["document"] else None,
        "similarity_fn_name": "dot",
    }
    write_json(folder / MODEL_FILE, {**model, **({"max_active_dims": spec.sparse.top_k} if spec.sparse.top_k else {})})

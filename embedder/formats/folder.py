"""What kind of model folder this is, and where its parts lie."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from transformers import PretrainedConfig

from ..errors import ModelError, UnsupportedModelError
from ..model_config import load_config, model_type
from ..prompts import apply_rule
from ..spec import SPEC_FILE, Attention, EncoderSpec
from . import llm2vec, nv_embed, sentence_transformers, sparse_encoder
from .json_file import read_json

ADAPTER_FILE = "adapter_config.json"
LATENT_FOLDER = "latent_attention"
LM_HEAD_FOLDER = "lm_head"
CALIBRATION_FOLDER = "calibration"
EXAMPLES_FILE = "examples.jsonl"

# Formats with rules of their own, which a generic reading would get wrong without an error.
_NOT_YET = {
    "1_MultiVectorMaskFilter": "a multi-vector encoder",
}

# The model that comes with Decant.
DEFAULT_MODEL = Path(__file__).parents[1] / "models" / "decant-mini"


@dataclass(frozen=True)
class ModelFiles:
    """An encoder on disk.

    Attributes:
        spec: what the folder says about itself.
        backbone: folder with config.json and the weights.
        tokenizer: folder with tokenizer.json.
        dense: weight file of each dense layer in the spec.
        adapters: PEFT folders to merge into the backbone, in this order.
        config: the backbone's configuration, where it is not the folder's.
        renamed: how names of weights in the folder become the backbone's, as regular expressions.
        latent: folder whose safetensors hold the latent attention block.
        lm_head: folder whose safetensors hold the language-model head, where it is not the backbone's.
        calibration: folder with the mean and deviation of what the spec standardises.
        examples: the .jsonl of examples that queries are given.
        base_name: what the folder calls the decoder everything started from; empty if it does not say.
    """

    spec: EncoderSpec
    backbone: Path
    tokenizer: Path
    dense: list[Path] = field(default_factory=list[Path])
    adapters: list[Path] = field(default_factory=list[Path])
    config: PretrainedConfig | None = None
    renamed: Mapping[str, str] = field(default_factory=dict[str, str])
    latent: Path | None = None
    lm_head: Path | None = None
    calibration: Path | None = None
    examples: Path | None = None
    base_name: str = ""

    def weights(self) -> tuple[list[Path], list[Path]]:
        """Return the folders whose files make the model, in the order they take effect, and the heads' files."""
        apart = [place for place in (self.latent, self.lm_head) if place and place != self.backbone]
        heads = [file for place in apart for file in sorted(place.glob("*.safetensors"))]
        return [self.backbone, *self.adapters, self.tokenizer], [*self.dense, *heads]


def resolve(path_or_name: str | Path) -> Path:
    """Return the folder of a model: a local one, `decant-mini`, or a hub repository's snapshot, downloaded if needed.

    Raises:
        ModelError: if it is neither, or the hub cannot be reached and holds no cached copy here.
    """
    path = Path(path_or_name).expanduser()
    if path.is_dir():
        return path
    name = str(path_or_name)
    if name == DEFAULT_MODEL.name and not path.exists():
        return DEFAULT_MODEL
    if path.exists() or name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise ModelError(f"no model folder at {name}: give a folder, or a hub name such as organisation/model")
    try:
        return Path(snapshot_download(name, ignore_patterns=["*.onnx", "*.gguf", "*.h5", "*.msgpack", "openvino/*"]))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        why = str(error).strip().splitlines()[0]
        raise ModelError(f"unknown model {name}: no such folder here, and the hub did not give it ({why})") from error


def read_folder(folder: Path, *, alone: bool = True) -> ModelFiles:
    """Find out what a model folder holds.

    A folder that only holds a decoder has no description of an encoder; it gets Decant's default conversion, the
    plain `EncoderSpec()` with the model's own limits: bidirectional attention, mean pooling, unit norm.

    Args:
        folder: the folder.
        alone: whether nothing is stacked on it; an LLM2Vec adapter on a plain decoder is then refused.

    Raises:
        ModelError: if the folder is no model or contradicts itself.
        UnsupportedModelError: for a format whose rules this version does not know.
    """
    for name, what in _NOT_YET.items():
        if (folder / name).exists():
            raise UnsupportedModelError(f"{folder} is {what}, which this version of Decant cannot load")
    if (folder / SPEC_FILE).is_file():
        return _saved_by_decant(folder)
    if (folder / llm2vec.CONFIG_FILE).is_file():
        return _llm2vec(folder, alone=alone)
    config = read_json(folder / "config.json") if (folder / "config.json").is_file() else {}
    if nv_embed.is_nv_embed(config):
        spec, backbone = nv_embed.read(folder)
        return ModelFiles(spec, folder, folder, config=backbone, renamed=nv_embed.RENAMED, latent=folder)
    if any("modeling_gritlm" in str(reference) for reference in dict(config.get("auto_map") or {}).values()):
        files = _with_adapter(ModelFiles(EncoderSpec(), folder, folder), bare=True)
        return replace(files, spec=apply_rule("gritlm", files.spec))
    if (folder / sentence_transformers.MODULES_FILE).is_file():
        reader = sparse_encoder if sparse_encoder.is_sparse_encoder(folder) else sentence_transformers
        parts = reader.read(folder)
        return _with_adapter(ModelFiles(parts.spec, parts.backbone, parts.tokenizer, parts.dense))
    if (folder / ADAPTER_FILE).is_file() or config:
        return _with_adapter(ModelFiles(EncoderSpec(), folder, folder), bare=True)
    raise ModelError(f"{folder} is not a model folder: it has neither config.json nor modules.json")


def stack_adapters(files: ModelFiles, adapters: Sequence[Path]) -> ModelFiles:
    """Put PEFT folders on top of a model; an LLM2Vec folder among them brings its description.

    Raises:
        ModelError: if one of them is no adapter.
    """
    for adapter in adapters:
        if not (adapter / ADAPTER_FILE).is_file():
            raise ModelError(f"{adapter} is no adapter: it has no {ADAPTER_FILE}")
        files = replace(files, adapters=[*files.adapters, adapter])
        if (adapter / llm2vec.CONFIG_FILE).is_file():
            files = replace(files, spec=_llm2vec_spec(adapter, files))
    return files


def _saved_by_decant(folder: Path) -> ModelFiles:
    spec = EncoderSpec.from_json((folder / SPEC_FILE).read_text(encoding="utf-8"))
    if (folder / "config.json").is_file():
        _refuse_two_attentions(folder, spec)
    dense = [folder / sentence_transformers.dense_folder(i) / "model.safetensors" for i in range(len(spec.dense))]
    lm_head, calibration = folder / LM_HEAD_FOLDER, folder / CALIBRATION_FOLDER
    return ModelFiles(
        spec,
        folder,
        folder,
        dense,
        latent=folder / LATENT_FOLDER if spec.latent else None,
        lm_head=lm_head if lm_head.is_dir() else None,
        calibration=calibration if calibration.is_dir() else None,
        examples=folder / EXAMPLES_FILE if (folder / EXAMPLES_FILE).is_file() else None,
    )


def _refuse_two_attentions(folder: Path, spec: EncoderSpec) -> None:
    """Refuse a model that would be another one wherever decant.json is not read."""
    stock = Attention.BIDIRECTIONAL if sentence_transformers.is_bidirectional(load_config(folder)) else Attention.CAUSAL
    if stock is not spec.attention:
        raise ModelError(
            f"{folder / 'config.json'} describes a {stock} model, {SPEC_FILE} a {spec.attention} one, and other "
            "libraries read the former: convert the model again"
        )


def _llm2vec(folder: Path, *, alone: bool) -> ModelFiles:
    files = _with_adapter(ModelFiles(EncoderSpec(), folder, folder))
    if alone and files.adapters == [folder]:
        raise UnsupportedModelError(
            f"{folder} is an LLM2Vec adapter that names a plain decoder as its base, where it may have been trained on "
            "another adapter: name the model it belongs on, and this folder among its adapters"
        )
    return replace(files, spec=_llm2vec_spec(folder, files))


def _llm2vec_spec(folder: Path, files: ModelFiles) -> EncoderSpec:
    return llm2vec.read_spec(folder, files.base_name, model_type(files.config or load_config(files.backbone)))


def _with_adapter(files: ModelFiles, *, bare: bool = False) -> ModelFiles:
    """Follow PEFT adapters down to their base; read the limits of a bare decoder."""
    backbone, adapters, tokenizer = files.backbone, list(files.adapters), files.tokenizer
    base_name = ""
    while (backbone / ADAPTER_FILE).is_file():
        if backbone in adapters:
            raise ModelError(f"{backbone / ADAPTER_FILE} names a base that leads back to itself")
        adapters.insert(0, backbone)
        base_name = str(read_json(backbone / ADAPTER_FILE).get("base_model_name_or_path") or "")
        if not base_name:
            raise ModelError(f"{backbone / ADAPTER_FILE} names no base model")
        local = backbone / base_name
        backbone = local if local.is_dir() else resolve(base_name)
        if not (tokenizer / "tokenizer.json").is_file():
            tokenizer = backbone
    if (backbone / "config.json").is_file():
        base_name = base_name or str(read_json(backbone / "config.json").get("_name_or_path") or "")
    spec = files.spec
    if bare:
        max_tokens = sentence_transformers.longest_sequence(load_config(backbone), tokenizer, None)
        spec = EncoderSpec(max_tokens=max_tokens, append_eos=sentence_transformers.declares_eos(tokenizer))
    return ModelFiles(spec, backbone, tokenizer, files.dense, adapters, base_name=base_name)

"""What kind of model folder this is, and where its parts lie."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from ..backbone import load_config
from ..errors import ModelError, UnsupportedModelError
from ..spec import SPEC_FILE, EncoderSpec
from . import sentence_transformers
from .json_file import read_json

ADAPTER_FILE = "adapter_config.json"

# Formats with rules of their own, which a generic reading would get wrong without an error.
_NOT_YET = {
    "llm2vec_config.json": "an LLM2Vec folder",
    "1_SpladePooling": "a sparse encoder",
    "1_MultiVectorMaskFilter": "a multi-vector encoder",
}


@dataclass(frozen=True)
class ModelFiles:
    """An encoder on disk.

    Attributes:
        spec: what the folder says about itself.
        backbone: folder with config.json and the weights.
        tokenizer: folder with tokenizer.json.
        dense: weight file of each dense layer in the spec.
        adapters: PEFT folders to merge into the backbone, in this order.
    """

    spec: EncoderSpec
    backbone: Path
    tokenizer: Path
    dense: list[Path] = field(default_factory=list[Path])
    adapters: list[Path] = field(default_factory=list[Path])


def resolve(path_or_name: str | Path) -> Path:
    """Return the folder of a model: a local one, or a hub repository's snapshot, downloaded if needed.

    Raises:
        ModelError: if it is neither, or the hub cannot be reached and holds no cached copy here.
    """
    path = Path(path_or_name).expanduser()
    if path.is_dir():
        return path
    name = str(path_or_name)
    if path.exists() or name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise ModelError(f"no model folder at {name}: give a folder, or a hub name such as organisation/model")
    try:
        return Path(snapshot_download(name, ignore_patterns=["*.onnx", "*.gguf", "*.h5", "*.msgpack", "openvino/*"]))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        why = str(error).strip().splitlines()[0]
        raise ModelError(f"unknown model {name}: no such folder here, and the hub did not give it ({why})") from error


def read_folder(folder: Path) -> ModelFiles:
    """Find out what a model folder holds.

    A folder that only holds a decoder has no description of an encoder; it gets Decant's default conversion, the
    plain `EncoderSpec()` with the model's own limits: bidirectional attention, mean pooling, unit norm.

    Raises:
        ModelError: if the folder is no model or contradicts itself.
        UnsupportedModelError: for a format whose rules this version does not know.
    """
    for name, what in _NOT_YET.items():
        if (folder / name).exists():
            raise UnsupportedModelError(f"{folder} is {what}, which this version of Decant cannot load")
    if (folder / SPEC_FILE).is_file():
        spec = EncoderSpec.from_json((folder / SPEC_FILE).read_text(encoding="utf-8"))
        parts = sentence_transformers.read(folder)
        return ModelFiles(spec, parts.backbone, parts.tokenizer, parts.dense)
    if (folder / sentence_transformers.MODULES_FILE).is_file():
        parts = sentence_transformers.read(folder)
        return _with_adapter(ModelFiles(parts.spec, parts.backbone, parts.tokenizer, parts.dense))
    if (folder / ADAPTER_FILE).is_file() or (folder / "config.json").is_file():
        return _with_adapter(ModelFiles(EncoderSpec(), folder, folder), bare=True)
    raise ModelError(f"{folder} is not a model folder: it has neither config.json nor modules.json")


def _with_adapter(files: ModelFiles, *, bare: bool = False) -> ModelFiles:
    """Follow a PEFT adapter to its base; read the limits of a bare decoder."""
    backbone, adapters, tokenizer = files.backbone, list(files.adapters), files.tokenizer
    if (backbone / ADAPTER_FILE).is_file():
        adapters.insert(0, backbone)
        base = read_json(backbone / ADAPTER_FILE).get("base_model_name_or_path")
        if not base:
            raise ModelError(f"{backbone / ADAPTER_FILE} names no base model")
        local = backbone / str(base)
        backbone = local if local.is_dir() else resolve(str(base))
        if not (tokenizer / "tokenizer.json").is_file():
            tokenizer = backbone
    spec = files.spec
    if bare:
        max_tokens = sentence_transformers.longest_sequence(load_config(backbone), tokenizer, None)
        spec = EncoderSpec(max_tokens=max_tokens)
    return ModelFiles(spec, backbone, tokenizer, files.dense, adapters)

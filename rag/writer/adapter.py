"""A trained writer as a folder: XC-Cache's `config.json` and `model.safetensors`, without the decoder's weights.

The decoder is the encoder that the writer was trained for, so on disk both share their weights.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from ...embedder.encoder import Encoder
from ..errors import GeneratorError
from ..reader.adapter import weights_digest
from ..reader.confidence import Calibration
from ..reader.model import ReaderConfig, SpanReader
from ..xc.config import XcConfig
from ..xc.decoder import CONFIG_FILE, WEIGHTS_FILE, XcDecoder
from .model import CopyWriter

SHIPPED = Path(__file__).parent.parent / "models" / "decant-mini-xc"
_FORMAT = 1
_OWN = "decant"
_PARTS = ("cross_attn_layers", "reader", "head")


@dataclass(frozen=True)
class TrainedWriter:
    """A writer and what it needs besides.

    Attributes:
        passages: how many it was trained to read for a question.
        weights: digest of the encoder's weights, see `weights_digest`.
    """

    writer: CopyWriter
    calibration: Calibration
    passages: int
    weights: str

    def save(self, folder: Path, base: str) -> None:
        """Write the folder, weights as float16; `base` is what to call the encoder in it."""
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {
            f"{part}.{name}": (value.half() if value.is_floating_point() else value).contiguous()
            for part, module in _parts(self.writer).items()
            for name, value in module.state_dict().items()
        }
        save_file(tensors, folder / WEIGHTS_FILE)
        facts = self.writer.decoder.config.official(base)
        facts[_OWN] |= {
            "writer_format": _FORMAT,
            "encoder_weights": self.weights,
            "passages": self.passages,
            "reader": asdict(self.writer.reader.config),
            "calibration": asdict(self.calibration),
        }
        (folder / CONFIG_FILE).write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path, encoder: Encoder) -> TrainedWriter:
        """Load a writer for an encoder, in float32.

        Raises:
            GeneratorError: the folder holds none, or one that was trained on another encoder.
        """
        try:
            facts = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
            own: dict[str, Any] = facts[_OWN]
            if own.get("writer_format") != _FORMAT:
                raise ValueError(f"its format is {own.get('writer_format')}, read here is {_FORMAT}")
            reader = SpanReader(ReaderConfig(**own["reader"]))
            values = own["calibration"]
            calibration = Calibration(tuple(values["weights"]), values["threshold"], values["sure"])
            passages, weights = int(own["passages"]), str(own["encoder_weights"])
            tensors = load_file(folder / WEIGHTS_FILE)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
            raise _no_writer(folder, error) from error
        if weights != weights_digest(encoder):
            raise GeneratorError(
                f"the writer in {folder} was trained on another encoder than {encoder.path.name}: train one for it, "
                "or choose another generator"
            )
        base = decoder_of(encoder)
        writer = CopyWriter(XcDecoder(base, XcConfig.from_official(facts, base.config)), reader)
        try:
            for part, module in _parts(writer).items():
                module.load_state_dict(_below(part, tensors))
        except RuntimeError as error:
            raise _no_writer(folder, error) from error
        writer.to(encoder.backbone.device).eval().requires_grad_(False)
        return cls(writer, calibration, passages, weights)


def decoder_of(encoder: Encoder) -> PreTrainedModel:
    """An encoder's layers as a decoder of transformers, float32, on the CPU.

    Raises:
        GeneratorError: its folder holds no model that transformers can load as one.
    """
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(encoder.path, dtype=torch.float32, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).splitlines()[0]
        raise GeneratorError(f"{encoder.path.name} cannot serve as a decoder ({reason}): use decant-mini") from error
    return cast(PreTrainedModel, loaded)


def holds_writer(folder: Path) -> bool:
    """Whether a folder's `config.json` is of a writer."""
    try:
        return "writer_format" in json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8")).get(_OWN, {})
    except (OSError, ValueError, AttributeError, TypeError):
        return False


def _parts(writer: CopyWriter) -> dict[str, nn.Module]:
    return dict(zip(_PARTS, (writer.decoder.cross_attn_layers, writer.reader, writer.head), strict=True))


def _below(part: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    own = {name.removeprefix(f"{part}."): value for name, value in tensors.items() if name.startswith(f"{part}.")}
    return {name: value.float() if value.is_floating_point() else value for name, value in own.items()}


def _no_writer(folder: Path, error: Exception) -> GeneratorError:
    reason = " ".join(str(error).split())[:160]
    return GeneratorError(f"{folder} holds no writer ({reason}): train one, see docs/rag.md")

"""A trained reader as a folder: `reader.json` and `model.safetensors`, for exactly the encoder it was trained on."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from ...embedder.encoder import Encoder
from ..errors import GeneratorError
from .confidence import Calibration
from .model import ReaderConfig, SpanReader

SHIPPED = Path(__file__).parent.parent / "models" / "decant-mini-reader"
_DESCRIPTION, _WEIGHTS = "reader.json", "model.safetensors"
_FORMAT = 3


@dataclass(frozen=True)
class TrainedReader:
    """A reader and what it needs besides.

    Attributes:
        weights: digest of the encoder's weights, see `weights_digest`.
    """

    reader: SpanReader
    calibration: Calibration
    weights: str

    def save(self, folder: Path) -> None:
        """Write the folder; weights as float16."""
        folder.mkdir(parents=True, exist_ok=True)
        state = {
            name: (value.half() if value.is_floating_point() else value).contiguous()
            for name, value in self.reader.state_dict().items()
        }
        save_file(state, folder / _WEIGHTS)
        facts = {
            "format": _FORMAT,
            "encoder_weights": self.weights,
            "config": asdict(self.reader.config),
            "calibration": asdict(self.calibration),
        }
        (folder / _DESCRIPTION).write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path, encoder: Encoder) -> TrainedReader:
        """Load a reader for an encoder, in float32.

        Raises:
            GeneratorError: the folder holds none, or one that was trained on another encoder.
        """
        found = cls._open(folder)
        if found.weights != weights_digest(encoder):
            raise GeneratorError(
                f"the reader in {folder} was trained on another encoder than {encoder.path.name}: train one for it, "
                "or answer without a reader"
            )
        found.reader.to(encoder.backbone.device)
        return found

    @classmethod
    def shipped(cls, encoder: Encoder) -> TrainedReader | None:
        """The reader that ships, if it was trained on this encoder; large weights are read only where sizes agree."""
        found = cls._open(SHIPPED)
        config, text = found.reader.config, encoder.text_tokenizer
        if (config.hidden, config.vocabulary) != (encoder.backbone.hidden_size, text.vocabulary_size):
            return None
        if found.weights != weights_digest(encoder):
            return None
        found.reader.to(encoder.backbone.device)
        return found

    @classmethod
    def _open(cls, folder: Path) -> TrainedReader:
        try:
            facts = _facts(folder)
            reader = SpanReader(ReaderConfig(**facts["config"]))
            state = load_file(folder / _WEIGHTS)
            reader.load_state_dict({n: v.float() if v.is_floating_point() else v for n, v in state.items()})
            return cls(reader.eval().requires_grad_(False), _calibration(facts), facts["encoder_weights"])
        except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
            reason = str(error).splitlines()[0]
            raise GeneratorError(f"{folder} holds no reader ({reason}): train one, see docs/rag.md") from error


def begin_from(reader: SpanReader, folder: Path) -> list[str]:
    """Give a reader the weights of another one wherever they have the same shape; returns the names of the others.

    The other may be of an older format.

    Raises:
        GeneratorError: the folder holds no reader.
    """
    try:
        state = load_file(folder / _WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise GeneratorError(f"{folder} holds no reader to begin from ({error}): choose another") from error
    left: list[str] = []
    with torch.no_grad():
        for name, weight in reader.named_parameters():
            if name in state and state[name].shape == weight.shape:
                weight.copy_(state[name])
            else:
                left.append(name)
    return left


def _facts(folder: Path) -> dict[str, Any]:
    facts: dict[str, Any] = json.loads((folder / _DESCRIPTION).read_text(encoding="utf-8"))
    if facts.get("format") != _FORMAT:
        raise ValueError(f"its format is {facts.get('format')}, read here is {_FORMAT}")
    return facts


def _calibration(facts: dict[str, Any]) -> Calibration:
    values = facts["calibration"]
    return Calibration(tuple(values["weights"]), values["threshold"], values["sure"])


def weights_digest(encoder: Encoder) -> str:
    """32 hexadecimal digits of the encoder's weight files."""
    digest = hashlib.blake2b(digest_size=16)
    for file in sorted(encoder.path.glob("*.safetensors")):
        with file.open("rb") as stream:
            while block := stream.read(1 << 24):
                digest.update(block)
    return digest.hexdigest()

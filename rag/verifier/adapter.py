"""A verifier as a folder: PEFT adapter, `head.safetensors`, `verifier.json`; for one encoder alone."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from peft.utils import SAFETENSORS_WEIGHTS_NAME, get_peft_model_state_dict
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ...embedder.encoder import Encoder
from ...embedder.errors import ModelError
from ...embedder.training.packed_texts import PackedTexts
from ...kernels.attention import PackedLayout
from ..errors import GeneratorError
from ..reader.adapter import weights_digest
from ..reader.confidence import Calibration
from ..reader.decode import Span, best_spans
from ..states import Tokens
from .model import Marks, SpanHead, pair_around, read_pairs

_DESCRIPTION, _HEAD = "verifier.json", "head.safetensors"
_FORMAT = 1


@dataclass(frozen=True)
class Verifier:
    """A decoder with its adapters merged in, and the head on it; threads may share it.

    Attributes:
        tokens: most tokens of a question and a piece together, marks included.
        calibration: of the reader's candidates that it has read.
    """

    encoder: Encoder
    head: SpanHead
    marks: Marks
    tokens: int
    calibration: Calibration

    @torch.inference_mode()
    def spans(self, asked: Tokens, proposed: Sequence[tuple[Tokens, int, int]]) -> list[Span]:
        """The best span of the piece around each (passage, first token, last token), in tokens of its passage."""
        cut = [pair_around(asked.ids, passage.ids, first, last, self.tokens) for passage, first, last in proposed]
        logits = read_pairs(
            self._hidden, self.head, [pair for pair, _ in cut], self.marks, self.encoder.backbone.device
        )
        found = zip(best_spans(*logits), cut, strict=True)
        return [replace(span, first=start + span.first, last=start + span.last) for span, (_, start) in found]

    def _hidden(self, texts: PackedTexts, layout: PackedLayout) -> Tensor:
        return self.encoder.backbone(texts.input_ids, layout)

    @classmethod
    def load(cls, folder: Path, encoder: Encoder) -> Verifier:
        """Load a verifier for an encoder, whose weights are read once more from its folder.

        Raises:
            GeneratorError: the folder holds none, or one that was trained on another encoder.
        """
        try:
            facts: dict[str, Any] = json.loads((folder / _DESCRIPTION).read_text(encoding="utf-8"))
            if facts.get("format") != _FORMAT:
                raise ValueError(f"its format is {facts.get('format')}, read here is {_FORMAT}")
            weights, tokens = str(facts["encoder_weights"]), int(facts["tokens"])
            calibration = Calibration.of(facts["calibration"])
            head = SpanHead(encoder.backbone.hidden_size)
            head.load_state_dict({name: value.float() for name, value in load_file(folder / _HEAD).items()})
        except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
            reason = str(error).splitlines()[0]
            raise GeneratorError(f"{folder} holds no verifier ({reason}): train one, see docs/rag.md") from error
        if weights != weights_digest(encoder):
            raise GeneratorError(
                f"the verifier in {folder} was trained on another encoder than {encoder.path.name}: train one for it, "
                "or answer without one"
            )
        backbone = encoder.backbone
        try:
            adapted = Encoder.load(
                encoder.path, device=backbone.device, dtype=backbone.dtype, adapters=[folder], verify=False
            )
        except ModelError as error:
            raise GeneratorError(f"{folder} holds no verifier ({error}): train one, see docs/rag.md") from error
        head = head.eval().requires_grad_(False).to(backbone.device)
        return cls(adapted, head, Marks.of(encoder), tokens, calibration)


def save_verifier(encoder: Encoder, adapters: PeftModel, head: SpanHead, tokens: int, folder: Path) -> None:
    """Write a trained verifier's folder, not calibrated; weights as float16."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: value.half().contiguous() for name, value in get_peft_model_state_dict(adapters).items()}
    save_file(weights, folder / SAFETENSORS_WEIGHTS_NAME)
    config = replace(adapters.peft_config["default"], base_model_name_or_path=None, inference_mode=True)
    config.save_pretrained(str(folder))
    save_file({name: value.half().contiguous() for name, value in head.state_dict().items()}, folder / _HEAD)
    _describe(folder, weights_digest(encoder), tokens, Calibration())


def save_calibration(folder: Path, calibration: Calibration) -> None:
    """Put a calibration into a verifier's folder."""
    facts = json.loads((folder / _DESCRIPTION).read_text(encoding="utf-8"))
    _describe(folder, facts["encoder_weights"], facts["tokens"], calibration)


def _describe(folder: Path, weights: str, tokens: int, calibration: Calibration) -> None:
    facts = {"format": _FORMAT, "encoder_weights": weights, "tokens": tokens, "calibration": asdict(calibration)}
    (folder / _DESCRIPTION).write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")

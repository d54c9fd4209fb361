"""From a model folder to the parts an encoder is put together from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from . import calibration
from .adapters import merge_adapter
from .backbone import Backbone
from .calibration import Calibration
from .device import choose_device, choose_dtype
from .errors import ModelError
from .examples import read_examples
from .formats.folder import ModelFiles, read_folder, resolve, stack_adapters
from .prompts import apply_rule
from .spec import EncoderSpec, ExampleSpec, Pooling
from .tokenization import TextTokenizer


@dataclass(frozen=True)
class Parts:
    """What a folder holds of an encoder; its heads are made from `files` and the backbone."""

    files: ModelFiles
    backbone: Backbone
    tokenizer: TextTokenizer
    calibrations: Mapping[str, Calibration]
    examples: Sequence[tuple[str, str]]


def load_parts(
    path: Path,
    device: str | torch.device | None,
    dtype: str | torch.dtype | None,
    spec: EncoderSpec | None,
    rule: str | None,
    adapters: Sequence[str | Path],
    examples: str | Path | None,
) -> Parts:
    """Read a model folder; arguments as in `Encoder.load`.

    Raises:
        ModelError: if the model cannot be loaded whole, or its description cannot be honoured.
    """
    files = _described(path, spec, rule, adapters, retrieves=examples is not None)
    place = choose_device(device)
    int8 = dtype in ("int8", torch.int8)
    kind = None if dtype == "checkpoint" else choose_dtype(None if int8 else dtype, place)
    tokenizer = TextTokenizer.load(files.tokenizer, files.spec, files.config)
    backbone = Backbone.load(
        files.backbone, files.spec.attention, device=place, dtype=kind, config=files.config, renamed=files.renamed
    )
    for adapter in files.adapters:
        backbone.model = merge_adapter(backbone.model, adapter)
    backbone.prepare(int8=int8)
    backbone.check_vocabulary(tokenizer.vocabulary_size, files.backbone)
    stored = calibration.load(files.calibration) if files.calibration else {}
    source = files.examples if examples is None else Path(examples)
    pairs = read_examples(source) if source and files.spec.retrieved_examples else []
    return Parts(files, backbone, tokenizer, stored, pairs)


def _described(
    path: Path, spec: EncoderSpec | None, rule: str | None, adapters: Sequence[str | Path], *, retrieves: bool
) -> ModelFiles:
    """The folder's files under the description that holds: its own, a rule over it, or the caller's."""
    files = stack_adapters(read_folder(path, alone=not adapters), [resolve(adapter) for adapter in adapters])
    if rule is not None:
        files = replace(files, spec=apply_rule(rule, files.spec))
    if spec is not None:
        files = replace(files, spec=spec)
    if retrieves and files.spec.retrieved_examples is None:
        files = replace(files, spec=replace(files.spec, retrieved_examples=ExampleSpec()))
    if files.spec.pooling is Pooling.NONE:
        files = replace(files, dense=[])
    if len(files.dense) != len(files.spec.dense):
        raise ModelError(f"{path} has {len(files.dense)} dense layers, its spec says {len(files.spec.dense)}")
    return files

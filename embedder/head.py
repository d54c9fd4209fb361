"""From hidden states to the vector: pooling, dense layers, calibration, Matryoshka cut, normalisation.

All in float32, but for a latent attention block, which is as large as some backbones and keeps their number format.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from ..kernels.attention import PackedLayout
from ..kernels.pooling import PoolMode, pool
from ..kernels.rows import computed_alike
from .calibration import Calibration
from .errors import InputError, ModelError
from .latent import LatentAttention
from .spec import Activation, EncoderSpec, Pooling, PromptSpan

_ACTIVATIONS = {
    Activation.IDENTITY: nn.Identity,
    Activation.TANH: nn.Tanh,
    Activation.RELU: nn.ReLU,
    Activation.GELU: nn.GELU,
    Activation.SILU: nn.SiLU,
}
_MODES: dict[Pooling, PoolMode] = {
    Pooling.MEAN: "mean",
    Pooling.WEIGHTED_MEAN: "weighted",
    Pooling.MAX: "max",
    Pooling.FIRST: "first",
    Pooling.LAST: "last",
}


class Head(nn.Module):
    """The part of an encoder behind its backbone, as an `EncoderSpec` describes it."""

    def __init__(self, spec: EncoderSpec, hidden_size: int) -> None:
        """Build the layers, without weights.

        Raises:
            ModelError: if the dense layers or Matryoshka widths do not fit the hidden size.
        """
        super().__init__()
        if spec.dense and spec.dense[0].in_features != hidden_size:
            raise ModelError(
                f"the first dense layer takes {spec.dense[0].in_features} features, the model gives {hidden_size}"
            )
        self.spec = spec
        self.full_width = spec.dense[-1].out_features if spec.dense else hidden_size
        if spec.pooling is Pooling.NONE:
            self.full_width = 0
        widths = (*spec.dimensions, *([spec.default_dimension] if spec.default_dimension else []))
        if any(width > self.full_width for width in widths):
            raise ModelError(f"the spec lists {max(widths)} dimensions, the model has {self.full_width}")
        self.calibration: Calibration | None = None
        self.latent = LatentAttention(spec.latent, hidden_size) if spec.latent else None
        self.linears = nn.ModuleList(nn.Linear(d.in_features, d.out_features, bias=d.bias) for d in spec.dense)
        self.activations = nn.ModuleList(_ACTIVATIONS[d.activation]() for d in spec.dense)

    def load_dense(self, files: list[Path]) -> None:
        """Load each dense layer's `linear.weight` and `linear.bias` from a sentence-transformers safetensors file.

        Raises:
            ModelError: if a file is missing or does not fit its layer.
        """
        for linear, file in zip(self.linears, files, strict=True):
            try:
                state = {key.removeprefix("linear."): value.float() for key, value in load_file(file).items()}
                linear.load_state_dict(state)
            except (OSError, RuntimeError, SafetensorError) as error:
                raise ModelError(
                    f"{file} does not hold the dense layer's weights: {str(error).splitlines()[0]}"
                ) from None

    def load_calibration(self, calibration: Calibration | None) -> None:
        """Take the statistics that the spec standardises the vector with.

        Raises:
            ModelError: if there are none, or they are of another width.
        """
        if not self.spec.standardize:
            return
        if calibration is None:
            raise ModelError("the spec standardises vectors, the folder has no calibration: run decant convert again")
        if len(calibration.mean) != self.full_width:
            raise ModelError(
                f"the calibration is of {len(calibration.mean)} dimensions, the vectors have {self.full_width}"
            )
        self.calibration = calibration

    def load_latent(self, folder: Path | None, dtype: torch.dtype) -> None:
        """Load the latent attention block from a folder of safetensors, to be computed in `dtype`.

        Raises:
            ModelError: if there is none, or it does not fit the spec.
        """
        if self.latent is None:
            return
        if folder is None:
            raise ModelError("the spec has a latent attention block, the folder has no weights for it")
        self.latent.load(folder)
        self.latent.to(dtype)

    def save_dense(self, files: list[Path]) -> None:
        """Write each dense layer where sentence-transformers looks for it."""
        for linear, file in zip(self.linears, files, strict=True):
            file.parent.mkdir(parents=True, exist_ok=True)
            save_file({f"linear.{key}": value.contiguous() for key, value in linear.state_dict().items()}, file)

    def width(self, dimensions: int | None) -> int:
        """Return the width of the vectors for this request; 0 where the model makes none.

        Raises:
            InputError: for a width the model was not trained for.
        """
        if dimensions is not None and self.spec.pooling is Pooling.NONE:
            raise InputError("this model makes no dense vectors: leave dimensions out")
        if dimensions is None:
            return self.spec.default_dimension or self.full_width
        offered = {self.full_width, *self.spec.dimensions, self.spec.default_dimension or self.full_width}
        if dimensions not in offered:
            widths = ", ".join(map(str, sorted(offered, reverse=True)))
            raise InputError(f"this model was not trained for {dimensions} dimensions: choose from {widths}")
        return dimensions

    def forward(
        self,
        hidden: Tensor,
        layout: PackedLayout,
        keep: Tensor | None = None,
        dimensions: int | None = None,
        *,
        normalize: bool | None = None,
    ) -> Tensor:
        """Make one vector per text.

        Args:
            hidden: (total_tokens, H).
            layout: where each text lies.
            keep: (total_tokens,) bool, the pooled tokens; None for all.
            dimensions: width of the result, see `width`.
            normalize: whether vectors get unit length; None for what the spec says.

        Returns:
            (batch, width) float32.
        """
        unit = self.spec.normalize if normalize is None else normalize
        width = self.width(dimensions)
        if not (self.latent or self.linears or self.calibration):
            return self.pool(hidden, layout, keep, width, normalize=unit)
        vectors = self.pool(hidden, layout, keep)
        for linear, activation in zip(self.linears, self.activations, strict=True):
            vectors = activation(computed_alike(linear, vectors))
        if self.calibration:
            vectors = self.calibration.apply(vectors)
        vectors = vectors[:, :width]
        return functional.normalize(vectors, dim=-1) if unit else vectors

    def pool(
        self,
        hidden: Tensor,
        layout: PackedLayout,
        keep: Tensor | None,
        dimensions: int | None = None,
        *,
        normalize: bool = False,
    ) -> Tensor:
        """Apply the spec's pooling; shapes as in `forward`, result (batch, dimensions or H) float32.

        Raises:
            InputError: for a model without dense vectors.
        """
        if self.latent:
            return self.latent(hidden, layout, keep)
        if self.spec.pooling is Pooling.NONE:
            raise InputError("this model makes no dense vectors: ask for another output")
        count_kept = self.spec.prompt_span is PromptSpan.TEXT
        return pool(
            hidden,
            layout,
            keep,
            mode=_MODES[self.spec.pooling],
            count_kept=count_kept,
            dimensions=dimensions,
            normalize=normalize,
        )

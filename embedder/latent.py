"""The latent attention block's weights: named, loaded and saved as NV-Embed publishes them."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from ..kernels.attention import PackedLayout
from ..kernels.pooling import LatentWeights, latent_keys_values, pool_latent
from .errors import ModelError
from .formats.tensors import read_tensors
from .spec import LatentSpec

PREFIX = "latent_attention_model."
_BLOCKS = "cross_attend_blocks"
_FF_MULTIPLE = 4


class LatentAttention(nn.Module):
    """Latent attention pooling with its parameters; shapes in `LatentWeights`."""

    def __init__(self, spec: LatentSpec, hidden_size: int) -> None:
        """Build the block without weights.

        Raises:
            ModelError: if the block was made for another hidden size.
        """
        super().__init__()
        if spec.hidden_size != hidden_size:
            raise ModelError(f"the latent attention takes {spec.hidden_size} features, the model gives {hidden_size}")
        width, inner = spec.heads * spec.head_dim, _FF_MULTIPLE * hidden_size
        shapes = {
            "latents": (spec.latents, hidden_size),
            f"{_BLOCKS}.0.norm.weight": (hidden_size,),
            f"{_BLOCKS}.0.norm.bias": (hidden_size,),
            f"{_BLOCKS}.0.norm_context.weight": (hidden_size,),
            f"{_BLOCKS}.0.norm_context.bias": (hidden_size,),
            f"{_BLOCKS}.0.fn.to_q.weight": (width, hidden_size),
            f"{_BLOCKS}.0.fn.to_kv.weight": (2 * width, hidden_size),
            f"{_BLOCKS}.0.fn.to_out.weight": (hidden_size, width),
            f"{_BLOCKS}.1.norm.weight": (hidden_size,),
            f"{_BLOCKS}.1.norm.bias": (hidden_size,),
            f"{_BLOCKS}.1.fn.net.0.weight": (2 * inner, hidden_size),
            f"{_BLOCKS}.1.fn.net.0.bias": (2 * inner,),
            f"{_BLOCKS}.1.fn.net.2.weight": (hidden_size, inner),
            f"{_BLOCKS}.1.fn.net.2.bias": (hidden_size,),
        }
        self.heads = spec.heads
        # Dots cannot stand in a parameter's name; the published names are restored in `load` and `save`.
        self.tensors = nn.ParameterDict({_key(name): nn.Parameter(torch.zeros(s)) for name, s in shapes.items()})
        self._names = tuple(shapes)
        self._cached: tuple[tuple[int, ...], tuple[Tensor, Tensor]] | None = None

    def initialise(self, seed: int = 0) -> None:
        """Give an untrained block random latents and the usual small linear weights, for training."""
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for name in self._names:
                value = self.tensors[_key(name)]
                if name == "latents":
                    value.normal_(generator=generator)
                elif value.ndim == 2:
                    value.normal_(std=value.shape[1] ** -0.5, generator=generator)
                else:
                    value.fill_(1.0 if name.endswith("norm.weight") or name.endswith("norm_context.weight") else 0.0)

    def load(self, folder: Path) -> None:
        """Load the block from the safetensors files of a folder, in the number format they are stored in.

        Raises:
            ModelError: if a tensor is missing or has another shape.
        """
        state = read_tensors(folder, PREFIX)
        for name in self._names:
            value = state.get(name)
            expected = self.tensors[_key(name)]
            if value is None:
                raise ModelError(f"{folder} lacks the latent attention's {PREFIX}{name}")
            if value.shape != expected.shape:
                raise ModelError(
                    f"{folder}: {PREFIX}{name} is {tuple(value.shape)}, the configuration says {tuple(expected.shape)}"
                )
            self.tensors[_key(name)] = nn.Parameter(value, requires_grad=False)
        self._cached = None

    def save(self, folder: Path) -> None:
        """Write the block under its published names."""
        folder.mkdir(parents=True, exist_ok=True)
        state = {f"{PREFIX}{name}": self.tensors[_key(name)].detach().contiguous().cpu() for name in self._names}
        save_file(state, folder / "model.safetensors")

    def weights(self) -> LatentWeights:
        """Return the parameters by the role they play."""

        def get(name: str) -> Tensor:
            return self.tensors[_key(f"{_BLOCKS}.{name}")]

        def pair(name: str) -> tuple[Tensor, Tensor]:
            return get(f"{name}.weight"), get(f"{name}.bias")

        return LatentWeights(
            latents=self.tensors["latents"],
            norm=pair("0.norm"),
            norm_context=pair("0.norm_context"),
            to_q=get("0.fn.to_q.weight"),
            to_kv=get("0.fn.to_kv.weight"),
            to_out=get("0.fn.to_out.weight"),
            norm_ff=pair("1.norm"),
            ff_in=pair("1.fn.net.0"),
            ff_out=pair("1.fn.net.2"),
            heads=self.heads,
        )

    def forward(self, hidden: Tensor, layout: PackedLayout, keep: Tensor | None = None) -> Tensor:
        """Pool (total_tokens, H) hidden states to (batch, H) float32, see `kernels.pooling.pool_latent`."""
        weights = self.weights()
        return pool_latent(hidden, layout, keep, weights, self._keys_values(weights))

    def _keys_values(self, weights: LatentWeights) -> tuple[Tensor, Tensor]:
        """Compute the latents' keys and values once for as long as no weight changes."""
        sources = (weights.latents, weights.to_kv, *weights.norm_context)
        if torch.is_grad_enabled() and any(t.requires_grad for t in sources):
            return latent_keys_values(weights)
        state = tuple(n for t in sources for n in (t.data_ptr(), t._version))
        cached = self._cached
        if cached is None or cached[0] != state:
            # A tensor made in inference mode could not take part in training a backbone under a frozen block.
            with torch.inference_mode(False), torch.no_grad():
                cached = (state, latent_keys_values(weights))
            self._cached = cached
        return cached[1]


def _key(name: str) -> str:
    return name.replace(".", "_")

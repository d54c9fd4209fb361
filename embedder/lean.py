"""The decoder with fewer steps, for inference on a CPU: the same function of the same weights as transformers' classes.

Between the matrix products of a small model an equal time goes into what joins them. Here query, key and value are one
product, the weight of a norm is multiplied into the product behind it, weights are laid out once for oneDNN, and the
activation is computed inside its product; or the products are those of 8-bit integers. Every load proves it against
transformers' own forward (`verify.reference_parity`); families that are not listed run through transformers unchanged.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from ..kernels.attention import PackedLayout, attention
from .products import AnyProduct, Int8Product, Product, unavailable, unit_rms

# Decoders of pre-norms, rotary positions and a gated SiLU between three linear layers, and nothing else.
FAMILIES = ("llama", "mistral", "qwen2", "qwen3")
# Weights are copied into their layout: beyond this, where products are nearly all of the time, memory is worth more.
MAX_BYTES = 1 << 30


@dataclass(frozen=True)
class _Layer:
    module: nn.Module
    qkv: AnyProduct
    out: AnyProduct
    gate: AnyProduct
    up: AnyProduct
    down: AnyProduct
    heads: int
    kv_heads: int
    head_dim: int
    scale: float
    head_norms: tuple[Tensor, Tensor] | None
    epsilon: float


class LeanDecoder:
    """Hidden states of packed batches from prepared copies of a model's weights.

    It holds what the weights were when it was made; `current` says whether they still are.
    """

    def __init__(self, model: PreTrainedModel, products: type[AnyProduct] = Product) -> None:
        """Prepare the weights of a model that `refusal` has nothing against for products of this kind."""
        self.products = products
        self._model: Any = model
        self._epsilon = float(self._model.norm.variance_epsilon)
        self._layers = [_prepare(layer, products) for layer in self._model.layers]
        self._versions = _versions(model)
        self._hooks = hooks_of(model)

    @property
    def current(self) -> bool:
        """Whether the model's weights are still those that were prepared."""
        return _versions(self._model) == self._versions

    @property
    def overheard(self) -> bool:
        """Whether hooks wait for the model's own layers to run."""
        return any(self._hooks)

    def __call__(self, input_ids: Tensor, layout: PackedLayout) -> Tensor:
        """Compute the last hidden states, (total_tokens, H), of a packed batch, (total_tokens,) int64."""
        x = self._model.embed_tokens(input_ids)
        # A table of all positions is small, and longest texts decide it as in transformers.
        positions = torch.arange(layout.max_seqlen, device=x.device)
        cos, sin = (part[0] for part in self._model.rotary_emb(x, positions[None]))
        sin[:, : sin.shape[-1] // 2].neg_()
        cos, sin = cos[layout.position_ids()], sin[layout.position_ids()]
        for layer in self._layers:
            x = _attend(layer, x, cos, sin, layout)
            x = _feed_forward(layer, x)
        return unit_rms(x, self._epsilon).mul_(self._model.norm.weight)


def refusal(model: PreTrainedModel, products: type[AnyProduct] = Product) -> str | None:
    """Say why a model has to run through transformers; None where `LeanDecoder` computes the same."""
    config = model.config
    if config.model_type not in FAMILIES or not type(model).__module__.startswith("transformers."):
        return f"{config.model_type} is none of {', '.join(FAMILIES)}"
    if model.device.type != "cpu":
        return f"the weights are on {model.device.type}"
    if reason := unavailable(torch.int8 if products is Int8Product else model.dtype) or unavailable(model.dtype):
        return reason
    if config.hidden_act != "silu":
        return f"its activation is {config.hidden_act}"
    if any(getattr(part, "sliding_window", None) for part in (config, *model.modules())):
        return "it has a sliding window"
    layers = cast(nn.ModuleList, model.layers)
    kinds = {type(part) for part in layers.modules() if next(part.parameters(recurse=False), None) is not None}
    if others := [kind.__name__ for kind in kinds - {nn.Linear} if not kind.__name__.endswith("RMSNorm")]:
        return f"it has layers of another kind, {others[0]}"
    size = sum(weight.nbytes for weight in layers.parameters())
    if size > MAX_BYTES:
        return f"a copy of its layers would take {size / 2**30:.1f} GiB"
    return None


def few_sizes(rows: int) -> int:
    """Return how many rows to compute in place of `rows`: a sixteenth or 7 more, 16 sizes between powers of two.

    oneDNN compiles a product for each number of rows that it meets, in up to 50 ms, and keeps a thousand of them.
    """
    step = max(8, 1 << max(0, (rows - 1).bit_length() - 5))
    return -(-rows // step) * step


def hooks_of(model: nn.Module) -> list[Any]:
    """What holds the forward hooks of each module of a model; full where somebody listens."""
    return [vars(module)[kind] for module in model.modules() for kind in ("_forward_hooks", "_forward_pre_hooks")]


def _versions(model: nn.Module) -> tuple[tuple[int, int], ...]:
    return tuple((weight.data_ptr(), 0 if weight.is_inference() else weight._version) for weight in model.parameters())


def _prepare(layer: Any, products: type[AnyProduct]) -> _Layer:
    attends, mlp = layer.self_attn, layer.mlp
    before, after = layer.input_layernorm, layer.post_attention_layernorm
    head_dim = int(attends.head_dim)
    norms = (attends.q_norm.weight, attends.k_norm.weight) if hasattr(attends, "q_norm") else None
    return _Layer(
        module=attends,
        qkv=products.of([attends.q_proj, attends.k_proj, attends.v_proj], before.weight),
        out=products.of([attends.o_proj]),
        gate=products.of([mlp.gate_proj], after.weight),
        up=products.of([mlp.up_proj], after.weight),
        down=products.of([mlp.down_proj]),
        heads=attends.q_proj.out_features // head_dim,
        kv_heads=attends.k_proj.out_features // head_dim,
        head_dim=head_dim,
        scale=float(attends.scaling),
        head_norms=norms,
        epsilon=float(before.variance_epsilon),
    )


def _attend(layer: _Layer, x: Tensor, cos: Tensor, sin: Tensor, layout: PackedLayout) -> Tensor:
    """One layer's attention added to the residual stream, (total_tokens, H)."""
    entering: Any = layer.qkv.normed(x, layer.epsilon)
    parts = layer.qkv(entering).unflatten(1, (-1, layer.head_dim)).transpose(0, 1)
    turned, value = parts[: -layer.kv_heads], parts[-layer.kv_heads :]
    if layer.head_norms is not None:
        query, key = turned.split([layer.heads, layer.kv_heads])
        weights = layer.head_norms
        turned = torch.cat([unit_rms(part, layer.epsilon) * w for part, w in zip((query, key), weights, strict=True)])
    query, key = _rotate(turned, cos, sin).split([layer.heads, layer.kv_heads])
    if layout.trace is not None:
        layout.trace.append(layer.module)
    context = attention(query, key, value, layout, scale=layer.scale)
    mixed: Any = layer.out.entering(context.flatten(1))
    return layer.out(mixed).add_(x)


def _feed_forward(layer: _Layer, x: Tensor) -> Tensor:
    """One layer's gated feed-forward part added to the residual stream, (total_tokens, H)."""
    normed: Any = layer.gate.normed(x, layer.epsilon)
    inner: Any = layer.down.entering(layer.up(normed).mul_(layer.gate.silu(normed)))
    return layer.down(inner).add_(x)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary positions, halves against halves: x (heads, total_tokens, D), cos and signed sin (total_tokens, D)."""
    x = x.contiguous()
    # Half a head is shorter than a vector register, where loops over the halves would go number by number.
    swapped = x.roll(x.shape[-1] // 2, -1)
    return x.mul_(cos).addcmul_(swapped, sin)

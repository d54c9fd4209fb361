"""What is added to a decoder, in the words of the official `config.json` and in ours."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import GeneratorError

# What stands behind a passage's states, in training and after it.
ASK, REPEAT = "Question: {}\nAnswer:", "Repeat:"
_NOT_DONE = ("cross_attn_shared_weights", "cross_attn_shared_projections")


@dataclass(frozen=True)
class XcConfig:
    """Cross-attention blocks of a decoder.

    Attributes:
        decoder_layers: layers of the decoder.
        decoder_width: width of its hidden states.
        context_width: width of the cached states; the decoder's own, unless another model encodes the passages.
        blocks: how many blocks are added, counted back from the last layer.
        stride: layers from one to the next.
        hidden: width of a block's attention.
        heads: query heads; `hidden / heads` is the width of one.
        kv_heads: key and value heads.
        inner: width inside a block's feed-forward part.
        bias: whether projections have one.
        dropout: of attention outputs, in training.
        after: whether a block follows its decoder layer, else it precedes it.
        gate: whether a block's outputs pass a gate that is zero at first, so that an untrained block does nothing;
            ours, the official model has none.
        eps: of the layer norms.
        rope_theta: base of the rotary positions, the decoder's.
    """

    decoder_layers: int
    decoder_width: int
    context_width: int
    blocks: int = 4
    stride: int = 6
    hidden: int = 1024
    heads: int = 32
    kv_heads: int = 32
    inner: int = 4096
    bias: bool = False
    dropout: float = 0.1
    after: bool = True
    gate: bool = True
    eps: float = 1e-5
    rope_theta: float = 10_000.0

    def __post_init__(self) -> None:
        """Raises `GeneratorError` for sizes that do not fit each other."""
        if self.blocks < 1 or self.stride < 1 or self.positions[-1] < 0:
            raise GeneratorError(
                f"{self.blocks} blocks every {self.stride} layers do not fit into {self.decoder_layers} layers: "
                "take fewer"
            )
        if self.hidden % self.heads or self.heads % self.kv_heads or (self.hidden // self.heads) % 2:
            raise GeneratorError(
                f"a width of {self.hidden} does not divide into {self.heads} heads of even width, or these into "
                f"{self.kv_heads} groups"
            )

    @property
    def head_width(self) -> int:
        """Width of one head."""
        return self.hidden // self.heads

    @property
    def positions(self) -> tuple[int, ...]:
        """Decoder layers that get a block, the last first."""
        return tuple(self.decoder_layers - 1 - i * self.stride for i in range(self.blocks))

    def official(self, base: str) -> dict[str, Any]:
        """As the official `config.json` spells it; what it has no word for is under `decant`."""
        return {
            "_name_or_path": base,
            "n_cross_attn_layers": self.blocks,
            "cross_attn_layers_stride": self.stride,
            "cross_attn_shared_weights": False,
            "cross_attn_shared_projections": False,
            "cross_attn_dropout_prob": self.dropout,
            "cross_attn_final_layer": self.after,
            "cross_attn_hidden_size": self.hidden,
            "cross_attn_num_attention_heads": self.heads,
            "cross_attn_num_key_value_heads": self.kv_heads,
            "cross_attn_attention_bias": self.bias,
            "cross_attn_skip_connections": False,
            "chunked_contexts": True,
            "decant": {"gate": self.gate, "inner": self.inner, "context_width": self.context_width},
        }

    @classmethod
    def from_official(cls, raw: Mapping[str, Any], decoder: Any) -> XcConfig:
        """Read a `config.json` for a decoder with transformers' configuration `decoder`.

        Raises:
            GeneratorError: it lacks a field, or asks for weights shared between blocks.
        """
        if shared := [name for name in _NOT_DONE if raw.get(name)]:
            raise GeneratorError(f"cross-attention with {shared[0]} is not supported: use an adapter without it")
        own: Mapping[str, Any] = raw.get("decant") or {}
        try:
            hidden = int(raw["cross_attn_hidden_size"])
            return cls(
                decoder_layers=int(decoder.num_hidden_layers),
                decoder_width=int(decoder.hidden_size),
                context_width=int(own.get("context_width", decoder.hidden_size)),
                blocks=int(raw["n_cross_attn_layers"]),
                stride=int(raw["cross_attn_layers_stride"]),
                hidden=hidden,
                heads=int(raw["cross_attn_num_attention_heads"]),
                kv_heads=int(raw["cross_attn_num_key_value_heads"]),
                inner=int(own.get("inner", 4 * hidden)),
                bias=bool(raw["cross_attn_attention_bias"]),
                dropout=float(raw["cross_attn_dropout_prob"]),
                after=bool(raw["cross_attn_final_layer"]),
                gate=bool(own.get("gate", False)),
                eps=float(decoder.rms_norm_eps),
                rope_theta=rope_theta(decoder),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise GeneratorError(
                f"config.json is no XC-Cache configuration ({error}): choose another folder"
            ) from error


def rope_theta(decoder: Any) -> float:
    """The base of a decoder's rotary positions."""
    rope: Mapping[str, Any] = getattr(decoder, "rope_parameters", None) or {}
    return float(rope.get("rope_theta", 10_000.0))

"""A frozen decoder with cross-attention blocks: what it needs to write from cached states.

The blocks hang on the decoder's layers by hooks, and a call brings its memories along as an argument: the decoder
itself stays a stock model of transformers, and threads may share it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel

from ..errors import GeneratorError
from .block import CrossBlock, Memory
from .config import XcConfig

CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"
_PREFIX = "cross_attn_layers."
Memories = dict[int, Memory]


class XcDecoder(nn.Module):
    """A decoder and its blocks.

    Attributes:
        config: of the blocks.
        base: the stock decoder with its language-model head, frozen.
        cross_attn_layers: the blocks by the number of their decoder layer.
    """

    def __init__(self, base: PreTrainedModel, config: XcConfig, *, std: float = 0.02) -> None:
        """Hang new blocks on a decoder.

        Raises:
            GeneratorError: it is not built of layers as Llama is.
        """
        super().__init__()
        inner = getattr(base, "model", None)
        layers = getattr(inner, "layers", None)
        if not isinstance(layers, nn.ModuleList) or len(layers) != config.decoder_layers:
            kind = getattr(base.config, "model_type", "this model")
            raise GeneratorError(f"{kind} is not built like Llama: cross-attention cannot be added to it")
        self.config = config
        self.base = base.eval().requires_grad_(False)
        self.cross_attn_layers = nn.ModuleDict({str(i): CrossBlock(config) for i in config.positions})
        for block in self.cross_attn_layers.values():
            cast(CrossBlock, block).initialize(std)
        for position in config.positions:
            block = cast(CrossBlock, self.cross_attn_layers[str(position)])
            _hang(layers[position], position, block, after=config.after)

    def initialize_from_self_attention(self) -> None:
        """Begin from the decoder's own projections, see `CrossBlock.initialize_from`."""
        layers = cast(nn.ModuleList, cast(nn.Module, self.base.model).layers)
        for name, block in self.cross_attn_layers.items():
            cast(CrossBlock, block).initialize_from(layers[int(name)])

    def train(self, mode: bool = True) -> XcDecoder:
        """Set the blocks' mode; the frozen decoder has no other than that of inference."""
        super().train(mode)
        self.base.eval()
        return self

    def remember(self, states: Tensor, lengths: Sequence[int]) -> Memories:
        """Keys and values of all blocks for (N, context_width) states of contexts of `lengths` tokens."""
        states = states.to(next(self.cross_attn_layers.parameters()).dtype)
        return {
            int(name): cast(CrossBlock, block).crossattention.remember(states, lengths)
            for name, block in self.cross_attn_layers.items()
        }

    def forward(self, input_ids: Tensor, memories: Memories, **options: Any) -> Any:
        """The decoder's output for (B, L) ids over memories of B contexts; `options` go to the decoder."""
        return self.base(input_ids=input_ids, xc_memories=memories, **options)

    @torch.inference_mode()
    def write(self, input_ids: Tensor, memories: Memories, *, max_tokens: int, stop: frozenset[int]) -> Iterator[int]:
        """Yield the likeliest next tokens after (L,) ids, until a stop token."""
        cache = DynamicCache(config=self.base.config)
        fed = input_ids[None]
        for _ in range(max_tokens):
            output = self(fed, memories, past_key_values=cache, use_cache=True, logits_to_keep=1)
            token = int(output.logits[0, -1].argmax())
            if token in stop:
                return
            yield token
            fed = torch.tensor([[token]], device=input_ids.device)

    @torch.inference_mode()
    def context_states(self, input_ids: Tensor) -> Tensor:
        """Final-norm output (L, D) of (L,) ids by the decoder without its blocks: what is cached of a passage."""
        inner = cast(nn.Module, self.base.model)
        return inner(input_ids=input_ids[None], use_cache=False).last_hidden_state[0]

    def save(self, folder: Path, base_name: str) -> None:
        """Write the blocks, and where their decoder is, in the official layout without the decoder's weights."""
        folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(self.config.official(base_name), indent=2) + "\n"
        (folder / CONFIG_FILE).write_text(text, encoding="utf-8")
        state = {f"{_PREFIX}{name}": value.detach().contiguous() for name, value in self._block_state().items()}
        save_file(state, folder / WEIGHTS_FILE)

    @classmethod
    def load(cls, folder: Path, base: PreTrainedModel) -> XcDecoder:
        """Load blocks from a folder, ours or an official one, onto their decoder.

        Raises:
            GeneratorError: the folder holds no blocks, or not all, or such that do not fit the decoder.
        """
        try:
            raw = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
            files = sorted(folder.glob("model*.safetensors"))
            tensors = {name: value for file in files for name, value in load_file(file).items()}
        except (OSError, ValueError) as error:
            raise GeneratorError(f"{folder} cannot be read ({str(error).splitlines()[0]}): choose another") from error
        decoder = cls(base, XcConfig.from_official(raw, base.config.get_text_config()))
        state = {name.removeprefix(_PREFIX): value for name, value in tensors.items() if name.startswith(_PREFIX)}
        try:
            decoder.cross_attn_layers.load_state_dict(state, strict=True)
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:160]
            raise GeneratorError(f"the weights in {folder} do not fit ({reason}): choose another") from error
        return decoder.eval()

    def _block_state(self) -> dict[str, Tensor]:
        return self.cross_attn_layers.state_dict()


def _hang(layer: nn.Module, position: int, block: CrossBlock, *, after: bool) -> None:
    """Let a block work on what leaves a decoder layer, or on what enters it."""

    def apply(hidden: Tensor, options: dict[str, Any]) -> Tensor:
        memories: Memories | None = options.get("xc_memories")
        if memories is None:
            return hidden
        return block(hidden, options["position_ids"], memories[position])

    def behind(_: nn.Module, args: tuple[Any, ...], options: dict[str, Any], output: Any) -> Any:
        if isinstance(output, tuple):
            return apply(output[0], options), *output[1:]
        return apply(output, options)

    def before(_: nn.Module, args: tuple[Any, ...], options: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return (apply(args[0], options), *args[1:]), options

    if after:
        layer.register_forward_hook(behind, with_kwargs=True)
    else:
        layer.register_forward_pre_hook(before, with_kwargs=True)

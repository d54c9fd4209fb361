"""The decoder itself: loaded whole or refused, made bidirectional, run over packed batches."""

from __future__ import annotations

import logging
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from itertools import groupby
from pathlib import Path
from typing import Any, Literal, cast

import torch
from huggingface_hub import errors as hub_errors
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoModel, PretrainedConfig, PreTrainedModel

from ..kernels.attention import ATTENTION_NAME, PackedLayout, register
from ..kernels.dispatch import asked_for, choose
from ..kernels.rows import LinearByOneDnn, alike_rows, rounds_by_rows
from .errors import ModelError, UnsupportedModelError
from .families import NEEDS_PADDING, NOT_BIDIRECTIONAL, NOT_PACKED, WINDOW_ONE_WIDER
from .graphs import Replays, cannot_record
from .heap import keep_freed_memory
from .lean import LeanDecoder, few_sizes, refusal
from .model_config import (
    elementwise_widths,
    first_position,
    has_gelu,
    load_config,
    longrope_limit,
    made_bidirectional,
    model_type,
    rope_types,
    set_attention,
)
from .products import Int8Product, Product
from .spec import Attention

log = logging.getLogger(__name__)

# With fewer tokens each, batches at once are slower than one after the other.
_LEAST_TOKENS = 512

Engine = Literal["packed", "equal-length"]


class Backbone:
    """A transformers model that turns a packed batch of token ids into hidden states.

    Attributes:
        model: the stock transformers class, in eval mode.
        engine: `packed` where attention runs on the whole batch; `equal-length` where the architecture needs each
            run of equally long texts in a forward of its own.
    """

    def __init__(self, model: PreTrainedModel, attention: Attention) -> None:
        """Wrap a loaded model whose config already says what `attention` it has."""
        self.model = model.eval().requires_grad_(False)
        self.attention = attention
        family = model_type(model.config)
        self.engine: Engine = "equal-length" if family in NOT_PACKED else "packed"
        self._padding = 1 if family in NEEDS_PADDING else 0
        if family in WINDOW_ONE_WIDER or (attention is Attention.BIDIRECTIONAL and made_bidirectional(model.config)):
            _narrow_windows(model)
        self._first_position = first_position(self.config)
        self._long_from = longrope_limit(self.config)
        self._widths = elementwise_widths(self.config)
        self._gelu = has_gelu(self.config)
        self._lean: LeanDecoder | None = None
        self._replays: Replays | None = None

    @classmethod
    def load(
        cls,
        folder: Path,
        attention: Attention,
        *,
        device: torch.device,
        dtype: torch.dtype | None,
        config: PretrainedConfig | None = None,
        renamed: Mapping[str, str] | None = None,
    ) -> Backbone:
        """Load the weights in `folder`.

        Args:
            folder: model folder.
            attention: what a token sees.
            device: where the weights go.
            dtype: number format; None keeps the checkpoint's.
            config: the configuration, where the folder's own is not the backbone's.
            renamed: regular expressions over the names of weights, and what they become.

        Raises:
            ModelError: if the folder holds no model, or not all of its weights.
            UnsupportedModelError: if the architecture cannot have this attention.
        """
        config = config or load_config(folder)
        family = model_type(config)
        if config.is_encoder_decoder:
            raise UnsupportedModelError(f"{family} is an encoder with a decoder behind it: choose a model of one part")
        if attention is Attention.BIDIRECTIONAL and family in NOT_BIDIRECTIONAL:
            raise UnsupportedModelError(
                f"{family} cannot be bidirectional: {NOT_BIDIRECTIONAL[family]}; load it with attention=causal"
            )
        if attention is Attention.CAUSAL and made_bidirectional(config):
            raise UnsupportedModelError(f"{folder} was made bidirectional when it was trained: it cannot be causal")
        set_attention(config, attention)
        packed = family not in NOT_PACKED
        if not packed:
            log.info("%s runs on equal-length batches: %s", family, NOT_PACKED[family])
        try:
            model, report = AutoModel.from_pretrained(
                folder,
                config=config,
                dtype="auto" if dtype is None else dtype,
                local_files_only=True,
                trust_remote_code=False,
                output_loading_info=True,
                key_mapping=dict(renamed) if renamed else None,
                # Not SDPA: some families do not tell it that they are bidirectional and get causal attention.
                attn_implementation=register() if packed else "eager",
            )
        except KeyError as error:
            raise UnsupportedModelError(
                f"{family} does not run on packed batches ({error}): choose another model"
            ) from error
        except (OSError, ValueError, RuntimeError, SafetensorError, hub_errors.HFValidationError) as error:
            raise ModelError(f"cannot load the weights in {folder}: {str(error).splitlines()[0]}") from error
        missing = sorted(report["missing_keys"])
        if missing and all(key.startswith("pooler.") for key in missing):
            # Masked language models come without it. No vector is made with it, and random weights must not be saved.
            model.pooler, missing = None, []
        absent = missing + sorted(str(key) for key in report["mismatched_keys"])
        if absent:
            raise ModelError(f"{folder} lacks {len(absent)} of the model's weights, {absent[0]} among them")
        if renamed:
            # Else transformers would give the weights their foreign names back when the model is saved.
            model._weight_conversions = None
        return cls(model.to(device), attention)

    def prepare(self, *, int8: bool = False) -> None:
        """Copy the weights, which are complete now, into the form that inference is fastest with, where there is one.

        Args:
            int8: round weights and what is multiplied with them to 8 bits.

        Raises:
            ModelError: if this model cannot run in int8 here.
            KernelError: if DECANT_KERNELS asks for a form that this model has not.
        """
        products = Int8Product if int8 else Product
        alike = "its texts need forwards of equal length"
        reason = refusal(self.model, products) if self.engine == "packed" else alike
        if int8 and reason:
            raise ModelError(f"no int8 for {model_type(self.config)} here: {reason}; choose another dtype")
        chosen = choose("layers", self.device, reason, "onednn" if int8 else None)
        self._lean = LeanDecoder(self.model, products) if chosen == "onednn" else None
        if self._lean is not None:
            keep_freed_memory()
        if asked_for("forward") == "graph":
            why = cannot_record(self.engine, choose("attention", self.device), rope_types(self.config))
            choose("forward", self.device, why)
            self._replays = Replays(self.model, self._states, self._first_position)

    @property
    def config(self) -> PretrainedConfig:
        """The configuration of the text decoder, also where it is part of a composite model."""
        return self.model.config.get_text_config()

    @property
    def hidden_size(self) -> int:
        """Width of a hidden state."""
        return int(self.config.hidden_size)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.model.device

    @property
    def dtype(self) -> torch.dtype:
        """What the weights are stored and multiplied in."""
        return self.model.dtype

    @property
    def number_format(self) -> str:
        """What products are computed in: `int8`, or the name of `dtype`."""
        int8 = self._lean is not None and self._lean.products is Int8Product
        return "int8" if int8 else str(self.dtype).removeprefix("torch.")

    def batches_at_once(self, tokens: int) -> int:
        """Into how many batches to divide so many tokens, to be computed by a thread each, see `in_parallel`."""
        if self._lean is None or self._lean.overheard:
            return 1
        return max(1, min(torch.get_num_threads(), tokens // _LEAST_TOKENS))

    @property
    def embedding_rows(self) -> int:
        """Number of token ids the model can look up."""
        return int(cast(nn.Embedding, self.model.get_input_embeddings()).weight.shape[0])

    def check_vocabulary(self, size: int, folder: Path) -> None:
        """Refuse a tokenizer whose ids the embedding table does not have.

        Raises:
            ModelError: if there is such an id; looking it up would read another token's row or fail midway.
        """
        if size > self.embedding_rows:
            raise ModelError(
                f"the tokenizer of {folder} has {size} tokens, the model embeds only {self.embedding_rows}"
            )

    def layout(self, lengths: list[int], **options: Any) -> PackedLayout:
        """Describe a batch of texts of these lengths for `__call__`."""
        causal = self.attention is Attention.CAUSAL
        return PackedLayout.from_lengths(lengths, causal=causal, device=self.device, **options)

    def __call__(self, input_ids: Tensor, layout: PackedLayout) -> Tensor:
        """Compute the last hidden states, (total_tokens, H), of a packed batch, (total_tokens,) int64."""
        if self.engine == "equal-length":
            return self._by_runs(input_ids, layout)
        if self._long_from and layout.max_seqlen > self._long_from >= min(length for *_, length in layout.runs):
            parts = self._short_and_long(layout, self._long_from)
            return torch.cat([self(input_ids[tokens], own) for tokens, own in parts])
        if self._replays is not None and (hidden := self._replays(input_ids, layout)) is not None:
            return hidden
        return self._filled(input_ids, layout)

    def layers(self, input_ids: Tensor, layout: PackedLayout) -> list[Tensor]:
        """Compute the hidden states behind the embeddings and behind each layer, the last one's normed.

        Each is (total_tokens, H); arguments as of `__call__`. They come from transformers' own layers, a few roundings
        away from what `__call__` gives.
        """
        if self.engine == "equal-length":
            outputs = self._runs(input_ids, layout, output_hidden_states=True)
            parts = [[one[:, :length].flatten(0, 1) for one in output.hidden_states] for output, length in outputs]
        elif self._long_from:
            halves = self._short_and_long(layout, self._long_from)
            parts = [self._packed_layers(input_ids[tokens], own) for tokens, own in halves]
        else:
            return self._packed_layers(input_ids, layout)
        return [torch.cat(states) for states in zip(*parts, strict=True)]

    def _packed_layers(self, input_ids: Tensor, layout: PackedLayout) -> list[Tensor]:
        output = self._forward(input_ids, self._positions(layout), layout, output_hidden_states=True)
        return [states[0] for states in output.hidden_states]

    def _filled(self, input_ids: Tensor, layout: PackedLayout) -> Tensor:
        """Compute as many rows as products are compiled for, and each must be what it is in any other batch."""
        rows = total = layout.total_tokens
        if self._lean is not None and torch.is_inference_mode_enabled():
            rows = few_sizes(rows)
        if rounds_by_rows(self.dtype, self.device):
            rows = alike_rows(rows, self._widths, gelu=self._gelu)
        if rows == total:
            return self._packed(input_ids, layout)
        return self._packed(functional.pad(input_ids, (0, rows - total)), layout.filled(rows))[:total]

    def _packed(self, input_ids: Tensor, layout: PackedLayout) -> Tensor:
        if (lean := self._prepared()) is not None and type(layout) is PackedLayout:
            return lean(input_ids, layout)
        with LinearByOneDnn() if rounds_by_rows(self.dtype, self.device) else nullcontext():
            return self._states(input_ids, self._positions(layout), layout)

    def _states(self, input_ids: Tensor, positions: Tensor, layout: PackedLayout) -> Tensor:
        """Last hidden states from the model's own layers."""
        return self._forward(input_ids, positions, layout).last_hidden_state[0]

    def _forward(self, input_ids: Tensor, positions: Tensor, layout: PackedLayout, **options: bool) -> Any:
        return self.model(
            input_ids=input_ids[None], position_ids=positions[None], use_cache=False, packed=layout, **options
        )

    def _positions(self, layout: PackedLayout) -> Tensor:
        return layout.position_ids() + self._first_position

    def _prepared(self) -> LeanDecoder | None:
        """The prepared layers, for inference only, and only while they are what the model is."""
        if self._lean is None or not torch.is_inference_mode_enabled():
            return None
        if not self._lean.current:
            log.info("layers: torch (the weights have changed since they were prepared)")
            self._lean = None
        return None if self._lean is None or self._lean.overheard else self._lean

    def _by_runs(self, input_ids: Tensor, layout: PackedLayout) -> Tensor:
        outputs = self._runs(input_ids, layout)
        return torch.cat([output.last_hidden_state[:, :length].flatten(0, 1) for output, length in outputs])

    def _runs(self, input_ids: Tensor, layout: PackedLayout, **options: bool) -> Iterator[tuple[Any, int]]:
        """The model's output for each run of equally long texts, and their length; what lies behind it is padding."""
        for start, count, length in layout.runs:
            ids = input_ids[start : start + count * length].view(count, length)
            mask = torch.ones_like(ids)
            if self._padding:
                ids, mask = (functional.pad(x, (0, self._padding)) for x in (ids, mask))
            yield self.model(input_ids=ids, attention_mask=mask, use_cache=False, **options), length

    def _short_and_long(self, layout: PackedLayout, limit: int) -> Iterator[tuple[slice, PackedLayout]]:
        """Texts on both sides of `limit`, for forwards of their own, or one long text would turn all frequencies."""
        start = 0
        for _, group in groupby(layout.lengths().tolist(), key=lambda length: length > limit):
            lengths = list(group)
            tokens = slice(start, start := start + sum(lengths))
            own = PackedLayout.from_lengths(lengths, causal=layout.causal, device=self.device, trace=layout.trace)
            yield tokens, own

    @contextmanager
    def transformers_attention(self) -> Generator[None]:
        """Run equal-length batches with transformers' own eager attention inside the block: the reference.

        It switches the model for all threads, so only verification, before the encoder is handed out, may use it.
        """
        engine, self.engine = self.engine, "equal-length"
        if engine == "packed":
            self.model.set_attn_implementation("eager")
        try:
            yield
        finally:
            self.engine = engine
            if engine == "packed":
                self.model.set_attn_implementation(ATTENTION_NAME)


def _narrow_windows(model: PreTrainedModel) -> None:
    for module in model.modules():
        if isinstance(window := getattr(module, "sliding_window", None), int):
            module.sliding_window = window - 1  # type: ignore[assignment]

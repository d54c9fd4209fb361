"""Cross-attention blocks as a generator: the decoder writes from cached states, its prompt is the question alone."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from ...embedder.device import choose_device, choose_dtype
from ..answer import Usage
from ..context_cache import ContextCache
from ..errors import GeneratorError
from ..generation import Task
from ..generators.decoder import stop_tokens, text_pieces
from ..states import States
from .config import ASK
from .decoder import CONFIG_FILE, XcDecoder


class XcGenerator:
    """Writes greedily from the sources' states; threads may share it.

    The frozen decoder encodes the passages as well, so the states are not those of the store's encoder: they are made
    when a passage is first read, and kept in memory, per tenant.
    """

    def __init__(self, decoder: XcDecoder, tokenizer: PreTrainedTokenizerBase, name: str) -> None:
        """Put the parts together; use `XcGenerator.load`."""
        self._decoder, self._tokenizer, self.name = decoder, tokenizer, name
        self._reads = int(getattr(decoder.base.config, "max_position_embeddings", 1 << 20))
        self.cache = ContextCache(self._encode, name)

    @classmethod
    def load(cls, folder: Path, *, device: str | None = None, dtype: str | None = None) -> XcGenerator:
        """Load blocks and the decoder that their `config.json` names: a path from the folder on, or any that is known.

        Raises:
            GeneratorError: there are no blocks, no decoder, or they do not fit each other.
        """
        place = choose_device(device)
        kind = choose_dtype(dtype, place)
        base = _base_of(folder)
        options: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
        try:
            model = AutoModelForCausalLM.from_pretrained(base, dtype=kind, **options)
            tokenizer = AutoTokenizer.from_pretrained(base, **options)
        except (OSError, ValueError, KeyError) as error:
            reason = str(error).splitlines()[0]
            raise GeneratorError(
                f"the decoder of {folder} cannot be loaded ({reason}): name its folder under _name_or_path in "
                f"{folder / CONFIG_FILE}"
            ) from error
        decoder = XcDecoder.load(folder, cast(Any, model).to(place))
        decoder.cross_attn_layers.to(place, kind)
        if decoder.config.context_width != decoder.config.decoder_width:
            raise GeneratorError(
                f"the blocks in {folder} read another model's states: only the decoder's own can be made"
            )
        return cls(decoder, tokenizer, folder.name)

    def generate(self, task: Task) -> Iterator[str]:
        """Yield the text as it is written.

        Raises:
            GeneratorError: the question does not fit into the decoder's context.
        """
        place = self._decoder.base.device
        asked = self._ids(ASK.format(" ".join(task.query.split())))
        if len(asked) + task.max_tokens > self._reads:
            raise GeneratorError(
                f"{self.name} reads and writes {self._reads} tokens, the question and its answer are more: "
                "use a decoder with a longer context"
            )
        states, cached = self._fitting(task)
        read = sum(map(len, states))
        with torch.inference_mode():
            hidden = torch.from_numpy(np.concatenate([own.hidden for own in states])).to(place)
            memories = self._decoder.remember(hidden, [read])
        ids = torch.tensor(asked, device=place)
        tokens = self._decoder.write(ids, memories, max_tokens=task.max_tokens, stop=stop_tokens(self._decoder.base))
        for text, count in text_pieces(self._tokenizer, tokens):
            task.meter.usage = Usage(read + len(asked), cached, count)
            yield text

    def _fitting(self, task: Task) -> tuple[list[States], int]:
        """States of as many of the best sources as the decoder has positions for, and how many tokens were cached."""
        states, cached = self.cache.get([source.hit.chunk for source in task.sources], task.tenant)
        ends = np.cumsum([len(own) for own in states])
        return states[: max(1, int(np.searchsorted(ends, self._reads, side="right")))], cached

    @torch.inference_mode()
    def _encode(self, texts: Sequence[str]) -> list[States]:
        """Each passage by itself, as in training, cut where the decoder's positions end."""
        found: list[States] = []
        for text in texts:
            made = self._tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
            ids = np.array(made["input_ids"], np.int32)[: self._reads]
            offsets = np.array(made["offset_mapping"], np.int32).reshape(-1, 2)[: self._reads]
            hidden = self._decoder.context_states(torch.from_numpy(ids).long().to(self._decoder.base.device))
            found.append(States(ids, offsets, hidden.to(torch.float16).cpu().numpy()))
        return found

    def _ids(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=False, verbose=False)


def holds_blocks(folder: Path) -> bool:
    """Whether a folder's `config.json` speaks of cross-attention blocks."""
    return "n_cross_attn_layers" in _config(folder)


def _base_of(folder: Path) -> str:
    name = str(_config(folder).get("_name_or_path") or "")
    if not name:
        raise GeneratorError(f"{folder / CONFIG_FILE} does not say whose blocks these are: add _name_or_path")
    return str(folder / name) if (folder / name).is_dir() else name


def _config(folder: Path) -> dict[str, Any]:
    try:
        raw: Any = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}  # whoever loads the folder says what is wrong with it
    return cast("dict[str, Any]", raw) if isinstance(raw, dict) else {}

"""A local decoder that reads the question alone: keys and values of each passage are made once and joined for it.

The compared alternative to cross-attention: nothing has to be trained, and a token of context takes many times the
bytes. Passages are encoded behind the prompt's rules, which are the sink they share, see `kv_reuse`.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import torch
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase

from ...index.schema import chunk_id
from ..answer import Usage
from ..errors import GeneratorError
from ..generation import Source, Task
from .decoder import greedy, load_decoder, prompt_text, text_pieces
from .kv_reuse import PassageKv, compress, encode_passage, join
from .prompting import label_of, messages_around

BUDGET_BYTES = 1 << 30
# Stands where the sources do in the prompt; no rule contains it.
_SLOT = "\ue000"


class ReuseGenerator:
    """Writes greedily, one question at a time; what is known of a passage is kept by tenant."""

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        name: str,
        *,
        keep: float = 1.0,
        budget_bytes: int = BUDGET_BYTES,
    ) -> None:
        """Put the parts together.

        Args:
            model: a decoder with plain rotary positions.
            tokenizer: its tokenizer.
            name: what to call it.
            keep: share of each passage's keys that is kept, the shortest, see `compress`.
            budget_bytes: memory for keys and values; the least recently used passages go first.

        Raises:
            GeneratorError: keys of this decoder cannot be moved to another place.
        """
        if not 0 < keep <= 1:
            raise GeneratorError(f"a share of {keep:g} of the keys cannot be kept: choose one above 0, at most 1")
        _refuse_immovable(model, name)
        self._model, self._tokenizer, self.name = model, tokenizer, name
        self._keep, self._budget, self._held = keep, budget_bytes, 0
        self._known: OrderedDict[tuple[str, str], PassageKv] = OrderedDict()
        self._one = threading.Lock()

    @classmethod
    def load(
        cls, folder: str | Path, *, device: str | None = None, dtype: str | None = None, keep: float = 1.0
    ) -> ReuseGenerator:
        """Load a decoder's folder; raises as `load_decoder` and the constructor."""
        model, tokenizer = load_decoder(folder, device=device, dtype=dtype)
        return cls(model, tokenizer, Path(folder).name, keep=keep)

    def generate(self, task: Task) -> Iterator[str]:
        """Yield the text as it is written.

        Raises:
            GeneratorError: not even one source fits into the decoder's context.
        """
        with self._one, torch.inference_mode():
            parts, tail, cached = self._fitting(task)
            cache, position = join(self._model, parts)
            read = position + len(tail)
            tokens = greedy(self._model, tail, cache, position, task.max_tokens)
            for text, count in text_pieces(self._tokenizer, tokens):
                task.meter.usage = Usage(read, cached, count)
                yield text

    def _fitting(self, task: Task) -> tuple[list[PassageKv], list[int], int]:
        """Keys and values of the rules and of as many sources as fit, what is left to read, how much was known."""
        text, special = prompt_text(self._tokenizer, messages_around(task, _SLOT))
        before, _, after = text.partition(_SLOT)
        head, tail = self._ids(before, special=special), self._ids(f"\n{after}")
        room = int(getattr(self._model.config, "max_position_embeddings", 1 << 20)) - task.max_tokens
        (rules, cached), parts = self._get(task.tenant, f"rules {before}", head, []), []
        used = len(head) + len(tail)
        for source in task.sources:
            pieces = self._pieces(source)
            used += sum(map(len, pieces.values()))
            if used > room:
                break
            for key, ids in pieces.items():
                part, known = self._get(task.tenant, key, ids, head)
                parts.append(part)
                cached += known
        if not parts:
            raise GeneratorError(
                f"{self.name} reads at most {room} tokens beside its answer, one passage and the question are more: "
                "use a decoder with a longer context"
            )
        return [rules, *parts], tail, cached

    def _pieces(self, source: Source) -> dict[str, list[int]]:
        """Ids of a source's number and of its text, apart: a passage has another number in another answer."""
        label = label_of(source)
        return {
            f"label {label}": self._ids(f"\n{label}"),
            f"chunk {chunk_id(source.hit.chunk)}": self._ids(f"{source.text.strip()}\n"),
        }

    def _get(self, tenant: str, key: str, ids: list[int], head: list[int]) -> tuple[PassageKv, int]:
        """Keys and values of ids behind a head, and how many of them were known."""
        if (found := self._known.get((tenant, key))) is not None:
            self._known.move_to_end((tenant, key))
            return found, found.tokens
        place = self._model.device
        sink = torch.tensor(head, device=place) if head else None
        made = encode_passage(self._model, torch.tensor(ids, device=place), sink)
        made = compress(made, self._keep) if key.startswith("chunk") else made
        if made.nbytes <= self._budget:
            self._known[tenant, key] = made
            self._held += made.nbytes
        while self._held > self._budget:
            self._held -= self._known.popitem(last=False)[1].nbytes
        return made, 0

    def _ids(self, text: str, *, special: bool = False) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=special, verbose=False)


@torch.inference_mode()
def _refuse_immovable(model: PreTrainedModel, name: str) -> None:
    """Check on a few tokens that keys turned to a place are those that the decoder computes there.

    Raises:
        GeneratorError: they are not.
    """
    ids = torch.arange(8, device=model.device)
    try:
        joined, _ = join(model, [encode_passage(model, ids), encode_passage(model, ids)])
        own = DynamicCache(config=model.config)
        model(input_ids=ids[None], position_ids=ids[None] + len(ids), past_key_values=own, use_cache=True)
        # Low precision alone moves deep keys by a tenth of their length, a wrong turn by more than half of it.
        loose = 0.25 if model.dtype.itemsize < 4 else 1e-4
        both = zip(cast(Any, joined.layers), cast(Any, own.layers), strict=True)
        pairs = [(a.keys[:, :, len(ids) :].float(), b.keys.float()) for a, b in both]
        same = all(bool((a - b).norm() <= loose * b.norm()) for a, b in pairs)
    except (AttributeError, TypeError, ValueError, RuntimeError):
        same = False
    if not same:
        raise GeneratorError(
            f"keys of {name} cannot be moved to another place, it has no plain rotary positions: use it without reuse"
        )

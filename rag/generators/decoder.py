"""A local decoder that reads the passages in its prompt: any causal language model of transformers.

Sources come first in the prompt, so a question about the passages of the one before finds their keys and values
ready. They are kept per tenant: nobody can tell from the time to the first token what others have asked.
"""

from __future__ import annotations

import copy
import threading
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache, PreTrainedModel, PreTrainedTokenizerBase

from ...embedder.device import choose_device, choose_dtype
from ..answer import Usage
from ..errors import GeneratorError
from ..generation import Source, Task
from .prompting import messages_of

# A prefix shorter than this is not worth a copy of its keys and values.
_LEAST_SHARED = 16
_KEPT_TENANTS = 8


class DecoderGenerator:
    """Writes greedily; one question at a time."""

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        name: str,
        draft: PreTrainedModel | None = None,
    ) -> None:
        """Put the parts together; use `DecoderGenerator.load`."""
        self._model, self._tokenizer, self._name, self._draft = model, tokenizer, name, draft
        self._prefixes: OrderedDict[str, tuple[list[int], DynamicCache]] = OrderedDict()
        self._one = threading.Lock()

    @classmethod
    def load(
        cls, folder: str | Path, *, device: str | None = None, dtype: str | None = None, draft: str | Path | None = None
    ) -> DecoderGenerator:
        """Load a decoder's folder, and a smaller one with the same tokenizer that drafts for it.

        Raises:
            GeneratorError: a folder holds no causal language model.
        """
        model, tokenizer = load_decoder(folder, device=device, dtype=dtype)
        smaller = load_decoder(draft, device=device, dtype=dtype)[0] if draft else None
        return cls(model, tokenizer, Path(folder).name, smaller)

    @property
    def name(self) -> str:
        """The folder's name."""
        return self._name

    def generate(self, task: Task) -> Iterator[str]:
        """Yield the text as it is written.

        Raises:
            GeneratorError: not even one source fits into the decoder's context.
        """
        ids = self._fitting(task)
        with self._one, torch.inference_mode():
            cache, shared = self._prefix(task.tenant, ids)
            count = 0
            for text, count in text_pieces(self._tokenizer, self._tokens(ids, cache, task.max_tokens)):
                task.meter.usage = Usage(len(ids), shared, count)
                yield text
            task.meter.usage = Usage(len(ids), shared, count)
            _shorten(cache, len(ids))
            self._keep(task.tenant, ids, cache)

    def _tokens(self, ids: list[int], cache: DynamicCache, max_tokens: int) -> Iterator[int]:
        stop = stop_tokens(self._model)
        if self._draft is not None:
            # Drafting accepts several tokens at a step; transformers checks each against the model's own choice.
            out = cast(Any, self._model).generate(
                torch.tensor([ids], device=self._model.device),
                past_key_values=cache,
                assistant_model=self._draft,
                max_new_tokens=max_tokens,
                do_sample=False,
            )
            yield from (token for token in out[0, len(ids) :].tolist() if token not in stop)
            return
        known = cache.get_seq_length()
        yield from greedy(self._model, ids[known:], cache, known, max_tokens)

    def _fitting(self, task: Task) -> list[int]:
        """The prompt's ids, of as many of the best sources as the decoder can read."""
        room = int(getattr(self._model.config, "max_position_embeddings", 1 << 20)) - task.max_tokens
        sources: tuple[Source, ...] = task.sources
        while sources:
            ids = self._prompt(replace(task, sources=sources))
            if len(ids) <= room:
                return ids
            sources = sources[:-1]
        raise GeneratorError(
            f"{self._name} reads at most {room} tokens beside its answer, one passage and the question are more: "
            "use a decoder with a longer context"
        )

    def _prompt(self, task: Task) -> list[int]:
        text, special = prompt_text(self._tokenizer, messages_of(task))
        return self._tokenizer.encode(text, add_special_tokens=special, verbose=False)

    def _prefix(self, tenant: str, ids: list[int]) -> tuple[DynamicCache, int]:
        """A cache of what the prompt shares with the tenant's last one, and how many tokens that is."""
        known, cache = self._prefixes.get(tenant, ([], None))
        shared = 0
        while shared < min(len(known), len(ids) - 1) and known[shared] == ids[shared]:
            shared += 1
        if cache is None or shared < _LEAST_SHARED:
            return DynamicCache(config=self._model.config), 0
        own = copy.deepcopy(cache)
        _shorten(own, shared)
        return own, shared

    def _keep(self, tenant: str, ids: list[int], cache: DynamicCache) -> None:
        self._prefixes[tenant] = (ids, cache)
        self._prefixes.move_to_end(tenant)
        while len(self._prefixes) > _KEPT_TENANTS:
            self._prefixes.popitem(last=False)


def load_decoder(
    folder: str | Path, *, device: str | None = None, dtype: str | None = None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a causal language model of this machine with its tokenizer.

    Raises:
        GeneratorError: the folder holds none.
    """
    place = choose_device(device)
    options: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    try:
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=choose_dtype(dtype, place), **options)
        tokenizer = AutoTokenizer.from_pretrained(folder, **options)
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).splitlines()[0]
        raise GeneratorError(f"{folder} holds no decoder that can write ({reason}): choose another") from error
    return cast(Any, model).to(place).eval(), tokenizer


def prompt_text(tokenizer: PreTrainedTokenizerBase, messages: list[dict[str, str]]) -> tuple[str, bool]:
    """Messages as the decoder's template has them, or plainly; and whether special tokens are still to be added."""
    if getattr(tokenizer, "chat_template", None):
        return cast(str, tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)), False
    turns = [f"{message['role'].capitalize()}: {message['content']}" for message in messages[1:]]
    return "\n\n".join([messages[0]["content"], *turns, "Assistant:"]), True


def greedy(
    model: PreTrainedModel, ids: list[int], cache: DynamicCache, position: int, max_tokens: int
) -> Iterator[int]:
    """Read `ids` from a position on behind what is cached, and yield the likeliest tokens up to one that ends."""
    stop, fed = stop_tokens(model), torch.tensor([ids], device=model.device)
    for _ in range(max_tokens):
        places = torch.arange(position, position + fed.shape[1], device=model.device)[None]
        out = model(input_ids=fed, position_ids=places, past_key_values=cache, use_cache=True, logits_to_keep=1)
        token = int(out.logits[0, -1].argmax())
        if token in stop:
            return
        yield token
        position += fed.shape[1]
        fed = torch.tensor([[token]], device=model.device)


def text_pieces(tokenizer: PreTrainedTokenizerBase, tokens: Iterator[int]) -> Iterator[tuple[str, int]]:
    """New text and the number of tokens so far; characters that are not whole yet are held back."""
    written: list[int] = []
    shown = ""
    for token in tokens:
        written.append(token)
        text = str(tokenizer.decode(written, skip_special_tokens=True))
        if not text.endswith("\ufffd") and len(text) > len(shown):
            yield text[len(shown) :], len(written)
            shown = text
    rest = str(tokenizer.decode(written, skip_special_tokens=True))[len(shown) :]
    yield rest, len(written)


def _shorten(cache: DynamicCache, tokens: int) -> None:
    """Keep the first tokens; transformers counts what is to go."""
    if (excess := cache.get_seq_length() - tokens) > 0:
        cache.crop(-excess)


def stop_tokens(model: PreTrainedModel) -> frozenset[int]:
    """Tokens that end an answer."""
    settings = getattr(model, "generation_config", None)
    found = getattr(settings, "eos_token_id", None)
    found = model.config.eos_token_id if found is None else found
    return frozenset([found] if isinstance(found, int) else found or [])

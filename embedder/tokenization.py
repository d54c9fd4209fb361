"""Text to token ids: one tokenisation per text, prompt and text together, cut visibly, the prompt's span known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding, Tokenizer, normalizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from .errors import InputError, ModelError
from .spec import EncoderSpec, PromptSpan

Truncate = Literal["end", "error"]


@dataclass(frozen=True)
class TokenizedTexts:
    """Token ids of N texts.

    Attributes:
        ids: one (tokens,) int32 array per text.
        pool_from: (N,) int32, index of the first token that is pooled.
        truncated: (N,) bool.
    """

    ids: list[NDArray[np.int32]]
    pool_from: NDArray[np.int32]
    truncated: NDArray[np.bool_]


class TextTokenizer:
    """A fast tokenizer under an `EncoderSpec`'s rules; never changes state after construction, so threads share it."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, spec: EncoderSpec) -> None:
        """Work out what the tokenizer's template adds.

        Raises:
            ModelError: if the spec asks for an EOS the tokenizer does not have, or leaves no room for text.
        """
        self._spec = spec
        self.source = tokenizer
        self.backend: Tokenizer = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
        self.backend.no_padding()
        self.backend.no_truncation()
        if spec.lowercase:
            before = [self.backend.normalizer] if self.backend.normalizer else []
            self.backend.normalizer = normalizers.Sequence([normalizers.Lowercase(), *before])
        probe = self.backend.encode("a", add_special_tokens=spec.add_special_tokens)
        text = [i for i, special in enumerate(probe.special_tokens_mask) if not special]
        if not text:
            raise ModelError("the tokenizer turns 'a' into no token: its vocabulary does not cover text")
        self._prefix_tokens = text[0]
        suffix = probe.ids[text[-1] + 1 :]
        self._suffix_tokens = len(suffix)
        self._eos: list[int] = []
        if spec.append_eos:
            eos = tokenizer.eos_token_id
            if not isinstance(eos, int):
                raise ModelError("the spec appends EOS, but the tokenizer has no EOS token")
            self._eos = [] if eos in suffix else [eos]
        if spec.max_tokens <= self.special_tokens:
            raise ModelError(f"max_tokens={spec.max_tokens} leaves no room beside {self.special_tokens} special tokens")

    @classmethod
    def load(cls, folder: Path, spec: EncoderSpec) -> TextTokenizer:
        """Load the tokenizer of a model folder.

        Raises:
            ModelError: if there is none, or only a slow one, which cannot give offsets.
        """
        try:
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        except Exception as error:
            raise ModelError(f"no usable tokenizer in {folder}: {_first_line(error)}") from error
        if not isinstance(tokenizer, PreTrainedTokenizerFast):
            raise ModelError(f"the tokenizer in {folder} has no tokenizer.json: convert it to a fast tokenizer")
        return cls(tokenizer, spec)

    @property
    def special_tokens(self) -> int:
        """How many tokens every text gets beside its own."""
        return self._prefix_tokens + self._suffix_tokens + len(self._eos)

    @property
    def vocabulary_size(self) -> int:
        """One more than the largest token id."""
        return max(self.backend.get_vocab(with_added_tokens=True).values(), default=-1) + 1

    def __call__(
        self, texts: Sequence[str], prompt: str = "", truncate: Truncate = "end", *, first: int = 0
    ) -> TokenizedTexts:
        """Tokenise `prompt + text` for each text; a cut keeps the beginning and the closing special tokens.

        Args:
            texts: N texts.
            prompt: what goes in front of each.
            truncate: whether a text that is too long is cut or refused.
            first: number of the first text, for error messages.

        Raises:
            InputError: naming the text that is not a string, has nothing to encode, or is too long under
                `truncate="error"`.
        """
        spec = self._spec
        if truncate not in ("end", "error"):
            raise InputError(f"unknown truncate {truncate!r}: choose end or error")
        joined = [_join(prompt, text, first + i) for i, text in enumerate(texts)]
        exclude = bool(prompt) and not spec.include_prompt
        counted = self._prompt_tokens(prompt) if exclude and spec.prompt_span is PromptSpan.TOKENS else None
        encodings = self._encode(joined, first, offsets=exclude)
        ids: list[NDArray[np.int32]] = []
        pool_from = np.zeros(len(joined), np.int32)
        truncated = np.zeros(len(joined), np.bool_)
        for i, encoding in enumerate(encodings):
            row, truncated[i] = self._fit(encoding.ids)
            if truncated[i] and truncate == "error":
                count = len(encoding.ids) + len(self._eos)
                raise InputError(f"text {first + i} has {count} tokens, the model takes {spec.max_tokens}: shorten it")
            closing = len(row) - self._suffix_tokens - len(self._eos)
            if exclude:
                pool_from[i] = self._text_start(encoding, prompt) if counted is None else counted
                if pool_from[i] >= closing:
                    pool_from[i] = self._text_start(encoding, prompt)
            if len(row) == 0 or (exclude and pool_from[i] >= closing):
                why = f"is cut off: the prompt fills all {spec.max_tokens} tokens" if truncated[i] else "is empty"
                raise InputError(f"text {first + i} {why}")
            ids.append(row)
        return TokenizedTexts(ids, pool_from, truncated)

    def _encode(self, texts: list[str], first: int, *, offsets: bool) -> list[Encoding]:
        encode = self.backend.encode_batch if offsets else self.backend.encode_batch_fast
        try:
            return encode(texts, add_special_tokens=self._spec.add_special_tokens)
        except (TypeError, ValueError):
            bad = next((i for i, text in enumerate(texts) if not _is_unicode(text)), None)
            if bad is None:
                raise
            raise InputError(f"text {first + bad} holds a lone surrogate, which is no Unicode text") from None

    def _fit(self, ids: list[int]) -> tuple[NDArray[np.int32], bool]:
        """Cut to the longest sequence, keeping the closing special tokens, and append EOS."""
        room = self._spec.max_tokens - len(self._eos)
        cut = len(ids) > room
        if cut:
            ids = ids[: room - self._suffix_tokens] + ids[len(ids) - self._suffix_tokens :]
        return np.array(ids + self._eos, np.int32), cut

    def _prompt_tokens(self, prompt: str) -> int:
        """Tokens of the prompt alone, its closing special token left out: sentence-transformers' `prompt_length`."""
        ids = self.backend.encode(prompt, add_special_tokens=self._spec.add_special_tokens).ids
        return len(ids) - (bool(ids) and ids[-1] in self.source.all_special_ids)

    def _text_start(self, encoding: Encoding, prompt: str) -> int:
        """Index of the first token of the text; special tokens in front never count.

        A token that joins the prompt's last space to the text's first word is the text's: left out, a text of one
        word would have nothing to pool. One that holds any other character of the prompt is the prompt's.
        """
        words_end = len(prompt.rstrip())
        for i, (start, end) in enumerate(encoding.offsets):
            if start >= words_end and end > len(prompt) and not encoding.special_tokens_mask[i]:
                return i
        return len(encoding.ids) + len(self._eos)


def _join(prompt: str, text: object, index: int) -> str:
    if not isinstance(text, str):
        raise InputError(f"text {index} is {type(text).__name__}, not a string")
    return prompt + text


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]

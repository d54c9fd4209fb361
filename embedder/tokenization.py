"""Text to token ids: one tokenisation per text, prompt and text together, cut visibly, the prompt's span known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding, Tokenizer, normalizers
from transformers import AutoTokenizer, PretrainedConfig, PreTrainedTokenizerFast

from .cutting import count_tokens, cut_text, cut_to_tokens
from .errors import InputError, ModelError
from .rewriting import rewritten
from .spec import EncoderSpec, PromptSpan
from .template import Template

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
    """A fast tokenizer under an `EncoderSpec`'s rules; never changes state after construction, so threads share it.

    Attributes:
        source: the tokenizer as loaded.
        backend: the same without padding and truncation.
        opening: special tokens in front of every text.
        closing: special tokens behind it, the EOS that the spec appends included.
    """

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
        self.opening: list[int] = probe.ids[: text[0]]
        suffix: list[int] = probe.ids[text[-1] + 1 :]
        self._suffix_tokens = len(suffix)
        self._eos: list[int] = []
        if spec.append_eos:
            eos = tokenizer.eos_token_id
            if not isinstance(eos, int):
                raise ModelError("the spec appends EOS, but the tokenizer has no EOS token")
            self._eos = [] if eos in suffix else [eos]
        self.closing = suffix + self._eos
        if spec.max_tokens <= self.special_tokens:
            raise ModelError(f"max_tokens={spec.max_tokens} leaves no room beside {self.special_tokens} special tokens")

    @classmethod
    def load(cls, folder: Path, spec: EncoderSpec, config: PretrainedConfig | None = None) -> TextTokenizer:
        """Load the tokenizer of a model folder; `config` is the backbone's, where it is not the folder's own.

        Raises:
            ModelError: if there is none, or only a slow one, which cannot give offsets.
        """
        try:
            tokenizer = AutoTokenizer.from_pretrained(
                folder, config=config, local_files_only=True, trust_remote_code=False
            )
        except Exception as error:
            raise ModelError(f"no usable tokenizer in {folder}: {_first_line(error)}") from error
        if not isinstance(tokenizer, PreTrainedTokenizerFast):
            raise ModelError(f"the tokenizer in {folder} has no tokenizer.json: convert it to a fast tokenizer")
        return cls(tokenizer, spec)

    @property
    def special_tokens(self) -> int:
        """How many tokens every text gets beside its own."""
        return len(self.opening) + len(self.closing)

    @property
    def vocabulary_size(self) -> int:
        """One more than the largest token id."""
        return max(self.backend.get_vocab(with_added_tokens=True).values(), default=-1) + 1

    def __call__(
        self, texts: Sequence[str], prompt: str | Template = "", truncate: Truncate = "end", *, first: int = 0
    ) -> TokenizedTexts:
        """Tokenise each text with what stands around it; a cut keeps that and the closing special tokens.

        Args:
            texts: N texts.
            prompt: what goes in front of each, or around it.
            truncate: whether a text that is too long is cut or refused.
            first: number of the first text, for error messages.

        Raises:
            InputError: naming the text that is not a string, has nothing to encode, or is too long under
                `truncate="error"`.
        """
        spec = self._spec
        if truncate not in ("end", "error"):
            raise InputError(f"unknown truncate {truncate!r}: choose end or error")
        template = prompt if isinstance(prompt, Template) else Template((prompt, ""))
        fitted, truncated = self._limit_texts(texts, truncate, first)
        exclude = not spec.include_prompt and (template != Template() or spec.prompt_span is PromptSpan.TEXT)
        counted = self._prompt_tokens(template.parts[0]) if exclude and template.copies == 1 else None
        encodings = self._encode([template.wrap(text) for text in fitted], first, offsets=exclude)
        ids: list[NDArray[np.int32]] = []
        pool_from = np.zeros(len(fitted), np.int32)
        for i, encoding in enumerate(encodings):
            excess = len(encoding.ids) + len(self._eos) - spec.max_tokens
            if excess > 0 and truncate == "error":
                raise InputError(
                    f"text {first + i} has {spec.max_tokens + excess} tokens, the model takes {spec.max_tokens}: "
                    "shorten it"
                )
            truncated[i] |= excess > 0
            if excess > 0 and not template.is_prefix:
                fitted[i], encoding = self._shorten(fitted[i], template, first + i)
            row = self._fit(encoding.ids)
            closing = len(row) - len(self.closing)
            if exclude:
                start = self._text_start(encoding, template, fitted[i])
                pool_from[i] = counted if counted is not None and counted < closing else start
            filled = exclude and pool_from[i] >= closing
            filled |= bool(truncated[i]) and template.is_prefix and self._fills(template.parts[0])
            if len(row) == 0 or filled:
                why = f"is cut off: the prompt fills all {spec.max_tokens} tokens" if truncated[i] else "is empty"
                raise InputError(f"text {first + i} {why}")
            ids.append(row)
        return TokenizedTexts(ids, pool_from, truncated)

    def _fills(self, prompt: str) -> bool:
        """Whether a prompt leaves no room for a text behind it, so that all texts would have one vector."""
        return bool(prompt) and self.special_tokens + count_tokens(self.backend, prompt) >= self._spec.max_tokens

    def _limit_texts(self, texts: Sequence[str], truncate: Truncate, first: int) -> tuple[list[str], NDArray[np.bool_]]:
        """Apply the spec's limit on the text alone; return the texts and which of them were cut."""
        fitted = [rewritten(_checked(text, first + i), self._spec.rewrite) for i, text in enumerate(texts)]
        truncated = np.zeros(len(fitted), np.bool_)
        limit = self._spec.text_limit
        if limit is None:
            return fitted, truncated
        for i, text in enumerate(fitted):
            # A token has at least one byte, so a text of few bytes needs no counting.
            if len(text) * 4 < limit.tokens or count_tokens(self.backend, text) <= limit.tokens:
                continue
            if truncate == "error":
                raise InputError(
                    f"text {first + i} has more than the {limit.tokens} tokens this model takes: shorten it"
                )
            fitted[i], truncated[i] = cut_text(self.backend, text, limit, self._spec.max_tokens), True
        return fitted, truncated

    def _shorten(self, text: str, template: Template, number: int) -> tuple[str, Encoding]:
        """Cut the text until it fits with everything around it, what follows it included.

        Raises:
            InputError: if nothing of it is left.
        """
        limit = self._spec.max_tokens - len(self._eos)
        tokens = count_tokens(self.backend, text)
        while True:
            encoding = self.backend.encode(template.wrap(text), add_special_tokens=self._spec.add_special_tokens)
            excess = len(encoding.ids) - limit
            if excess <= 0:
                return text, encoding
            tokens -= -(-excess // template.copies)
            if tokens < 1:
                raise InputError(f"text {number} is cut off: the prompt fills all {self._spec.max_tokens} tokens")
            text = cut_to_tokens(self.backend, text, tokens)

    def _encode(self, texts: list[str], first: int, *, offsets: bool) -> list[Encoding]:
        encode = self.backend.encode_batch if offsets else self.backend.encode_batch_fast
        try:
            return encode(texts, add_special_tokens=self._spec.add_special_tokens)
        except (TypeError, ValueError):
            bad = next((i for i, text in enumerate(texts) if not _is_unicode(text)), None)
            if bad is None:
                raise
            raise InputError(f"text {first + bad} holds a lone surrogate, which is no Unicode text") from None

    def _fit(self, ids: list[int]) -> NDArray[np.int32]:
        """Cut to the longest sequence, keeping the closing special tokens, and append EOS."""
        room = self._spec.max_tokens - len(self._eos)
        if len(ids) > room:
            ids = ids[: room - self._suffix_tokens] + ids[len(ids) - self._suffix_tokens :]
        return np.array(ids + self._eos, np.int32)

    def _prompt_tokens(self, prompt: str) -> int | None:
        """Tokens of the prompt alone where the spec goes by their number, else None.

        Its closing special token left out, this is sentence-transformers' `prompt_length`.
        """
        span = self._spec.prompt_span
        if span is PromptSpan.BARE_TOKENS:
            return count_tokens(self.backend, prompt)
        if span is not PromptSpan.TOKENS:
            return None
        ids = self.backend.encode(prompt, add_special_tokens=self._spec.add_special_tokens).ids
        return len(ids) - (bool(ids) and ids[-1] in self.source.all_special_ids)

    def _text_start(self, encoding: Encoding, template: Template, text: str) -> int:
        """Index of the first token of the text's last copy; special tokens in front never count.

        A token that joins the prompt's last space to the text's first word is the text's: left out, a text of one
        word would have nothing to pool. One that holds any other character of the prompt is the prompt's.
        """
        before = template.before(text)
        begin, words_end, stop = len(before), len(before.rstrip()), len(before) + len(text)
        for i, (start, end) in enumerate(encoding.offsets):
            if words_end <= start < stop and end > begin and not encoding.special_tokens_mask[i]:
                return i
        return len(encoding.ids) + len(self._eos)


def _checked(text: object, index: int) -> str:
    if not isinstance(text, str):
        raise InputError(f"text {index} is {type(text).__name__}, not a string")
    return text


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]

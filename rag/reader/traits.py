"""What a token's text tells without a model: its word with case folded, its looks, whether sentences end."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass

import torch
from tokenizers import Tokenizer
from torch import Tensor

from ...embedder.encoder import Encoder

# What a reader is told of a token: it begins a word, has a capital, has nothing but capitals, has a digit, has no
# letter or digit, ends a sentence.
LOOKS = 6
BEGINS, CAPITAL, _, DIGIT, SIGN, STOP = range(LOOKS)
# What only `sentence_numbers` uses: behind a full stop it opens a sentence; a full stop behind it ends none.
OPENS, SHORT = LOOKS, LOOKS + 1
TRAITS = LOOKS + 2
# SentencePiece's mark of a word's begin, which its decoders take off the first token.
_MARK = "\u2581"
_QUOTES = frozenset("\"'“”‘’«»")
_ABBREVIATIONS = frozenset(
    "al approx apr aug ave bros ca capt cf co col corp dec dept dr ed eds eg etc feb fig gen gov hon ie inc jan jr lt "
    "ltd mr mrs ms mt nov oct pp prof rep rev sen sept sgt sr st vol vs".split()
)


@dataclass(frozen=True)
class _Marks:
    """How a tokenizer tells where words begin.

    Attributes:
        inside: prefix of tokens that continue a word; empty where those that begin one are marked instead.
        folds_case: whether capitals are gone before tokens are cut.
    """

    inside: str
    folds_case: bool

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> _Marks:
        normalizer = tokenizer.normalizer
        folds = normalizer is not None and "W" not in normalizer.normalize_str("W")
        return cls(getattr(tokenizer.model, "continuing_subword_prefix", None) or "", folds)


def token_traits(encoder: Encoder) -> tuple[Tensor, Tensor]:
    """Of each token of a vocabulary of V: the smallest id of the same text without case and leading space, its looks.

    Returns:
        (V,) int32 ids and (V, TRAITS) bool.
    """
    size = encoder.text_tokenizer.vocabulary_size
    marks = _Marks.of(encoder.tokenizer)
    tokens = [encoder.tokenizer.id_to_token(i) or "" for i in range(size)]
    texts = [encoder.tokenizer.decode([i], skip_special_tokens=False) for i in range(size)]
    first: dict[str, int] = {}
    # White space and parts of characters are told apart by their ids alone.
    folded = [
        first.setdefault(text.strip().casefold(), i) if text.strip() and "\ufffd" not in text else i
        for i, text in enumerate(texts)
    ]
    rows = [_traits(token, text, marks) for token, text in zip(tokens, texts, strict=True)]
    return torch.tensor(folded, dtype=torch.int32), torch.tensor(rows)


def _traits(token: str, text: str, marks: _Marks) -> tuple[bool, ...]:
    inside = bool(marks.inside) and token.startswith(marks.inside) and len(token) > len(marks.inside)
    bare = (token[len(marks.inside) :] if inside else text).strip()
    letters = [letter for letter in bare if letter.isalpha()]
    capital = any(letter.isupper() for letter in letters)
    digit = any(letter.isdigit() for letter in bare)
    sign = bool(bare) and not any(letter.isalnum() for letter in bare)
    if not marks.inside:
        begins = text[:1].isspace() or token.startswith(_MARK)
    else:  # no token tells whether a sign stood behind a space
        begins = bool(bare) and not inside and (not sign or _may_open(bare))
    opens = begins and (marks.folds_case or capital or digit or sign)
    if marks.inside:  # with no space to be seen, a digit behind a full stop is a decimal more often than a new sentence
        opens = opens and not digit
    short = bare.casefold() in _ABBREVIATIONS or (len(bare) == 1 and bare.isalpha())
    return (
        begins,
        capital,
        len(letters) > 1 and all(letter.isupper() for letter in letters),
        digit,
        sign,
        bare[-1:] in (".", "?", "!"),
        opens,
        begins and short,
    )


def _may_open(sign: str) -> bool:
    return sign[0] in _QUOTES or unicodedata.category(sign[0]) in ("Ps", "Pi")


def sentence_numbers(traits: Tensor) -> Tensor:
    """(B, T) int64: which sentence each token of (B, T, TRAITS) stands in, roughly.

    A sentence ends where a full stop that is no abbreviation's is followed by a new word that has a capital, a digit or
    a sign; by any new word but a number where case is folded.
    """
    cut = torch.zeros_like(traits[..., STOP])
    cut[:, 1:] = traits[:, :-1, STOP] & traits[:, 1:, OPENS]
    cut[:, 2:] &= ~traits[:, :-2, SHORT]
    return cut.long().cumsum(1)

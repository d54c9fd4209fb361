"""What a token's text tells without a model: which word it is when case is folded, and how it looks."""

from __future__ import annotations

import torch
from torch import Tensor

from ...embedder.encoder import Encoder

# Begins a word, has a capital, has nothing but capitals, has a digit, has no letter or digit, ends a sentence.
TRAITS = 6
BEGINS, CAPITAL, _, DIGIT, SIGN, STOP = range(TRAITS)


def token_traits(encoder: Encoder) -> tuple[Tensor, Tensor]:
    """Of each token of a vocabulary of V: the smallest id of the same text without case and leading space, its looks.

    Returns:
        (V,) int32 ids and (V, TRAITS) bool.
    """
    size = encoder.text_tokenizer.vocabulary_size
    texts = [encoder.tokenizer.decode([i], skip_special_tokens=False) for i in range(size)]
    first: dict[str, int] = {}
    # White space and parts of characters are told apart by their ids alone.
    folded = [
        first.setdefault(text.strip().casefold(), i) if text.strip() and "\ufffd" not in text else i
        for i, text in enumerate(texts)
    ]
    return torch.tensor(folded, dtype=torch.int32), torch.tensor([_looks(text) for text in texts])


def _looks(text: str) -> tuple[bool, ...]:
    bare = text.strip()
    letters = [letter for letter in bare if letter.isalpha()]
    return (
        text[:1].isspace(),
        any(letter.isupper() for letter in letters),
        len(letters) > 1 and all(letter.isupper() for letter in letters),
        any(letter.isdigit() for letter in bare),
        bool(bare) and not any(letter.isalnum() for letter in bare),
        bare[-1:] in (".", "?", "!"),
    )


def sentence_numbers(traits: Tensor) -> Tensor:
    """(B, T) int64: which sentence each token of (B, T, TRAITS) stands in, roughly.

    A sentence ends where a full stop is followed by a new word that has a capital, a digit or a sign.
    """
    opens = traits[..., BEGINS] & (traits[..., CAPITAL] | traits[..., DIGIT] | traits[..., SIGN])
    cut = torch.zeros_like(opens)
    cut[:, 1:] = traits[:, :-1, STOP] & opens[:, 1:]
    return cut.long().cumsum(1)

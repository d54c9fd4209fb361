"""Cutting a text to a number of its own tokens, before anything is put around it."""

from __future__ import annotations

from tokenizers import Tokenizer

from .spec import TextLimit


def cut_text(tokenizer: Tokenizer, text: str, limit: TextLimit, max_tokens: int) -> str:
    """Return the longest beginning of `text` that has at most `limit.tokens` tokens without special ones.

    With `limit.whole_words` this is LLM2Vec's rule, which removes more than it has to: words in proportion to the
    excess, counted no further than `max_tokens`, until the rest fits.
    """
    if limit.whole_words:
        return _by_words(tokenizer, text, limit.tokens, max_tokens)
    return cut_to_tokens(tokenizer, text, limit.tokens)


def cut_to_tokens(tokenizer: Tokenizer, text: str, tokens: int) -> str:
    """Cut behind the last token that fits; never inside a character. `tokens` may be 0."""
    allowed = tokens
    while text:
        encoding = tokenizer.encode(text, add_special_tokens=False)
        if len(encoding.ids) <= tokens:
            return text
        # What is left is tokenised anew: a cut inside a word or a character may make more tokens of it than it had.
        text = text[: encoding.offsets[allowed - 1][1]] if allowed > 0 else ""
        allowed -= 1
    return text


def count_tokens(tokenizer: Tokenizer, text: str) -> int:
    """Tokens of a text alone, without special ones."""
    return len(tokenizer.encode(text, add_special_tokens=False).ids)


def _by_words(tokenizer: Tokenizer, text: str, tokens: int, most: int) -> str:
    while (count := min(count_tokens(tokenizer, text), most)) > tokens:
        words = text.split()
        kept = words[: int(len(words) * (tokens / count))]
        if not kept:  # one endless word: LLM2Vec would be left with nothing to pool
            return cut_to_tokens(tokenizer, text, tokens)
        text = " ".join(kept)
    return text

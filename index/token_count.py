"""Counting a text's tokens once, so that a splitter may ask for the count of any of its pieces for nothing.

A splitter weighs each stretch of text several times over; with the tokenizer called each time, splitting runs at
0.4 MB/s, slower than a small model encodes. Here the text is tokenised once (2 MB/s in all) and a piece's count is
the number of tokens that start inside it. In its place in the text a piece can have a token or two more or fewer than
by itself; `TokenCounter.alone` counts that way.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate

from tokenizers import Tokenizer

# Tokenised at a stretch: offsets are Python objects, so a whole book at once would take hundreds of bytes a token.
_BLOCK_CHARS = 1 << 16
# A tokenizer with whole words only makes one token of a megabyte of base64; no language has words this long.
_MAX_CHARS_PER_TOKEN = 16


class TokenCounter:
    """Counts the tokens of substrings of one text.

    Args:
        tokenizer: neither truncates nor pads.
        text: the whole text.
    """

    def __init__(self, tokenizer: Tokenizer, text: str) -> None:
        self._tokenizer = tokenizer
        self._text = text
        self._before = _tokens_before(tokenizer, text)
        self._position = 0

    def __call__(self, piece: str) -> int:
        """Return the tokens of `piece`, which must be a substring of the text, as counted in place."""
        text, at = self._text, self._position
        if not text.startswith(piece, at):
            # Pieces come in order of the text, so the next occurrence is the one meant; any other is as good a count.
            at = text.find(piece, at)
            if at < 0:
                at = text.index(piece)
            self._position = at
        return self.between(at, at + len(piece))

    def between(self, start: int, end: int) -> int:
        """Return the tokens that start within `text[start:end]`, and no fewer than its length makes likely."""
        return max(self._before[end] - self._before[start], (end - start) // _MAX_CHARS_PER_TOKEN)

    def alone(self, pieces: Sequence[str]) -> list[int]:
        """Return what each piece would count as a text of its own, without special tokens."""
        return [len(e.ids) for e in self._tokenizer.encode_batch_fast(list(pieces), add_special_tokens=False)]


def _tokens_before(tokenizer: Tokenizer, text: str) -> list[int]:
    """Return, for each position 0 .. len(text), how many tokens start before it."""
    starts = [0] * (len(text) + 1)
    for begin, end in _blocks(text):
        for start, stop in tokenizer.encode(text[begin:end], add_special_tokens=False).offsets:
            if stop > start:  # tokens that a tokenizer adds on its own have no place in the text
                starts[begin + start + 1] += 1
    return list(accumulate(starts))


def _blocks(text: str) -> Iterator[tuple[int, int]]:
    """Cut at line ends, or at spaces, where there are any, so that no word is counted in two parts."""
    begin = 0
    while len(text) - begin > _BLOCK_CHARS:
        limit = begin + _BLOCK_CHARS
        cut = max(text.rfind("\n", begin + 1, limit), 0) or max(text.rfind(" ", begin + 1, limit), 0) or limit
        yield begin, cut
        begin = cut
    yield begin, len(text)

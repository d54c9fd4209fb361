"""From a generator's text to text with verified citations, one sentence at a time.

A sentence is held until it is complete and checked: what a generator says of its sources counts only where a verbatim
sentence of the named source holds most of the words, and every number. Sentences that no source supports are dropped,
or marked where the rules say so. No text of a document or of a generator can change this.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from .evidence import Evidence, content_words
from .generation import Excerpt
from .sentences import split_sentences

UNSUPPORTED_MARK = "[not in the documents]"
_MARKER = re.compile(r"\s*\[(\d{1,3}(?:\s*[,;]\s*\d{1,3})*)\]")
_LEADING = re.compile(rf"^(?:{_MARKER.pattern})+")
_PARTIAL = re.compile(r"\[[\d\s,;]*")
_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
# What a decoder writes where its bytes are no text, and what a terminal would obey.
_NO_TEXT = re.compile(r"[\ufffd\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
# A claim that rests on two sentences of the text is common; on more, it is an essay.
_MOST_QUOTES = 2


@dataclass(frozen=True)
class Claim:
    """One sentence as a generator wrote it.

    Attributes:
        text: without its source markers.
        named: numbers of the sources it names.
        before: what stood between it and the sentence before it: a space or line breaks.
    """

    text: str
    named: tuple[int, ...]
    before: str


def read_claims(pieces: Iterator[str | Excerpt]) -> Iterator[Claim | Excerpt]:
    """Cut a stream of text into sentences, each yielded as soon as the next one begins; excerpts stay as they are."""
    text, done = "", 0
    for piece in pieces:
        if isinstance(piece, Excerpt):
            yield from _claims(text[done:])[0]
            yield piece
            text, done = "", 0
            continue
        text += piece
        claims, ends = _claims(text[done:])
        if len(claims) > 1 and not _PARTIAL.fullmatch(claims[-1].text):
            yield from claims[:-1]
            done += ends[-2]  # white space behind a sentence stays, the next one's `before` tells of it
    yield from _claims(text[done:])[0]


def _claims(text: str) -> tuple[list[Claim], list[int]]:
    """Sentences of a text, and where each ends, the markers behind it included."""
    starts = [sentence.start_char for sentence in split_sentences(text)]
    # A marker behind a full stop belongs to the sentence before it.
    cuts = [_after_markers(text, start) if i else start for i, start in enumerate(starts)]
    cuts = [cut for cut, following in zip(cuts, [*cuts, len(text)][1:], strict=True) if cut < following]
    claims: list[Claim] = []
    ends: list[int] = []
    for start, stop in zip(cuts, [*cuts, len(text)][1:], strict=True):
        raw = text[start:stop]
        named = [int(n) for group in _MARKER.findall(raw) for n in re.split(r"\s*[,;]\s*", group)]
        plain = _MARKER.sub("", raw)
        gap = text[ends[-1] if ends else 0 : start] + plain[: len(plain) - len(plain.lstrip())]
        before = "\n\n" if gap.count("\n") > 1 else "\n" if "\n" in gap else " "
        claims.append(Claim(plain.strip(), tuple(dict.fromkeys(named)), before))
        ends.append(start + len(raw.rstrip()))
    return claims, ends


def _after_markers(text: str, start: int) -> int:
    found = _LEADING.match(text[start:])
    return start + (found.end() if found else 0)


def around(excerpt: Excerpt, sentences: Sequence[tuple[int, Evidence]]) -> list[Evidence]:
    """The sentences of (source number, sentence) that an excerpt is part of, in the order of the text."""
    own = [evidence for number, evidence in sentences if number == excerpt.source.number]
    inside = (e.sentence for e in own)
    kept = [excerpt.start_char < s.end_char and excerpt.end_char > s.start_char for s in inside]
    return sorted((e for e, keep in zip(own, kept, strict=True) if keep), key=lambda e: e.start_char)


def supporting(claim: Claim, sentences: Sequence[tuple[int, Evidence]], share: float) -> list[Evidence]:
    """Return the fewest sentences that together hold the claim; none if they do not, or if it says nothing.

    Args:
        claim: what was said.
        sentences: (source number, sentence) of everything that could support it.
        share: how much of the claim's content words must be found; its numbers must be found all.
    """
    wanted = content_words(claim.text)
    numbers = frozenset(_NUMBER.findall(claim.text))
    if not (wanted or numbers) or _NO_TEXT.search(claim.text):
        return []
    named = [pair for pair in sentences if pair[0] in claim.named]
    for pool in (named, sentences) if named else (sentences,):
        chosen: list[Evidence] = []
        for _ in range(_MOST_QUOTES):
            rest = [evidence for _, evidence in pool if evidence not in chosen]
            if not rest:
                break
            chosen.append(max(rest, key=lambda e: (_held(wanted, numbers, [*chosen, e]), e.score)))
            held = _held(wanted, numbers, chosen)
            if held[0] == len(numbers) and held[1] >= share * len(wanted):
                return chosen
    return []


def _held(wanted: frozenset[str], numbers: frozenset[str], quotes: Sequence[Evidence]) -> tuple[int, int]:
    """How many of the numbers and of the words the quotes hold."""
    text = " ".join(quote.sentence.text for quote in quotes)
    have = frozenset(re.findall(r"\w+", text.lower()))
    return len(numbers & frozenset(_NUMBER.findall(text))), len(wanted & have)

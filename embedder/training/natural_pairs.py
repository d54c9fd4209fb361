"""Pairs that plain text holds by nature: a heading and its section, a sentence and the passage around it.

The second kind is the inverse cloze task of Lee, Chang and Toutanova (2019, 'Latent Retrieval for Weakly Supervised
Open Domain Question Answering').
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass

from .sources import Pair

_HEADING = re.compile(r"^#{1,5} +(.+?)\s*#*$")
_SENTENCE_END = re.compile(r"(?<=[.!?]) +(?=[\"'(]?[A-Z])")


@dataclass(frozen=True)
class Passage:
    """A stretch of a text with the heading it stands under ('' if none)."""

    heading: str
    text: str


def passages(text: str, chunk_chars: int) -> Iterator[Passage]:
    """Cuts a text at headings and line ends into passages of at least half of and about `chunk_chars`."""
    heading, lines, size = "", list[str](), 0
    for line in text.split("\n"):
        found = _HEADING.match(line)
        if (found or size >= chunk_chars) and lines:
            if size >= chunk_chars // 2:
                yield Passage(heading, "\n".join(lines))
            lines, size = [], 0
        if found:
            heading = found.group(1)
        elif line.strip():
            lines.append(line[: 2 * chunk_chars])
            size += len(lines[-1])
    if size >= chunk_chars // 2:
        yield Passage(heading, "\n".join(lines))


def natural_pairs(title: str, text: str, source: str, chunk_chars: int, rng: random.Random) -> Iterator[Pair]:
    """Yields at most one pair a passage: its heading in half of the cases where it has one, else a sentence of it."""
    for passage in passages(text, chunk_chars):
        if passage.heading and rng.random() < 0.5:
            query = passage.heading if title in passage.heading else f"{title}: {passage.heading}"
            yield Pair(query.strip(": "), passage.text, source)
        else:
            pair = _cloze(passage.text, source, rng)
            if pair is not None:
                yield pair


def _cloze(text: str, source: str, rng: random.Random) -> Pair | None:
    """A random sentence as the query; one time in five it stays in the passage, so that wording counts too."""
    sentences = _SENTENCE_END.split(text)
    candidates = [i for i, sentence in enumerate(sentences) if 30 <= len(sentence) <= 300]
    if len(sentences) < 3 or not candidates:
        return None
    chosen = rng.choice(candidates)
    rest = sentences if rng.random() < 0.2 else sentences[:chosen] + sentences[chosen + 1 :]
    return Pair(sentences[chosen], " ".join(rest), source)

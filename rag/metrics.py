"""Exact match and F1 of short answers, by SQuAD's definitions (Rajpurkar et al. 2016, arXiv 1606.05250).

Both compare normalised texts: lower case, without punctuation, articles and superfluous white space.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence

_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalize(text: str) -> str:
    """The text as both measures see it."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_NO_PUNCTUATION)).split())


def exact_match(answer: str, gold: Sequence[str]) -> float:
    """1 if the answer equals a gold answer; no gold answer means that the right answer is none, the empty text."""
    return float(normalize(answer) in {normalize(text) for text in gold or [""]})


def f1(answer: str, gold: Sequence[str]) -> float:
    """The best overlap in words with a gold answer: harmonic mean of precision and recall."""
    return max(_f1(normalize(answer).split(), normalize(text).split()) for text in gold or [""])


def _f1(answer: list[str], gold: list[str]) -> float:
    if not answer or not gold:
        return float(answer == gold)
    shared = sum((Counter(answer) & Counter(gold)).values())
    return 2 * shared / (len(answer) + len(gold))


def holds_answer(text: str, gold: Sequence[str]) -> bool:
    """Whether a text has a gold answer's words in it, in their order."""
    padded = f" {normalize(text)} "
    return any(f" {normalize(answer)} " in padded for answer in gold if normalize(answer))

"""Questions that their paragraph does not answer, though they speak of its matter: one thing in them is another.

SQuAD 2.0's authors (Rajpurkar et al. 2018, arXiv 1806.03822) found that people who are asked for such questions mostly
exchange a name, a number or a word for another, turn a word into its opposite or put in a "not". This does the same to
answerable questions, with things that other questions of the article speak of, or that the paragraph itself names.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from .data import Questions

_NAME = re.compile(r"(?<=[\w,'’] )(?!I\b)[A-Z][\w-]*(?: (?:(?:of|the|de|von|van) )?[A-Z][\w-]*)*")
_YEAR = re.compile(r"\b(?:1\d{3}|20\d\d)(?=s?\b)")
_NUMBER = re.compile(r"(?<![\w.,])\d[\d.,]*\d|(?<![\w.,])\d\b")
_WORD = re.compile(r"(?<= )[a-z]{5,}\b")
_VERB = re.compile(r"\b(is|are|was|were|did|does|do|can|could|has|had|would|will)\b")
_PAIRS = (
    "first last,most least,largest smallest,highest lowest,before after,north south,northern southern,east west,"
    "eastern western,more less,older younger,oldest youngest,early late,above below,male female,increase decrease,"
    "increased decreased,longest shortest,better worse,best worst,high low,large small,more fewer,began ended,"
    "start end,inside outside,maximum minimum,allowed forbidden,public private,upper lower,major minor,men women,"
    "greater smaller,gained lost,rise fall,open close,opened closed,left right,old new,"
    "earliest latest,majority minority,positive negative,internal external,common rare,accepted rejected,"
    "won lost,agreed refused,strongest weakest,hot cold,import export,married divorced,son daughter,"
    "father mother,brother sister"
)
_OPPOSITE = {one: other for pair in _PAIRS.split(",") for a, b in [pair.split()] for one, other in ((a, b), (b, a))}
_OPPOSED = re.compile(r"(?<= )(?:" + "|".join(_OPPOSITE) + r")\b")
# Words that carry a question's form, of five letters or more: another in their place changes little.
_FORM = frozenset(
    "about after being called could does during found given known many much named often other people place should "
    "their there these thing things those time times type under used using were what when where which while whose "
    "within without would years".split()
)
# How often each kind is tried first.
_KINDS = ("name", "number", "opposite", "word", "negation")
_ODDS = (0.36, 0.22, 0.14, 0.22, 0.06)
# How often a name or a number comes from the paragraph itself: that a word is missing there must not be all there is.
_FROM_PARAGRAPH = 0.5


@dataclass(frozen=True)
class _Thing:
    """`question[start:end]`, and what kind it is: only the same kind takes its place."""

    start: int
    end: int
    kind: tuple[str, ...]


# Things by their kind.
Pool = Mapping[tuple[str, ...], list[str]]


def altered(questions: Questions, seed: int) -> list[str]:
    """For each question another that its paragraph does not answer, an empty string where none could be made.

    What takes a thing's place is spoken of by the paragraph or by a question of its article, and is not the answer.
    """
    rng = np.random.default_rng([seed, 1])
    of_article = questions.articles[questions.passage_of]
    out = [""] * len(questions.texts)
    for article in np.unique(of_article).tolist():
        rows = np.flatnonzero(of_article == article).tolist()
        pool: dict[tuple[str, ...], list[str]] = defaultdict(list)
        for row in rows:
            text = questions.texts[row]
            for thing in [*_named(text), *_words(text)]:
                pool[thing.kind].append(text[thing.start : thing.end])
        asked: dict[int, set[str]] = defaultdict(set)
        for row in rows:
            asked[int(questions.passage_of[row])].add(_plain(questions.texts[row]))
        for row in rows:
            near: dict[tuple[str, ...], list[str]] = defaultdict(list)
            passage = questions.passages[int(questions.passage_of[row])]
            for thing in _named(passage):
                near[thing.kind].append(passage[thing.start : thing.end])
            pools = (near, pool) if rng.random() < _FROM_PARAGRAPH else (pool,)
            made = _altered(questions.texts[row], questions.answers[row], pools, rng)
            if made and _plain(made) not in asked[int(questions.passage_of[row])]:
                out[row] = made
    return out


def _altered(text: str, answer: str, pools: Sequence[Pool], rng: np.random.Generator) -> str:
    first = str(rng.choice(_KINDS, p=_ODDS))
    for kind in (first, "name", "number", "opposite", "word"):
        if kind == "negation":
            made = _VERB.sub(r"\1 not", text, count=1)
            if made != text:
                return made
        elif kind == "opposite":
            if found := list(_OPPOSED.finditer(text)):
                one = found[int(rng.integers(len(found)))]
                return text[: one.start()] + _OPPOSITE[one[0]] + text[one.end() :]
        else:
            things = [t for t in (_words(text) if kind == "word" else _named(text)) if kind in t.kind[0]]
            for i, pool in product(rng.permutation(len(things)).tolist(), pools):
                if other := _other(things[i], text, answer, pool, rng):
                    return text[: things[i].start] + other + text[things[i].end :]
    return ""


def _other(thing: _Thing, text: str, answer: str, pool: Pool, rng: np.random.Generator) -> str:
    """Something else of the same kind, that is neither in the question nor in its answer; empty if there is none."""
    options = pool.get(thing.kind, [])
    own, avoid = text[thing.start : thing.end].casefold(), f"{text} {answer}".casefold()
    for i in rng.integers(len(options), size=8).tolist() if options else ():
        other = options[i].casefold()
        if other not in avoid and own not in other:
            return options[i]
    return ""


def _named(text: str) -> list[_Thing]:
    """Names, years and other numbers."""
    years = [_Thing(m.start(), m.end(), ("number", "year")) for m in _YEAR.finditer(text)]
    numbers = [_Thing(m.start(), m.end(), ("number", "other")) for m in _NUMBER.finditer(text)]
    taken = {thing.start for thing in years}
    names = [_Thing(m.start(), m.end(), ("name", str(min(2, m[0].count(" "))))) for m in _NAME.finditer(text)]
    return years + [thing for thing in numbers if thing.start not in taken] + names


def _words(text: str) -> list[_Thing]:
    """Words that carry matter; those that end alike behind the same word are of a kind."""
    found: list[_Thing] = []
    for match in _WORD.finditer(text):
        before = text[: match.start()].split()[-1:]
        if match[0] not in _FORM and before:
            found.append(_Thing(match.start(), match.end(), ("word", before[0].lower(), match[0][-2:])))
    return found


def _plain(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.casefold()))

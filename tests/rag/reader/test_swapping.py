"""Questions with one thing exchanged."""

from __future__ import annotations

import numpy as np

from decant.rag.reader.data import Questions
from decant.rag.reader.swapping import altered

TEXTS = [
    "When did the city of Berlin host the games in 1936?",
    "How many people in Rome saw the opening of 1960?",
    "Who won the first race in Helsinki?",
    "Why?",
    "When did Paris fall in 1940?",
    "Who saw Madrid in 1939?",
]
ANSWERS = ["Rome", "83,000", "Zatopek", "rain", "June", "Orwell"]


def questions(articles: list[int]) -> Questions:
    n = len(TEXTS)
    return Questions(
        TEXTS, [f"p{i}" for i in range(n)], np.arange(n), ANSWERS, np.zeros((n, 2), np.int64), np.array(articles),
        np.zeros(n, np.bool_),
    )  # fmt: skip


def test_one_thing_is_another_of_the_same_article():
    seen = set()
    for seed in range(40):
        made = altered(questions([0, 0, 0, 0, 1, 1]), seed)
        assert made[3] == ""  # there is nothing in it to exchange
        for text, other, answer in zip(TEXTS, made, ANSWERS, strict=True):
            if not other:
                continue
            assert other != text
            fresh = set(other.strip("?").split()) - set(text.strip("?").split())
            assert len(fresh) == 1
            assert answer not in fresh
            seen |= fresh
        assert not {"Paris", "Madrid", "1940", "1939"} & set(" ".join(made[:3]).strip("?").split())
    assert {"Helsinki", "1960", "last", "not"} <= {word.strip("?") for word in seen}


def test_the_same_seed_makes_the_same():
    own = questions([0, 0, 0, 0, 1, 1])
    assert altered(own, 3) == altered(own, 3)
    assert any(altered(own, 3)[i] != altered(own, 4)[i] for i in range(len(TEXTS)))

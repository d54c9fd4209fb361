"""Training data of the reader: questions on paragraphs with their answers' places, and all states encoded once."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...embedder.encoder import Encoder
from ..errors import AnswerError
from ..states import States, encode_states

_ENCODE_AT_ONCE = 512


@dataclass(frozen=True)
class Questions:
    """Questions, each with its paragraph and the place of its answer.

    Attributes:
        texts: (N,) as asked.
        passages: (P,) different paragraphs.
        passage_of: (N,) int64 index into `passages`.
        answers: (N,) the first answer's text.
        spans: (N, 2) int64, `passages[p][start:end] == answer`.
        articles: (P,) int64, equal for paragraphs of one article.
        dev: (N,) bool: of an article held out for development.
    """

    texts: list[str]
    passages: list[str]
    passage_of: NDArray[np.int64]
    answers: list[str]
    spans: NDArray[np.int64]
    articles: NDArray[np.int64]
    dev: NDArray[np.bool_]


def read_questions(path: Path, *, dev_articles: int, paragraphs: int = 0, seed: int = 0) -> Questions:
    """Read `{query, positive, title, answers, answer_start}` lines; whole articles are held out.

    `paragraphs` takes a random part of those of the other articles, with all their questions; 0 takes all.

    Raises:
        AnswerError: the file cannot be read, or a line lacks a field.
    """
    try:
        with gzip.open(path, "rt", encoding="utf-8") as file:
            rows = [json.loads(line) for line in file]
        rows = [row for row in rows if row["positive"][row["answer_start"] :].startswith(row["answers"][0])]
        titles = sorted({row["title"] for row in rows})
    except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
        raise AnswerError(
            f"{path} holds no questions with answers ({error}): see docs/rag.md for the format"
        ) from error
    rng = np.random.default_rng(seed)
    held_out = {titles[i] for i in rng.choice(len(titles), min(dev_articles, len(titles) // 2), replace=False)}
    if paragraphs:
        others = sorted({row["positive"] for row in rows if row["title"] not in held_out})
        kept = {others[i] for i in rng.permutation(len(others))[:paragraphs]}
        rows = [row for row in rows if row["title"] in held_out or row["positive"] in kept]
    number = {title: i for i, title in enumerate(titles)}
    passages = {text: i for i, text in enumerate(dict.fromkeys(row["positive"] for row in rows))}
    articles = np.zeros(len(passages), np.int64)
    for row in rows:
        articles[passages[row["positive"]]] = number[row["title"]]
    starts = np.array([row["answer_start"] for row in rows], np.int64)
    answers = [row["answers"][0] for row in rows]
    return Questions(
        [" ".join(row["query"].split()) for row in rows],
        list(passages),
        np.array([passages[row["positive"]] for row in rows], np.int64),
        answers,
        np.stack([starts, starts + np.array([len(answer) for answer in answers])], 1),
        articles,
        np.array([row["title"] in held_out for row in rows], np.bool_),
    )


class StateFile:
    """States of many texts in one folder, memory-mapped."""

    def __init__(self, folder: Path) -> None:
        """Open a folder that `write` has finished."""
        self._ends: NDArray[np.int64] = np.load(folder / "ends.npy")
        self._ids: NDArray[np.int32] = np.load(folder / "ids.npy")
        self._offsets: NDArray[np.int32] = np.load(folder / "offsets.npy")
        self._hidden: NDArray[np.float16] = np.load(folder / "hidden.npy", mmap_mode="r")

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, index: int) -> States:
        rows = slice(int(self._ends[index - 1]) if index else 0, int(self._ends[index]))
        return States(self._ids[rows], self._offsets[rows], self._hidden[rows])

    @classmethod
    def write(cls, folder: Path, encoder: Encoder, texts: Sequence[str], kind: str) -> StateFile:
        """Encode texts into a folder, unless it is there already."""
        if not (folder / "ends.npy").exists():
            folder.mkdir(parents=True, exist_ok=True)
            lengths: list[int] = []
            ids: list[NDArray[np.int32]] = []
            offsets: list[NDArray[np.int32]] = []
            raw = folder / "hidden.raw"
            with raw.open("wb") as file:
                for states in _encoded(encoder, texts, kind):
                    lengths.append(len(states))
                    ids.append(states.ids)
                    offsets.append(states.offsets)
                    file.write(np.ascontiguousarray(states.hidden).tobytes())
            shape = (sum(lengths), encoder.backbone.hidden_size)
            source = np.memmap(raw, np.float16, "r", shape=shape)
            target = np.lib.format.open_memmap(folder / "hidden.npy", "w+", np.float16, shape)
            target[:] = source
            target.flush()
            raw.unlink()
            np.save(folder / "ids.npy", np.concatenate(ids))
            np.save(folder / "offsets.npy", np.concatenate(offsets))
            np.save(folder / "ends.npy", np.cumsum(lengths))
        return cls(folder)


def _encoded(encoder: Encoder, texts: Sequence[str], kind: str) -> Iterator[States]:
    for start in range(0, len(texts), _ENCODE_AT_ONCE):
        yield from encode_states(encoder, texts[start : start + _ENCODE_AT_ONCE], kind)


def token_span(offsets: NDArray[np.int32], start: int, end: int) -> tuple[int, int] | None:
    """First and last token of `text[start:end]`; None if the tokens do not reach it."""
    inside = np.flatnonzero((offsets[:, 0] < end) & (offsets[:, 1] > start))
    if not len(inside) or offsets[inside[-1], 1] < end:
        return None
    return int(inside[0]), int(inside[-1])

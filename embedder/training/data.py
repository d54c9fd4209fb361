"""Data sets of a training, read whole and checked before any step; what a step draws depends on seed and step alone."""

from __future__ import annotations

import os
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from .sources import DataError, read_jsonl
from .training_recipe import DataSettings

_VARIABLE = re.compile(r"\$(\w+)")
# More than any tokenizer makes one token of, as a rule: a piece is cut by tokens afterwards.
_CHARS_A_TOKEN = 8


@dataclass(frozen=True)
class TrainingPair:
    """A query, a text that answers or means it, and texts that do not."""

    query: str
    positive: str
    negatives: tuple[str, ...] = ()


@dataclass(frozen=True)
class PairData:
    """A data set of pairs."""

    name: str
    settings: DataSettings
    pairs: list[TrainingPair]


@dataclass(frozen=True)
class TextData:
    """A data set of texts; `ends` (N,) are the running sums of their lengths in characters."""

    name: str
    texts: list[str]
    ends: NDArray[np.int64]

    def piece(self, place: float, max_tokens: int) -> str:
        """The text from a place on, long enough for so many tokens.

        Args:
            place: in [0, 1), a character of the whole data set; the piece begins at the word behind it.
            max_tokens: tokens wanted.
        """
        at = int(place * self.ends[-1])
        number = int(np.searchsorted(self.ends, at, side="right"))
        text = self.texts[number]
        start = at - int(self.ends[number]) + len(text)
        # A short text, or the start of one, is taken whole from its first word.
        if start < 40 or len(text) < 2 * _CHARS_A_TOKEN * 8:
            start = 0
        else:
            start = text.find(" ", start) + 1
        piece = text[start : start + _CHARS_A_TOKEN * max_tokens]
        return piece if piece.strip() else text[: _CHARS_A_TOKEN * max_tokens]


def require_variables(paths: Iterable[str], variables: Mapping[str, str]) -> None:
    """Refuse paths with a `$NAME` that is neither in `variables` nor in the environment, naming all of them at once.

    Raises:
        DataError: variables are not set.
    """
    unset = sorted({name for path in paths for name in _VARIABLE.findall(path)} - {*variables, *os.environ})
    if len(unset) == 1:
        raise DataError(f"the recipe needs the environment variable {unset[0]}: set it")
    if unset:
        raise DataError(f"the recipe needs the environment variables {' and '.join(unset)}: set them")


def expand(path: str, variables: Mapping[str, str]) -> Path:
    """Fills `$NAME` in a path from `variables`, then from the environment.

    Raises:
        DataError: a variable is not set.
    """
    require_variables([path], variables)
    return Path(_VARIABLE.sub(lambda match: {**os.environ, **variables}[match[1]], path)).expanduser()


def read_pair_data(name: str, settings: DataSettings, variables: Mapping[str, str]) -> PairData:
    """Reads and checks a data set of pairs.

    Raises:
        DataError: naming file, line and field, for a side that is missing, empty or no text.
    """
    pairs = [_pair(record, settings, where) for where, record in _records(name, settings, variables)]
    if len(pairs) < 2:
        raise DataError(f"data.{name}: {len(pairs)} pairs are too few to learn from")
    return PairData(name, settings, pairs)


def read_text_data(name: str, settings: DataSettings, variables: Mapping[str, str]) -> TextData:
    """Reads and checks a data set of texts; of pairs it takes the positives.

    Raises:
        DataError: as `read_pair_data`.
    """
    field = settings.text if settings.kind == "texts" else settings.positive
    texts = [_text(record, field, where) for where, record in _records(name, settings, variables)]
    if not texts:
        raise DataError(f"data.{name}: there are no texts")
    return TextData(name, texts, np.cumsum([len(text) for text in texts]))


def group_of(text: str) -> int:
    """A number that is equal for equal texts (and, one time in four thousand million, for others)."""
    return zlib.crc32(text.encode("utf-8", "replace"))


def _records(name: str, settings: DataSettings, variables: Mapping[str, str]) -> Iterator[tuple[str, dict[str, Any]]]:
    if not settings.files:
        raise DataError(f"data.{name}.files: there is none")

    def all_records() -> Iterator[tuple[str, dict[str, Any]]]:
        for file in settings.files:
            path = expand(file, variables)
            if not path.is_file():
                raise DataError(f"data.{name}.files: {path} does not exist")
            try:
                for number, record in enumerate(_read(path), 1):
                    yield f"data.{name}: {path}:{number}", record
            except DataError as error:
                raise DataError(f"data.{name}: {error}") from error

    return islice(all_records(), settings.limit)


def _read(path: Path) -> Iterator[dict[str, Any]]:
    """The records of a file: lines, or the rows of a pairs step that it did not hold out."""
    if path.suffix != ".parquet":
        yield from read_jsonl(path)
        return
    try:
        table = pq.read_table(path)
        with np.load(path.with_suffix(".npz")) as stored:
            train = np.flatnonzero(~stored["dev"])
    except (OSError, ValueError, KeyError, pa.ArrowException) as error:
        raise DataError(f"{path} is not the result of a pairs step: {str(error).splitlines()[0]}") from error
    for batch in table.take(train).to_batches(max_chunksize=8192):
        yield from batch.to_pylist()


def _pair(record: dict[str, Any], settings: DataSettings, where: str) -> TrainingPair:
    query, positive = _text(record, settings.query, where), _text(record, settings.positive, where)
    found = record.get(settings.negatives) or []
    if not isinstance(found, list):
        raise DataError(f"{where}: {settings.negatives} must be a list of texts")
    negatives = tuple(_text({settings.negatives: text}, settings.negatives, where) for text in found)
    return TrainingPair(query, positive, negatives)


def _text(record: dict[str, Any], field: str, where: str) -> str:
    value = record.get(field)
    if not isinstance(value, str) or not value.strip():
        what = "is missing" if value is None else "is empty" if isinstance(value, str) else "is no text"
        raise DataError(f"{where}: {field} {what}")
    return value

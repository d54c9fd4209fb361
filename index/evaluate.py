"""How well a model finds what people judged relevant, in every search mode; measures by ir_measures.

Documents are indexed as ever, longer ones in several chunks, and a document scores what its best chunk scores (MaxP).
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import ir_measures
import numpy as np
from ir_measures import AP, RR, R, nDCG

from ..embedder.embeddings import Embeddings
from ..embedder.errors import InputError
from .batches import index_documents
from .beir import Collection, load_collection
from .chunking import ChunkSettings
from .documents import Hit
from .encoder import Encoder
from .layout import layout_of
from .modes import NEEDS, available, needed, parse_mode
from .searcher import Searcher
from .store import Store

MEASURES = (nDCG @ 10, AP, R @ 100, RR @ 10)
DEPTH = 100
"""Documents ranked for each query; AP is therefore over the first 100."""
_QUERIES_AT_ONCE = 256
_MOST_CHUNKS = 10_000

Ranking = Mapping[str, Sequence[tuple[str, float]]]
"""Document ids and scores, best first, by query id."""


@dataclass(frozen=True)
class Progress:
    """`done` of `total`, of what `stage` names: `chunks` (total 0: not known) or a search mode's queries."""

    stage: str
    done: int
    total: int


@dataclass(frozen=True)
class Scores:
    """One mode's result: each measure's value for each query, kept for bootstrap intervals and paired tests."""

    per_query: Mapping[str, Mapping[str, float]]

    def means(self) -> dict[str, float]:
        """Return each measure's mean over the queries."""
        return {name: sum(values.values()) / len(values) for name, values in self.per_query.items()}

    def intervals(self, draws: int = 2000, seed: int = 0) -> dict[str, tuple[float, float]]:
        """Return the 2.5 and 97.5 percentiles of each measure's mean over `draws` resamples of the queries."""
        rng = np.random.default_rng(seed)
        found: dict[str, tuple[float, float]] = {}
        for name, values in self.per_query.items():
            each = np.array(list(values.values()))
            means = [each[rng.integers(0, len(each), len(each))].mean() for _ in range(draws)]
            low, high = np.percentile(means, [2.5, 97.5])
            found[name] = (float(low), float(high))
        return found


def evaluate_per_query(
    beir_dir: Path,
    encoder: Encoder,
    *,
    modes: Sequence[str] | None = None,
    split: str = "test",
    settings: ChunkSettings | None = None,
    store_dir: Path | None = None,
    run_dir: Path | None = None,
    router_weight: float = 1.0,
    progress: Callable[[Progress], None] | None = None,
) -> dict[str, Scores]:
    """Index a BEIR folder, search it with its judged queries, and score the rankings.

    Args:
        beir_dir: the folder.
        encoder: encodes documents and queries.
        modes: see `Searcher.search`; None for every one that an index of the model has.
        split: which `qrels/<split>.tsv`.
        settings: how documents are cut.
        store_dir: keeps the index there, and reuses what it finds; a temporary folder otherwise.
        run_dir: gets a TREC run `<mode>.trec` and `<mode>.per_query.tsv` for each mode.
        router_weight: alpha of mode `moee`, as of `Searcher`.
        progress: told how far indexing and searching are.

    Returns:
        Each measure (`nDCG@10`, `AP`, `R@100`, `RR@10`) for each query, by mode.

    Raises:
        InputError: an unknown mode, or not a BEIR folder.
        StoreError: `store_dir` cannot be used.
    """
    outputs = _held(encoder, modes or ())
    layout = layout_of(encoder, outputs)
    modes = available(layout) if modes is None else modes
    if not modes:
        raise InputError(f"no mode to evaluate: choose from {', '.join(available(layout))}")
    for mode in modes:
        parse_mode(mode, layout)
    tell = progress or (lambda _: None)
    collection = load_collection(beir_dir, split)
    results: dict[str, Scores] = {}
    with _store(store_dir, encoder, outputs) as store:
        index_documents(
            store,
            encoder,
            collection.documents(),
            settings=settings,
            progress=lambda chunks: tell(Progress("chunks", chunks, 0)),
        )
        searcher = Searcher(store, _Remembering(encoder), router_weight=router_weight)
        for mode in modes:
            ranking = rank_documents(searcher, collection.queries, mode, tell)
            results[mode] = score(collection, ranking)
            if run_dir is not None:
                write_run(run_dir, mode, ranking, results[mode])
    return results


def rank_documents(
    searcher: Searcher, queries: Mapping[str, str], mode: str, tell: Callable[[Progress], None]
) -> dict[str, list[tuple[str, float]]]:
    """Return the best 100 documents of each query, each with its best chunk's score."""
    ids = list(queries)
    ranking: dict[str, list[tuple[str, float]]] = {}
    for start in range(0, len(ids), _QUERIES_AT_ONCE):
        block = ids[start : start + _QUERIES_AT_ONCE]
        k = DEPTH
        while block:
            found = searcher.search_many([queries[query_id] for query_id in block], mode=mode, k=k)
            best = {query_id: _best_chunks(hits) for query_id, hits in zip(block, found, strict=True)}
            # Several chunks of one document take several places: where that leaves too few documents, look deeper.
            short = [q for q, hits in zip(block, found, strict=True) if len(best[q]) < DEPTH and len(hits) == k]
            ranking.update(best)
            block, k = (short, 4 * k) if 4 * k <= _MOST_CHUNKS else ([], k)
        tell(Progress(mode, min(start + _QUERIES_AT_ONCE, len(ids)), len(ids)))
    return {query_id: ranking[query_id] for query_id in ids}


def score(collection: Collection, ranking: Ranking) -> Scores:
    """Return the measures of a ranking; a query for which nothing was found counts 0."""
    # trec_eval sorts equal scores by document id; places are scored so that the order is the one a user saw.
    run = {q: {doc_id: -float(place) for place, (doc_id, _) in enumerate(found)} for q, found in ranking.items()}
    per_query = {str(measure): dict.fromkeys(collection.queries, 0.0) for measure in MEASURES}
    for value in ir_measures.iter_calc(list(MEASURES), collection.qrels, run):
        per_query[str(value.measure)][value.query_id] = value.value
    return Scores(per_query)


def write_run(folder: Path, mode: str, ranking: Ranking, scores: Scores) -> None:
    """Write `<mode>.trec` (TREC's six columns, ranks from 1) and `<mode>.per_query.tsv` (query, measure, value)."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"{mode}.trec").open("w", encoding="utf-8") as run:
        for query_id, found in ranking.items():
            for rank, (doc_id, value) in enumerate(found, start=1):
                run.write(f"{query_id} Q0 {doc_id} {rank} {value:.6f} decant-{mode}\n")
    with (folder / f"{mode}.per_query.tsv").open("w", encoding="utf-8") as table:
        for measure, values in scores.per_query.items():
            table.writelines(f"{query_id}\t{measure}\t{value:.6f}\n" for query_id, value in values.items())


def _best_chunks(hits: Sequence[Hit]) -> list[tuple[str, float]]:
    best: dict[str, float] = {}
    for hit in hits:
        best.setdefault(hit.chunk.doc_id, hit.score)
    return list(best.items())[:DEPTH]


def _held(encoder: Encoder, modes: Sequence[str]) -> tuple[str, ...]:
    """What the rows hold: what an index holds of this model by default, and what the modes need besides."""
    named = [name for mode in modes for name in mode.split("+") if name in NEEDS]
    wanted = {*encoder.indexed_outputs, *needed(named)}
    return tuple(name for name in encoder.outputs if name in wanted)


@contextmanager
def _store(folder: Path | None, encoder: Encoder, outputs: Sequence[str]) -> Generator[Store]:
    if folder is not None:
        with Store.open(folder, encoder=encoder, create=True, outputs=outputs) as store:
            yield store
        return
    with tempfile.TemporaryDirectory(prefix="decant-eval-") as scratch:
        with Store.open(Path(scratch) / "store", encoder=encoder, create=True, outputs=outputs) as store:
            yield store


class _Remembering:
    """An encoder that encodes the same queries once, though every mode asks for them."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self._queries: dict[tuple[object, ...], Embeddings] = {}
        self.outputs, self.indexed_outputs = encoder.outputs, encoder.indexed_outputs
        self.fingerprint, self.dimension = encoder.fingerprint, encoder.dimension
        self.tokenizer, self.max_tokens = encoder.tokenizer, encoder.max_tokens

    def encode(
        self, texts: Sequence[str], *, kind: str = "document", outputs: Sequence[str] = ("dense",)
    ) -> Embeddings:
        """Encode, or give what was given before."""
        key = (kind, tuple(outputs), *texts)
        if key not in self._queries:
            self._queries[key] = self._encoder.encode(texts, kind=kind, outputs=outputs)
        return self._queries[key]

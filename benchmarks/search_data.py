"""The vectors of the search benchmarks: those of real texts and questions, extended by mixtures to any number.

A row beyond the real ones is a real one moved up to halfway towards one of its own nearest neighbours, with noise: it
lies where texts of that subject lie. Queries are real questions' vectors and are not extended, so they are what an
index meets in use, and harder than vectors drawn like the rows. Sparse rows are mixed the same way, term by term.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

NEIGHBOURS = 16
NOISE = 0.3
TEXTS = (
    "text/wikipedia.jsonl.gz",
    "text/openstax.jsonl.gz",
    "text/docs/python-peps.jsonl.gz",
    "text/docs/cpp-docs.jsonl.gz",
)
QUESTIONS = ("pairs/squad-train.jsonl.gz", "pairs/medquad.jsonl.gz", "pairs/openstax-glossary.jsonl.gz")
PASSAGE_CHARS = 420


def encoded(data: Path, folder: Path, passages: int, questions: int, sparse_model: str | None) -> dict[str, Path]:
    """Files of the real texts' vectors, made where they are not there yet: dense, and sparse where a model is given."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {"dense": folder / f"dense-{passages}-{questions}.npz"}
    if sparse_model is not None:
        files["sparse"] = folder / f"sparse-{passages}-{questions}.npz"
    for kind, file in files.items():
        if file.exists():
            continue
        encode = _encoder(sparse_model if kind == "sparse" else None)
        made: dict[str, Any] = {}
        for name, texts in (("rows", real_texts(data, passages)), ("queries", _questions(data, questions))):
            parts = [encode(texts[i : i + 64], name == "queries", kind) for i in range(0, len(texts), 64)]
            if kind == "dense":
                made[name] = np.concatenate(parts)
            else:
                from scipy.sparse import vstack

                rows = vstack(parts, format="csr")
                made |= {f"{name}_data": rows.data, f"{name}_indices": rows.indices, f"{name}_indptr": rows.indptr}
                made["terms"] = rows.shape[1]
        scratch = file.with_suffix(".new.npz")
        np.savez(scratch, **made)
        scratch.rename(file)
    return files


def _encoder(model: str | None) -> Any:
    """Decant's encoder, or sentence-transformers' for a SparseEncoder's folder."""
    if model is None or (Path(model) / "decant.json").exists():
        from decant.embedder import Encoder

        encoder = Encoder.load(model)
        return lambda texts, query, kind: getattr(
            encoder.encode(texts, kind="query" if query else "document", outputs=(kind,)), kind
        )
    from sentence_transformers import SparseEncoder

    other = SparseEncoder(model, device="cpu")

    def encode(texts: list[str], query: bool, kind: str) -> csr_array:
        rows: Any = (other.encode_query if query else other.encode_document)(texts, show_progress_bar=False).coalesce()
        return csr_array((rows.values().numpy(), tuple(rows.indices().numpy())), shape=tuple(rows.shape))

    return encode


def dense(file: Path, count: int, asked: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """(count, D) rows and (asked, D) queries at unit length."""
    held = np.load(file)
    real, queries = held["rows"], held["queries"][:asked]
    rng = np.random.default_rng(0)
    rows = np.empty((count, real.shape[1]), np.float32)
    rows[: len(real)] = real[:count]
    near = _neighbours(real)
    for start in range(len(real), count, 65_536):
        end = min(count, start + 65_536)
        one, share = _mixture(rng, len(real), end - start)
        two = near[one, rng.integers(0, NEIGHBOURS, end - start)]
        part = (1 - share) * real[one] + share * real[two]
        part += rng.standard_normal(part.shape, np.float32) * np.float32(NOISE / np.sqrt(real.shape[1]))
        rows[start:end] = part / np.linalg.norm(part, axis=1, keepdims=True)
    return rows, np.ascontiguousarray(queries)


def sparse(file: Path, dense_file: Path, count: int, asked: int) -> tuple[csr_array, csr_array]:
    """(count, V) rows and (asked, V) queries; a mixture keeps as many of its heaviest terms as its first text has."""
    held = np.load(file)
    width = int(held["terms"])
    real, queries = (
        csr_array(
            (held[f"{n}_data"], held[f"{n}_indices"], held[f"{n}_indptr"]), shape=(len(held[f"{n}_indptr"]) - 1, width)
        )
        for n in ("rows", "queries")
    )
    rng = np.random.default_rng(0)
    near = _neighbours(np.load(dense_file)["rows"])
    extra = max(0, count - real.shape[0])
    one, share = _mixture(rng, real.shape[0], extra)
    two = near[one, rng.integers(0, NEIGHBOURS, extra)]
    from scipy.sparse import diags_array, vstack

    parts = [real[: min(count, real.shape[0])]]
    for start in range(0, extra, 65_536):
        own = slice(start, min(extra, start + 65_536))
        mixed = diags_array(1 - share[own, 0]) @ real[one[own]] + diags_array(share[own, 0]) @ real[two[own]]
        parts.append(_cut(csr_array(mixed), np.diff(real.indptr)[one[own]], rng))
    rows = csr_array(vstack(parts, format="csr"), dtype=np.float32)
    rows.sort_indices()
    rows.data[:] = rows.data.astype(np.float16)  # as a store keeps them
    return rows, csr_array(queries[:asked], dtype=np.float32)


def _mixture(rng: np.random.Generator, real: int, count: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    return rng.integers(0, real, count), rng.uniform(0, 0.5, (count, 1)).astype(np.float32)


def _neighbours(real: NDArray[np.float32]) -> NDArray[np.int64]:
    near = np.empty((len(real), NEIGHBOURS), np.int64)
    for start in range(0, len(real), 1024):
        scores = real[start : start + 1024] @ real.T
        near[start : start + 1024] = np.argpartition(-scores, NEIGHBOURS, axis=1)[:, :NEIGHBOURS]
    return near


def _cut(rows: csr_array, lengths: NDArray[np.int64], rng: np.random.Generator) -> csr_array:
    """Each row's heaviest terms, so many as given, their weights varied by a tenth."""
    number = np.repeat(np.arange(rows.shape[0]), np.diff(rows.indptr))
    order = np.lexsort((-rows.data, number))
    place = np.arange(len(order)) - rows.indptr[number[order]]
    kept = np.sort(order[place < lengths[number[order]]])
    indptr = np.concatenate([[0], np.cumsum(np.bincount(number[kept], minlength=rows.shape[0]))])
    varied = rows.data[kept] * rng.uniform(0.9, 1.1, len(kept)).astype(np.float32)
    return csr_array((varied, rows.indices[kept], indptr), shape=rows.shape)


def real_texts(data: Path, count: int) -> list[str]:
    """Passages from all sources in turn, none twice."""
    sources = [_records(data / name) for name in TEXTS]
    found: dict[str, None] = {}
    while sources and len(found) < count:
        for source in list(sources):
            record = next(source, None)
            if record is None:
                sources.remove(source)
                continue
            for start in range(0, min(len(record["text"]), 4 * PASSAGE_CHARS), PASSAGE_CHARS):
                if len(passage := record["text"][start : start + PASSAGE_CHARS].strip()) > PASSAGE_CHARS // 2:
                    found.setdefault(passage)
    return list(found)[:count]


def _questions(data: Path, count: int) -> list[str]:
    share = -(-count // len(QUESTIONS))
    found: list[str] = []
    for name in QUESTIONS:
        every = dict.fromkeys(record["query"] for record in _records(data / name))
        texts = list(every)
        found += [texts[i] for i in np.random.default_rng(1).choice(len(texts), min(share, len(texts)), replace=False)]
    return found[:count]


def _records(file: Path) -> Iterator[dict[str, str]]:
    with gzip.open(file, "rt", encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)

"""The arms of the results: which model each one is, how it is read, and its scores on a collection."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from results_data import Examples

from decant.embedder import Encoder
from decant.embedder.embeddings import Embeddings
from decant.embedder.formats.folder import read_folder
from decant.embedder.prompts import apply_rule
from decant.embedder.spec_parts import RouterSpec, SparseSpec
from decant.index.beir import Collection
from decant.index.evaluate import DEPTH, score

MAX_TOKENS = 96
"""Of a document in every arm: the collections are searched many times on a slow machine."""
QUERIES = 1000
"""Most queries of a collection, the first ones."""
CALIBRATION_TEXTS = 300


@dataclass(frozen=True)
class Arm:
    """One row of the table.

    Attributes:
        name: letter of the question it belongs to, and a number.
        label: what is measured.
        recipe: the training whose model it is.
        encoder: changes to that model's spec.
        outputs: `dense`, `sparse`, `router`, or both parts that are summed.
        rule: prompt rule put over the spec.
        examples: whether queries stand behind an example.
        alpha: weight of the router's score in a sum.
        calibrated: whether router and dense vectors are standardised by training texts first.
    """

    name: str
    label: str
    recipe: str
    encoder: Mapping[str, Any] = field(default_factory=dict[str, Any])
    outputs: tuple[str, ...] = ("dense",)
    rule: str | None = None
    examples: bool = False
    alpha: float = 1.0
    calibrated: bool = False


_BOTH_WAYS = {"attention": "bidirectional", "pooling": "mean"}
_ROUTER = {"router": RouterSpec()}

ARMS = (
    Arm("a1", "base, causal, last token, untrained", "03-base"),
    Arm("a2", "base, causal, mean, untrained", "03-base", {"pooling": "mean"}),
    Arm("a3", "base, bidirectional, mean, untrained", "03-base", _BOTH_WAYS),
    Arm("b", "+ MNTP", "10-mntp"),
    Arm("k1", "MAGNET in place of MNTP", "35-magnet"),
    Arm("k2", "AntLM in place of MNTP", "36-antlm"),
    Arm("c", "MNTP + SimCSE", "20-simcse"),
    Arm("d", "MNTP + SimCSE + supervised", "30-supervised"),
    Arm("d0", "supervised alone, bidirectional", "37-supervised-only"),
    Arm("e", "as (d), latent attention", "31-latent"),
    Arm("f", "as (d), mined hard negatives", "32-hard-negatives"),
    Arm("g", "base, causal, echo, untrained", "03-base", rule="echo"),
    Arm("h", "MNTP + SPLADE (sparse)", "33-sparse", outputs=("sparse",)),
    Arm("i1", "mixture of experts, causal, last token, untrained", "39-base-moe"),
    Arm("i2", "its router vectors", "39-base-moe", {"pooling": "none", **_ROUTER}, outputs=("router",)),
    Arm("i3", "MoEE sum of both, standardised", "39-base-moe", _ROUTER, outputs=("dense", "router"), calibrated=True),
    Arm("i4", "mixture of experts, supervised", "40-moe-supervised"),
    Arm("i5", "its router vectors", "40-moe-supervised", {"pooling": "none", **_ROUTER}, outputs=("router",)),
    Arm("i6", "MoEE sum of both, standardised", "40-moe-supervised", _ROUTER, ("dense", "router"), calibrated=True),
    Arm("j1", "(d) with a retrieved example before each query", "30-supervised", examples=True),
    Arm("j2", "RARe: trained and asked with examples", "34-rare", examples=True),
    Arm("j3", "RARe: trained with examples, asked without", "34-rare"),
)


def load(arm: Arm, run: Path, calibration: list[str]) -> Encoder:
    """Load an arm's model as the arm reads it."""
    folder = run / arm.recipe / "model"
    spec = read_folder(folder).spec
    spec = apply_rule(arm.rule, spec) if arm.rule else spec
    # An echo prompt holds the text twice; a query with an example is longer than a document.
    limit = 2 * MAX_TOKENS + 16 if arm.rule or arm.examples else MAX_TOKENS
    changes = {"max_tokens": limit, **arm.encoder}
    if "sparse" in arm.outputs and spec.sparse is None:
        changes["sparse"] = SparseSpec()
    encoder = Encoder.load(folder, spec=replace(spec, **changes), dtype="float32", verify=False)
    return encoder.calibrated(calibration) if arm.calibrated else encoder


def shortened(collection: Collection) -> Collection:
    """The collection with its first queries only."""
    chosen = dict(islice(collection.queries.items(), QUERIES))
    return replace(collection, queries=chosen, qrels={key: collection.qrels[key] for key in chosen})


def measure(arm: Arm, encoder: Encoder, collection: Collection, examples: Examples | None) -> dict[str, float]:
    """Search a collection exactly with an arm's vectors and score it."""
    collection = shortened(collection)
    documents, chosen = list(collection.documents()), collection.queries
    asked = list(chosen.values())
    if arm.examples and examples is not None:
        asked = examples.before(asked)
    queries = encoder.encode(asked, kind="query", outputs=arm.outputs)
    texts = encoder.encode([one.text for one in documents], outputs=arm.outputs)
    scores = similarity(queries, texts, arm.alpha)
    ids = [one.doc_id for one in documents]
    best = np.argsort(-scores, axis=1, kind="stable")[:, :DEPTH]
    ranking = {
        key: [(ids[i], float(row[i])) for i in order] for key, row, order in zip(chosen, scores, best, strict=True)
    }
    return score(collection, ranking).means()


def similarity(queries: Embeddings, texts: Embeddings, alpha: float) -> NDArray[np.float32]:
    """(Q, N) scores: cosine of dense or router vectors, their weighted sum, or the product of term weights."""
    if queries.sparse is not None and texts.sparse is not None:
        return np.asarray((queries.sparse @ texts.sparse.T).todense(), np.float32)
    total: NDArray[np.float32] | None = None
    for one, other, weight in ((queries.dense, texts.dense, 1.0), (queries.router, texts.router, alpha)):
        if one is not None and other is not None:
            part = weight * (_unit(one) @ _unit(other).T)
            total = part if total is None else total + part
    assert total is not None
    return total


def _unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)

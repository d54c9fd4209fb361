"""Evidence: the sentences of retrieved passages that answer a question, verbatim, each with a strength.

A model's cosines mean little by themselves: one model's strangers score 0.1, another's 0.7. So a sentence is scored
by how many standard deviations its cosine lies above what passages score that were not found for this question, plus
the share of the question's words it holds. Those are the store's own; where it has too few, sentences of ours on all
sorts of matters join them, so that the strength of an answer does not hang on how much else a store holds. Selection
of verbatim sentences follows Refiner (arXiv 2406.11357), which trains a model to copy them; here they are chosen, so
they cannot be altered.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from ..index.documents import MARKDOWN_MEDIA, Chunk, Hit
from ..index.encoder import Encoder
from ..index.schema import chunk_id
from ..index.snapshot import Snapshot
from ..index.store import Store
from .markup import open_fence
from .reference import reference_vectors
from .sentence_vectors import SentenceVectors, unit, unit_vectors
from .sentences import Sentence, split_sentences

# Passages of the store that say what an unrelated passage scores.
BACKGROUND_PASSAGES = 512
# With fewer, reference sentences fill up to this number.
LEAST_BACKGROUND = 128
# Keeps a store of a few alike passages from making everything look extraordinary.
MIN_SPREAD = 0.05
_SAMPLES: WeakKeyDictionary[Snapshot, tuple[NDArray[Any], NDArray[np.float32]]] = WeakKeyDictionary()
_WORD = re.compile(r"\w+")
# Words that carry a question's form and not its matter.
_FORM = frozenset(
    "a an and are as at be been by can could did do does for from had has have how i if in into is it its many me much "
    "my of on or our should tell that the their them there these they this those to was we were what when where which "
    "who whom whose why will with would you your".split()
)


@dataclass(frozen=True)
class Evidence:
    """One sentence of one passage, and how strongly it speaks to the question."""

    hit: Hit
    sentence: Sentence
    score: float

    @property
    def start_char(self) -> int:
        """Where it begins in its document."""
        return self.hit.chunk.start_char + self.sentence.start_char

    @property
    def end_char(self) -> int:
        """Where it ends in its document."""
        return self.hit.chunk.start_char + self.sentence.end_char


@dataclass(frozen=True)
class Background:
    """What passages score for a question that has nothing to do with them: mean and standard deviation."""

    mean: float
    spread: float


def background(store: Store, encoder: Encoder, question: NDArray[np.float32], hits: Sequence[Hit]) -> Background:
    """Measure a question's cosines, (D,) unit vector, with a fixed sample of the store's passages.

    The passages that were found are left out: they are what is judged, and in a small store they are all there is.
    """
    ids, vectors = store.read(_sample)
    vectors = vectors[~np.isin(ids, np.array([chunk_id(hit.chunk) for hit in hits], ids.dtype))]
    if len(vectors) < LEAST_BACKGROUND:
        others = unit(reference_vectors(encoder)[: LEAST_BACKGROUND - len(vectors)])
        vectors = np.concatenate([vectors, others]) if len(vectors) else others
    cosines = vectors @ question
    return Background(float(cosines.mean()), max(float(cosines.std()), MIN_SPREAD))


def _sample(snapshot: Snapshot) -> tuple[NDArray[Any], NDArray[np.float32]]:
    """Ids (N,) and unit vectors (N, D) of a fixed sample of a version's passages, read once; (0, 0) of none."""
    if (known := _SAMPLES.get(snapshot)) is None:
        count = min(BACKGROUND_PASSAGES, len(snapshot))
        positions = np.sort(np.random.default_rng(0).choice(len(snapshot), count, replace=False))
        vectors = np.zeros((0, 0), np.float32)
        if count:
            taken = snapshot.take(positions, ["vector"])["vector"].to_numpy(zero_copy_only=False)
            vectors = unit(np.stack(taken).astype(np.float32))
        known = _SAMPLES[snapshot] = (snapshot.chunk_ids[positions], vectors)
    return known


def find_evidence(
    question: str,
    hits: Sequence[Hit],
    store: Store,
    vectors: SentenceVectors,
    *,
    word_weight: float,
    tenant: str = "",
) -> list[Evidence]:
    """Return every sentence of the passages with its strength, strongest first, ties in the order of the hits.

    Args:
        question: as asked.
        hits: retrieved passages.
        store: where they come from.
        vectors: of sentences, by the store's encoder.
        word_weight: standard deviations that holding all of the question's words is worth.
        tenant: on whose behalf.
    """
    texts = store.texts([hit.chunk.doc_id for hit in hits]) if hits else {}
    places = [(hit, sentence) for hit in hits for sentence in _sentences(hit.chunk, *texts.get(hit.chunk.doc_id, ()))]
    if not places:
        return []
    asked = unit_vectors(vectors.encoder, [question], "query")[0]
    usual = background(store, vectors.encoder, asked, hits)
    cosines = vectors.get([sentence.text for _, sentence in places], tenant) @ asked
    wanted = content_words(question)
    found = [
        Evidence(
            hit,
            sentence,
            (float(cosine) - usual.mean) / usual.spread + word_weight * overlap(wanted, sentence.text),
        )
        for (hit, sentence), cosine in zip(places, cosines, strict=True)
    ]
    return sorted(found, key=lambda evidence: -evidence.score)


def says_more(question: str, text: str) -> bool:
    """Whether a text has a word or number of matter that the question does not have: what has none answers nothing."""
    return not set(_WORD.findall(text.lower())) <= _FORM | set(_WORD.findall(question.lower()))


def content_words(text: str) -> frozenset[str]:
    """Words of a question that carry its matter, lower-cased; all of them where none does."""
    words = frozenset(_WORD.findall(text.lower()))
    return words - _FORM or words


def overlap(wanted: frozenset[str], text: str) -> float:
    """Share of the wanted words that the text holds."""
    return len(wanted & set(_WORD.findall(text.lower()))) / len(wanted) if wanted else 0.0


def _sentences(chunk: Chunk, document: str = "", media: str = "text") -> list[Sentence]:
    fence = open_fence(document[: chunk.start_char]) if media in MARKDOWN_MEDIA else ""
    return split_sentences(chunk.text, media, fence=fence)

"""Strength says the same in a store of any size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from decant.embedder import Encoder
from decant.index import Document, Store
from decant.index.batches import index_documents
from decant.index.searcher import Searcher
from decant.index.snapshot import Snapshot
from decant.index.testing import HashEncoder, indexed
from decant.rag import Answerer, evidence, reference
from decant.rag.generation import NO_ANSWER

NOTES = {
    "kettle": "The kettle switches itself off when the water boils. Its element must be descaled every six weeks.",
    "parking": "Visitors park behind the library. A permit costs four pounds a day and is sold at the desk.",
    "heating": "The boiler was built in 1987 by Hartmann and Sons. It is serviced each September.",
    "wifi": "The guest network is called Heron. Its password is changed on the first Monday of a month.",
    "bins": "Glass is collected on Tuesdays. Paper goes into the blue bin, and garden waste into the brown one.",
    "keys": "Spare keys hang in the porter's lodge. Whoever borrows one signs the green book.",
    "lift": "The lift carries eight people or 630 kilograms. In a fire it stops on the ground floor.",
    "meetings": "The tenants meet in the laundry room on the last Friday of a quarter. Ms Okafor takes the minutes.",
    "pets": "Dogs are allowed if they are kept on a lead in the stairwell. Snakes need the landlord's consent.",
    "roof": "The roof terrace is open until ten in the evening. Barbecues are forbidden there.",
}
ASKED = {
    "kettle": "How often must the element of the kettle be descaled?",
    "parking": "How much does a parking permit cost?",
    "heating": "Who built the boiler?",
    "wifi": "What is the guest network called?",
    "bins": "When is glass collected?",
    "keys": "Where do the spare keys hang?",
    "lift": "How many people can the lift carry?",
    "meetings": "Who takes the minutes of the tenants' meeting?",
    "pets": "Are dogs allowed in the stairwell?",
    "roof": "Until when is the roof terrace open?",
}
ELSEWHERE = ("Who won the world cup in 1966?", "What is the capital of Mongolia?", "How do vaccines work?")


@pytest.fixture(scope="module")
def mini() -> Encoder:
    return Encoder.load()


@pytest.fixture(scope="module", params=[1, 2, 10])
def answerers(request, mini, tmp_path_factory):
    """Stores of so many notes, each with the notes that it holds."""
    size = request.param
    found = []
    for first in (0, 4, 8) if size < len(NOTES) else (0,):
        names = list(NOTES)[first : first + size]
        store = Store.open(Path(tmp_path_factory.mktemp("s")) / "store", encoder=mini, create=True)
        index_documents(store, mini, [Document(name, NOTES[name]) for name in names])
        found.append((names, Answerer(store, mini)))
    return found


def test_a_small_store_answers_what_it_plainly_says(answerers):
    for names, answerer in answerers:
        for name in names:
            answer = answerer.ask(ASKED[name])
            assert answer.grounded, ASKED[name]
            assert answer.citations[0].doc_id == name


def test_a_small_store_refuses_what_it_does_not_touch(answerers):
    for _, answerer in answerers:
        assert [answerer.ask(question).text for question in ELSEWHERE] == [NO_ANSWER] * len(ELSEWHERE)


def test_what_was_found_is_no_background(mini, tmp_path):
    with Store.open(tmp_path / "s", encoder=mini, create=True) as store:
        index_documents(store, mini, [Document(name, text) for name, text in NOTES.items()])
        hits = Searcher(store, mini).search("Who built the boiler?", k=len(NOTES))
        asked = mini.encode(["Who built the boiler?"], kind="query").dense[0]
        usual = evidence.background(store, mini, asked, hits)
    cosines = reference.reference_vectors(mini) @ asked
    assert len(hits) == len(NOTES)
    assert (usual.mean, usual.spread) == pytest.approx((float(cosines.mean()), float(cosines.std())), abs=1e-5)


def test_a_large_store_is_its_own_background(tmp_path, monkeypatch):
    encoder = HashEncoder(dimension=64)
    monkeypatch.setattr(evidence, "reference_vectors", lambda _: pytest.fail("a large store needs no other sentences"))
    texts = [f"Sentence {i} speaks of thing{i} and matter{i}." for i in range(evidence.LEAST_BACKGROUND + 8)]
    with Store.open(tmp_path / "s", encoder=encoder, create=True) as store:
        store.replace([indexed(f"d{i}", text, encoder, path=f"d{i}") for i, text in enumerate(texts)])
        hits = Searcher(store, encoder).search("thing7", k=8)
        asked = encoder.encode(["thing7"], kind="query").dense[0]
        usual = evidence.background(store, encoder, asked, hits)
    found = {hit.chunk.doc_id for hit in hits}
    left = [text for i, text in enumerate(texts) if f"d{i}" not in found]
    cosines = encoder.encode(left, kind="document").dense @ asked / np.linalg.norm(asked)
    assert usual.mean == pytest.approx(float(cosines.mean()), abs=1e-5)


def test_a_version_s_background_is_read_once(tmp_path, monkeypatch):
    encoder = HashEncoder(dimension=64)
    taken: list[int] = []
    take = Snapshot.take

    def counting(self, positions, columns):
        taken.append(self.version)
        return take(self, positions, columns)

    monkeypatch.setattr(Snapshot, "take", counting)
    with Store.open(tmp_path / "s", encoder=encoder, create=True) as store:
        asked = encoder.encode(["thing"], kind="query").dense[0]
        empty = evidence.background(store, encoder, asked, [])
        store.replace([indexed("a", "Sentence of thing.", encoder, path="a")])
        versions = []
        for text in ("One more.", "And another."):
            versions.append(store.snapshot().version)
            first, second = (evidence.background(store, encoder, asked, []) for _ in range(2))
            assert first == second != empty
            store.replace([indexed(text, text, encoder, path=text)])
    assert taken == versions


def test_reference_sentences_are_encoded_once_for_an_encoder():
    class Counting(HashEncoder):
        calls = 0

        def encode(self, texts, *, kind="document", outputs=("dense",)):
            Counting.calls += 1
            return super().encode(texts, kind=kind, outputs=outputs)

    reference._vectors.clear()
    encoder = Counting(dimension=32)
    first = reference.reference_vectors(encoder)
    assert reference.reference_vectors(encoder) is first
    assert (Counting.calls, first.shape) == (1, (len(reference.SENTENCES), 32))
    assert len(set(reference.SENTENCES)) >= evidence.LEAST_BACKGROUND

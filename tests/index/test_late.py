"""Indexing with late chunking: the store holds what the encoder pools from whole documents."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from decant.embedder import Encoder
from decant.embedder.errors import InputError
from decant.index.chunking import ChunkSettings
from decant.index.ingest import index_paths
from decant.index.late import encode_late, late_encoder
from decant.index.store import Store
from decant.index.testing import HashEncoder

TEXT = " ".join(f"Sentence {i} tells of the river and of the {i} mills beside it." for i in range(40))


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return Encoder.load(dtype="float32", verify=False)


def test_settings_and_vectors_reach_the_store(encoder: Encoder, tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "river.txt").write_text(TEXT, "utf-8")
    with Store.open(tmp_path / "store", encoder=encoder, create=True) as store:
        alone = index_paths(store, encoder, [tmp_path / "docs"], chunk_tokens=60)
        late = index_paths(store, encoder, [tmp_path / "docs"], chunk_tokens=60, late_chunking=True)
        again = index_paths(store, encoder, [tmp_path / "docs"], chunk_tokens=60, late_chunking=True)
    assert (alone.added, late.changed, again.unchanged) == (1, 1, 1), "other settings make other vectors, once"
    assert late.chunks == alone.chunks > 3 and late.tokens > 0


def test_rows_are_the_encoders(encoder: Encoder) -> None:
    from decant.index.chunking import Chunker
    from decant.index.documents import Document

    document = Document("d", TEXT)
    chunks = Chunker(encoder, ChunkSettings(60, late=True)).chunk(document)
    made = encode_late(encoder, late_encoder(encoder, ("dense",)), document, chunks)
    spans = [(chunk.start_char, chunk.end_char) for chunk in chunks]
    np.testing.assert_allclose(made.dense, encoder.encode_chunks(TEXT, spans), atol=1e-6)
    assert made.tokens.tolist() == [len(encoder.tokenizer.encode(c.text, add_special_tokens=False).ids) for c in chunks]


def test_what_cannot_do_it_is_refused_before_anything_is_read(encoder: Encoder) -> None:
    with pytest.raises(InputError, match="cannot encode a document whole"):
        late_encoder(HashEncoder(), ("dense",))
    with pytest.raises(InputError, match="dense vectors only"):
        late_encoder(encoder, ("dense", "sparse"))

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import official
import pytest
from sentence_transformers import SentenceTransformer

from decant.embedder import Encoder, InputError, ModelError
from decant.embedder.verify import verify_encoder

BOUND = 1e-5


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Any:
    @cache
    def make(name: str) -> tuple[Any, Encoder, Path]:
        folder = tmp_path_factory.mktemp("official")
        case = official.CASES[name](folder / "model")
        encoder = Encoder.load(case.path, dtype="float32", **case.load)
        encoder.save(folder / "saved")
        return case, encoder, folder / "saved"

    return make


@pytest.mark.parametrize("name", official.CASES)
class TestOfficialFormat:
    def test_agrees_with_the_plain_statement(self, name: str, built: Any) -> None:
        case, encoder, _ = built(name)
        for call in case.calls:
            assert call.difference(encoder) <= BOUND

    def test_saved_and_loaded_again_agrees(self, name: str, built: Any) -> None:
        case, _, saved = built(name)
        encoder = Encoder.load(saved, dtype="float32")
        for call in case.calls:
            assert call.difference(encoder) <= BOUND

    def test_keeps_every_invariant(self, name: str, built: Any) -> None:
        _, encoder, _ = built(name)
        assert [m for m in verify_encoder(encoder) if not m.passed] == []

    def test_plain_sentence_transformers_agrees_where_it_can_load(self, name: str, built: Any) -> None:
        case, encoder, saved = built(name)
        folders = ([case.path] if case.plain else []) + ([saved] if case.plain_again else [])
        for folder in folders:
            plain = SentenceTransformer(str(folder), device="cpu")
            for call in case.calls:
                template = encoder.spec.template(
                    call.arguments.get("kind", "document"), call.arguments.get("instruction")
                )
                vectors = plain.encode(list(call.arguments["texts"]), prompt=template.parts[0])
                assert np.abs(vectors - call.expected).max() <= BOUND

    def test_sentence_transformers_reaches_the_others_through_decant(self, name: str, built: Any) -> None:
        case, encoder, saved = built(name)
        if case.plain_again or "dense" not in encoder.outputs:
            return
        with pytest.raises(ValueError, match="not part of Sentence Transformers"):
            SentenceTransformer(str(saved), device="cpu")
        exact = {"dtype": "float32"}
        there = SentenceTransformer(str(saved), device="cpu", trust_remote_code=True, model_kwargs=exact)
        again = Encoder.load(saved, dtype="float32")
        for kind, encode in (("query", there.encode_query), ("document", there.encode_document)):
            expected = again.encode(list(official.TEXTS), kind=kind).dense
            assert np.array_equal(encode(list(official.TEXTS)), expected)
            assert np.array_equal(there.encode(list(official.TEXTS), prompt_name=kind), expected)
        assert there.get_embedding_dimension() == encoder.dimension


def test_what_sentence_transformers_cannot_do_with_it_is_said(tmp_path: Path) -> None:
    case = official.CASES["NV-Embed"](tmp_path / "model")
    Encoder.load(case.path, dtype="float32").save(tmp_path / "saved")
    exact: dict[str, Any] = {"device": "cpu", "trust_remote_code": True, "model_kwargs": {"dtype": "float32"}}
    there = SentenceTransformer(str(tmp_path / "saved"), **exact)
    with pytest.raises(InputError, match="give prompt_name, one of query, document"):
        there.encode(["sea"], prompt="find: ")
    with pytest.raises(ModelError, match="use decant train"):
        there.train()(there.preprocess(["sea"]))
    there.eval().save(str(tmp_path / "copy"))
    copy = SentenceTransformer(str(tmp_path / "copy"), **exact)
    assert np.array_equal(copy.encode_query(["sea"]), there.encode_query(["sea"]))


def test_router_vectors_alone_load_in_decant_alone(tmp_path: Path) -> None:
    case = official.CASES["MoEE (OLMoE)"](tmp_path / "model")
    encoder = Encoder.load(case.path, dtype="float32", **case.load)
    alone = replace(encoder.spec, pooling="none", standardize=False, normalize=False)
    encoder.with_spec(alone, {"router": encoder.calibrations["router"]} if encoder.calibrations else {}).save(
        tmp_path / "saved"
    )
    with pytest.raises(ModelError, match="gives router vectors, which sentence-transformers"):
        SentenceTransformer(str(tmp_path / "saved"), device="cpu", trust_remote_code=True)

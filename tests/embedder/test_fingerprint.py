from __future__ import annotations

import json
from pathlib import Path

import pytest

from decant.embedder import EncoderSpec
from decant.embedder.fingerprint import fingerprint


def test_a_default_spec_says_nothing():
    assert EncoderSpec().identity() == "{}"


def test_identity_names_what_differs_from_the_defaults():
    spec = EncoderSpec(pooling="last", prompts={"query": "q: "})
    assert json.loads(spec.identity()) == {"pooling": "last", "prompts": {"document": "", "query": "q: "}}


@pytest.mark.parametrize(
    "change", [{"pooling": "last"}, {"max_tokens": 511}, {"normalize": False}, {"prompts": {"query": "q: "}}]
)
def test_fingerprint_changes_with_the_spec(change):
    assert fingerprint(EncoderSpec(**change), [], []) != fingerprint(EncoderSpec(), [], [])


def test_fingerprint_changes_with_one_byte_of_the_weights_and_not_with_the_folder(tmp_path: Path):
    prints: list[str] = []
    for name, last in (("a", b"\0"), ("b", b"\0"), ("c", b"\1")):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(bytes(100) + last)
        (folder / "README.md").write_text(name)
        prints.append(fingerprint(EncoderSpec(), [folder], []))
    assert prints[0] == prints[1] != prints[2]

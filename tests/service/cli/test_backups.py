"""`decant snapshot`, `restore` and `recall`, and an index that knows its model."""

from __future__ import annotations

import json

import pytest


def test_a_snapshot_is_gone_back_to_and_copied(decant, docs, tmp_path):
    decant("index", docs)
    assert decant("snapshot", "first").code == 0
    (docs / "budget.txt").unlink()
    decant("index", docs)
    gone = decant("search", "committee budget", "--mode", "lexical", "--json").json["hits"]
    assert all(not hit["path"].endswith("budget.txt") for hit in gone)
    assert decant("restore", "first", "--json").json["chunks"] == 3
    back = decant("search", "committee budget", "--mode", "lexical", "--json").json["hits"]
    assert back[0]["path"].endswith("budget.txt")
    assert "first" in [version["name"] for version in decant("snapshot", "--json").json["versions"]]
    assert decant("snapshot", "--to", tmp_path / "copy").code == 0
    assert decant("info", "--store", tmp_path / "copy", "--json").json["chunks"] == 3


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (("restore",), "say what to go back to"),
        (("restore", "nothing"), "no version 'nothing'"),
        (("restore", "--version", "999"), "no version 999"),
        (("snapshot", "--drop"), "needs the name"),
        (("snapshot", "a b"), "no name for a snapshot"),
        (("recall", "no-such-file"), "cannot be read as text"),
    ],
)
def test_mistakes_are_one_line(decant, docs, command, message):
    decant("index", docs)
    done = decant(*command)
    assert done.code == 1 and message in done.error


def test_recall_measures_every_mode(decant, docs):
    decant("index", docs)
    measured = decant("recall", "-k", "2", "--json").json
    assert set(measured) == {"dense", "lexical", "hybrid"}
    assert all(report["recall"] == 1.0 for report in measured.values())


def test_the_index_knows_its_model(decant, docs, monkeypatch, tiny_model):
    decant("index", docs)
    monkeypatch.delenv("DECANT_MODEL")
    assert decant("search", "rivers", "--json").code == 0
    facts = json.loads((docs.parent / ".decant" / "store.json").read_text("utf-8"))
    assert facts["model_path"] == str(tiny_model)

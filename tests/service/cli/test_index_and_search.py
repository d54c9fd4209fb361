"""The main path: index a folder, search it, look at the store."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from decant.index.chunking import DEFAULT_CHUNK_TOKENS
from decant.service.cli import index


def test_a_folder_is_indexed_and_found(decant, docs):
    report = decant("index", docs, "--json")
    assert report.code == 0
    assert (report.json["added"], report.json["chunks"], report.json["failed"]) == (3, 3, [])
    found = decant("search", "committee budget", "--mode", "lexical", "--json")
    assert found.code == 0
    hit = found.json["hits"][0]
    assert Path(hit["path"]) == docs / "budget.txt"
    assert (docs / "budget.txt").read_text("utf-8")[hit["start_char"] : hit["end_char"]] == hit["text"]


def test_a_search_by_words_loads_no_model(decant, docs, tiny_model, tmp_path, monkeypatch):
    model = shutil.copytree(tiny_model, tmp_path / "model")
    decant("index", docs, "--model", model)
    monkeypatch.delenv("DECANT_MODEL")
    shutil.rmtree(model)
    assert decant("search", "committee budget", "--mode", "lexical", "--json").json["hits"]
    assert "is gone" in decant("search", "committee budget").error


@pytest.mark.parametrize("mode", ["dense", "lexical", "hybrid"])
def test_each_mode_gives_ranked_results(decant, docs, mode):
    decant("index", docs)
    hits = decant("search", "rivers", "--mode", mode, "-k", "3", "--json").json["hits"]
    scores = [hit["score"] for hit in hits]
    assert hits
    assert scores == sorted(scores, reverse=True)
    assert [hit["rank"] for hit in hits] == list(range(1, len(hits) + 1))


def test_people_get_file_range_score_and_snippet(decant, docs):
    decant("index", "docs")
    found = decant("search", "mountains", "--mode", "lexical")
    heading, title, snippet, *_ = found.out.splitlines()
    rank, score, place = heading.split()
    assert (rank, place) == ("1", "docs/rivers.md:0-59")
    assert float(score) > 0
    assert title.strip() == "Rivers"
    assert snippet.strip() == "# Rivers Rivers carry water from the mountains to the sea."


def test_late_interaction_orders_by_the_models_token_vectors(decant, docs):
    decant("index", docs)
    found = decant("search", "water from the mountains", "--mode", "dense", "--rerank", "late", "--json")
    assert found.code == 0
    scores = [hit["score"] for hit in found.json["hits"]]
    assert Path(found.json["hits"][0]["path"]).name == "rivers.md"
    assert scores == sorted(scores, reverse=True)
    plain = decant("search", "water from the mountains", "--mode", "dense", "--json")
    assert scores != [hit["score"] for hit in plain.json["hits"]]


def test_output_for_people_fits_80_columns(decant, docs, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    (docs / "long.txt").write_text("A sentence about mountains, of some length and no end. " * 6, "utf-8")
    decant("index", docs)
    for command in (("search", "mountains"), ("info",), ("index", docs)):
        out = decant(*command).out
        assert out
        assert max(len(line.rstrip()) for line in out.splitlines()) <= 80


def test_indexing_again_does_nothing(decant, docs):
    decant("index", docs)
    again = decant("index", docs, "--json").json
    assert (again["added"], again["changed"], again["unchanged"], again["removed"]) == (0, 0, 3, 0)
    assert again["chunks"] == 0


def test_what_changed_is_replaced_and_what_vanished_removed(decant, docs):
    decant("index", docs)
    (docs / "budget.txt").write_text("Nothing but volcanoes.", "utf-8")
    (docs / "rivers.md").unlink()
    report = decant("index", docs, "--json").json
    assert (report["changed"], report["removed"], report["unchanged"]) == (1, 1, 1)
    assert decant("search", "committee", "--mode", "lexical", "--json").json["hits"] == []


def test_a_filter_narrows_the_search(decant, docs):
    decant("index", docs)
    hits = decant("search", "water", "--mode", "dense", "--filter", "path LIKE '%.py'", "--json").json["hits"]
    assert [Path(hit["path"]).name for hit in hits] == ["add.py"]


def test_exact_reports_recall(decant, docs):
    decant("index", docs)
    assert decant("search", "water", "--exact", "--json").json["recall_of_fast_search"] == 1.0
    assert "misses 0 of these 3" in decant("search", "water", "--exact").err


def test_nothing_found_is_said_and_is_no_error(decant, docs):
    decant("index", docs)
    found = decant("search", "zzzzz", "--mode", "lexical")
    assert (found.code, found.out) == (0, "")
    assert "nothing found" in found.err


def test_a_query_that_is_cut_is_said(decant, docs):
    decant("index", docs)
    assert "longer than 128 tokens" in decant("search", "water " * 200).err


def test_info_describes_the_store(decant, docs, tiny_model):
    decant("index", docs)
    facts = decant("info", "--json").json
    assert (facts["documents"], facts["chunks"], facts["model"]) == (3, 3, tiny_model.name)


def test_the_store_can_be_elsewhere(decant, docs, tmp_path, monkeypatch):
    decant("index", docs, "--store", tmp_path / "one")
    monkeypatch.setenv("DECANT_STORE", str(tmp_path / "two"))
    decant("index", docs / "deep")
    assert decant("info", "--store", "one", "--json").json["documents"] == 3
    assert decant("info", "--json").json["documents"] == 1
    assert not (tmp_path / ".decant").exists()


def test_the_default_chunk_size_is_the_librarys(decant):
    assert index.CHUNK_TOKENS == DEFAULT_CHUNK_TOKENS


def test_an_index_holds_term_weights_where_it_is_asked_to(decant, docs, monkeypatch):
    monkeypatch.delenv("DECANT_MODEL")
    assert decant("index", docs, "--store", "plain").code == 0
    refused = decant("search", "rivers", "--mode", "sparse", "--store", "plain")
    assert refused.code == 1 and "--outputs that name them" in refused.error
    assert decant("index", docs, "--store", "both", "--outputs", "dense, sparse").code == 0
    found = decant("search", "a mountain river", "--mode", "sparse", "--store", "both", "--json")
    assert Path(found.json["hits"][0]["path"]).name == "rivers.md"
    assert decant("search", "rivers", "--mode", "dense+sparse", "--store", "both", "--json").json["hits"]
    for outputs, told in (
        ("dense,colbert", "not colbert"),
        ("sparse", "name dense"),
        ("dense,sparse", "without sparse"),
    ):
        done = decant("index", docs, "--store", "plain" if "without" in told else "new", "--outputs", outputs)
        assert done.code != 0 and told in done.error

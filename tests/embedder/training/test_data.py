import random

import numpy as np
import pytest

from decant.embedder.training.dev import dev_sets, ndcg_of_single_answers
from decant.embedder.training.natural_pairs import natural_pairs, passages
from decant.embedder.training.overlap import NgramSet
from decant.embedder.training.pairs import PairSet, hold_out
from decant.embedder.training.ragged import Ragged
from decant.embedder.training.recipe import TokenizerRecipe
from decant.embedder.training.sources import DataError, data_root, read_pairs
from decant.embedder.training.tokenizer import build_tokenizer, train_tokenizer, training_texts


def test_ngrams_are_found_across_case_and_punctuation_and_only_then():
    grams = NgramSet(["The quick, brown fox jumps", "over it"], 3)
    assert len(grams) == 3
    assert grams.shared("a QUICK brown fox; jumps") == 2
    assert grams.shared("quick fox brown jumps over") == 0
    assert grams.shared("fox jumps over it") == 0
    assert grams.shared("") == 0


def test_passages_stand_under_their_heading_and_keep_the_text():
    text = "intro " * 20 + "\n## First\n" + "alpha " * 20 + "\n" + "beta " * 20 + "\n## Second\nshort\n"
    found = list(passages(text, 100))
    assert [passage.heading for passage in found] == ["", "First", "First"]
    assert found[2].text.split() == ["beta"] * 20


def test_a_cloze_query_is_a_sentence_of_its_passage():
    text = " ".join(f"This is sentence number {i} about something." for i in range(9))
    pairs = [pair for seed in range(40) for pair in natural_pairs("t", text, "s", 200, random.Random(seed))]
    assert all(pair.query in text for pair in pairs)
    kept = sum(pair.query in pair.positive for pair in pairs)
    assert 0 < kept < len(pairs) / 2


def test_ragged_rows_survive_a_round_trip(tmp_path):
    rows = Ragged.of([[1, 2, 3], [], [65_535]])
    rows.save(tmp_path / "rows.npz")
    again = Ragged.load(tmp_path / "rows.npz")
    assert [row.tolist() for row in (again[i] for i in range(len(again)))] == [[1, 2, 3], [], [65_535]]


def test_held_out_groups_are_whole_and_of_their_source_only():
    groups = np.asarray([0, 0, 1, 2, 3, 3, 4, 0])
    sources = ["a", "a", "a", "a", "a", "a", "b", "b"]
    dev = hold_out(sources, groups, {"a": 3})
    assert 3 <= dev.sum() <= 5
    assert not dev[6:].any()
    for group in set(groups[:6]):
        assert len(set(dev[:6][groups[:6] == group])) == 1


def test_development_queries_find_their_own_passage_among_others(finished_run):
    pairs = PairSet.load(finished_run.folder / "pairs")
    (only,) = dev_sets(pairs, distractors=20)
    assert only.source == "ask" and len(only.query_rows) >= 8
    assert (pairs.groups[only.passage_rows[only.answers]] == pairs.groups[only.query_rows]).all()
    assert len(set(pairs.groups[only.passage_rows].tolist())) == len(only.passage_rows)


def test_ndcg_counts_ties_against_the_answer():
    scores = np.asarray([[0.9, 0.1, 0.0], [0.5, 0.5, 0.0]], np.float32)
    assert ndcg_of_single_answers(scores, np.asarray([0, 0])) == pytest.approx((1 + 1 / np.log2(3)) / 2)
    assert ndcg_of_single_answers(scores, np.asarray([2, 2]), depth=2) == 0


def test_missing_and_empty_data_are_named(data_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("DECANT_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(DataError, match="set DECANT_DATA"):
        data_root()
    with pytest.raises(DataError, match="nope.jsonl.gz does not exist"):
        list(read_pairs(data_folder, "nope"))


def test_pretokeniser_splits_identifiers_and_keeps_every_character():
    text = "def parseHTMLPage(my_var2):  # naïve 12345 Straße's\n\n\treturn"
    tokenizer = build_tokenizer()
    pieces = [text[start:end] for _, (start, end) in tokenizer.pre_tokenizer.pre_tokenize_str(text)]
    assert "".join(pieces) == text
    for piece in (" parse", "HTML", "Page", "_", "var", "2", " 1234", "5", " naïve", "'s"):
        assert piece in pieces


def test_tokenizer_adds_bos_gives_offsets_and_restores_the_text(data_folder):
    recipe = TokenizerRecipe(vocab_size=420, sources={"ask": 10_000, "notes": 10_000})
    tokenizer = train_tokenizer(training_texts(data_folder, recipe.sources, 0), recipe)
    text = "River bank: the Ünïted flow\n  of bread 🥖"
    encoded = tokenizer(text, return_offsets_mapping=True)
    assert encoded.input_ids[0] == tokenizer.bos_token_id
    assert tokenizer.decode(encoded.input_ids, skip_special_tokens=True) == text
    joined = {i for start, end in encoded.offset_mapping for i in range(start, end)}
    assert joined >= {i for i, character in enumerate(text) if not character.isspace()}
    assert text[slice(*encoded.offset_mapping[1])] in "River"

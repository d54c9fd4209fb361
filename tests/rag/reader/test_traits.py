"""Where words begin and sentences end, for tokenizers that mark a word's begin and for those that mark its rest."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

from decant.rag.reader.traits import BEGINS, CAPITAL, DIGIT, SIGN, STOP, sentence_numbers, token_traits

TEXT = 'It rose 3.5 points in St. Louis. Dr. J. Smith wrote "Why?" to Ann. the dogs. Inc., too. (In May) it ended.'


def _pieces(words: list[str]) -> list[str]:
    return list(dict.fromkeys(words))


def wordpiece(folds: bool) -> Tokenizer:
    """Words of the text whole, but `dogs` and `points` in two parts."""
    words = 'it rose 3 5 point in st louis dr j smith wrote why to ann the dog inc too may ended ##s . , ? " ( ) ##5'
    listed = words.split() if folds else [*words.split(), "It", "St", "Louis", "Dr", "J", "Smith", "Why", "Ann", "Inc"]
    names = _pieces(["[UNK]", *listed, "In", "May"])
    tokenizer = Tokenizer(models.WordPiece({name: i for i, name in enumerate(names)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=folds)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    return tokenizer


def bytelevel() -> Tokenizer:
    """Whole words behind a space, signs by themselves, everything else in letters."""
    space = "Ġ"
    whole = [f"{space}{word}" for word in ("Dr", "Louis", "Smith", "Ann", "the", "St", "J", "Inc", "too", "it")]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges, names = [], list(alphabet)
    for word in whole:
        for end in range(2, len(word) + 1):
            merges.append((word[: end - 1], word[end - 1]))
            names.append(word[:end])
    names = _pieces(names)
    tokenizer = Tokenizer(models.BPE({name: i for i, name in enumerate(names)}, _unique(merges)))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _unique(merges: list[tuple[str, str]]) -> list[tuple[str, str]]:
    return list(dict.fromkeys(merges))


def traits(tokenizer: Tokenizer) -> torch.Tensor:
    size = SimpleNamespace(vocabulary_size=tokenizer.get_vocab_size())
    return token_traits(SimpleNamespace(tokenizer=tokenizer, text_tokenizer=size))[1]


def sentences(tokenizer: Tokenizer, text: str = TEXT) -> list[str]:
    """The text, cut where `sentence_numbers` says."""
    encoding = tokenizer.encode(text, add_special_tokens=False)
    numbers = sentence_numbers(traits(tokenizer)[torch.tensor(encoding.ids)][None])[0].tolist()
    spans: dict[int, tuple[int, int]] = {}
    for number, (start, end) in zip(numbers, encoding.offsets, strict=True):
        spans[number] = (spans.get(number, (start, 0))[0], end)
    return [text[start:end].strip() for start, end in spans.values()]


def test_sentences_where_case_is_folded():
    assert sentences(wordpiece(folds=True)) == [
        "It rose 3.5 points in St. Louis.",
        'Dr. J. Smith wrote "Why?',
        '" to Ann.',
        "the dogs.",
        "Inc., too.",
        "(In May) it ended.",
    ]


def test_sentences_where_words_have_capitals():
    assert sentences(wordpiece(folds=False)) == [
        "It rose 3.5 points in St. Louis.",
        'Dr. J. Smith wrote "Why?',
        '" to Ann. the dogs.',
        "Inc., too.",
        "(In May) it ended.",
    ]


def test_sentences_where_spaces_are_marked():
    found = sentences(bytelevel(), "It rose 3.5 points in St. Louis. Dr. J. Smith met Ann. the dogs. Inc., too.")
    assert found == ["It rose 3.5 points in St. Louis.", "Dr. J. Smith met Ann. the dogs.", "Inc., too."]


@pytest.mark.parametrize(
    ("make", "token", "expected"),
    [
        (lambda: wordpiece(True), "dog", {BEGINS}),
        (lambda: wordpiece(True), "##s", set()),
        (lambda: wordpiece(True), "##5", {DIGIT}),
        (lambda: wordpiece(True), ".", {SIGN, STOP}),
        (lambda: wordpiece(True), "(", {BEGINS, SIGN}),
        (lambda: wordpiece(False), "Louis", {BEGINS, CAPITAL}),
        (bytelevel, "ĠLouis", {BEGINS, CAPITAL}),
        (bytelevel, "s", set()),
    ],
)
def test_looks_of_a_token(make, token, expected):
    tokenizer = make()
    row = traits(tokenizer)[tokenizer.token_to_id(token)]
    assert {trait for trait in (BEGINS, CAPITAL, DIGIT, SIGN, STOP) if row[trait]} == expected


def test_sentencepiece_marks_a_word():
    tokenizer = Tokenizer(models.Unigram([("<unk>", 0.0), ("\u2581the", -1.0), ("the", -2.0)], unk_id=0))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    assert traits(tokenizer)[:, BEGINS].tolist() == [False, True, False]

"""What a question and a passage share is found by token and by sentence, whatever stands beside them."""

from __future__ import annotations

import torch

from decant.rag.reader.matching import MATCHES, Question, match
from decant.rag.reader.traits import OPENS, STOP, TRAITS, sentence_numbers

# "A b . C b d ." and padding; the question is "B c"; 1 to 4 are letters in lower case, 5 to 8 in upper case.
FOLDED = torch.tensor([[1, 2, 9, 3, 2, 4, 9, 0]])
IDS = torch.tensor([[5, 2, 9, 7, 2, 4, 9, 0]])
MASK = torch.tensor([[True] * 7 + [False]])


def traits() -> torch.Tensor:
    found = torch.zeros(1, 8, TRAITS, dtype=torch.bool)
    found[0, [0, 3], OPENS] = True
    found[0, [2, 6], STOP] = True
    return found


def question(padding: int = 0) -> Question:
    torch.manual_seed(0)
    tail = [0] * padding
    return Question(
        torch.nn.functional.normalize(torch.randn(1, 2 + padding, 4), dim=-1),
        torch.tensor([[2, 3, *tail]]),
        torch.tensor([[6, 3, *tail]]),
        torch.tensor([[True, True, *[False] * padding]]),
        torch.tensor([[0.5, 0.25, *[0.0] * padding]]),
    )


def matches(asked: Question) -> torch.Tensor:
    torch.manual_seed(1)
    hidden = torch.nn.functional.normalize(torch.randn(1, 8, 4), dim=-1)
    return match(asked, hidden, FOLDED, IDS, MASK, traits())[0][0]


def test_sentences_end_where_a_new_one_begins():
    assert sentence_numbers(traits())[0, :7].tolist() == [0, 0, 0, 1, 1, 1, 1]


def test_words_and_sentences_that_match():
    found = matches(question())
    assert found.shape == (8, MATCHES)
    assert found[:7, 0].tolist() == [0.0] * 7  # the same letters, in another case
    assert found[:7, 1].tolist() == [0, 0.5, 0, 0.25, 0.5, 0, 0]
    torch.testing.assert_close(found[:7, -2], torch.tensor([2 / 3] * 3 + [1.0] * 4))
    torch.testing.assert_close(found[:7, -1], torch.tensor([2 / 3] * 3 + [1.0] * 4))


def test_padding_of_the_question_changes_nothing():
    alone, padded = question(), question(3)
    same = Question(
        torch.cat([alone.hidden, padded.hidden[:, 2:]], 1), padded.folded, padded.ids, padded.known, padded.importance
    )
    torch.testing.assert_close(matches(alone), matches(same))

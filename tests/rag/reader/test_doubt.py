"""What of a question a passage does not bear out."""

from __future__ import annotations

import torch

from decant.rag.reader.doubt import Doubt
from decant.rag.reader.matching import Nearness

B, T, M, D = 1, 40, 4, 8


def near(same: list[tuple[int, int]], importance: tuple[float, ...] = (1.0, 1.0, 1.0, 0.0)) -> Nearness:
    """A passage of which (place, question token) are the same; the question's last token is padding."""
    matches = torch.zeros(B, T, M, dtype=torch.bool)
    for place, token in same:
        matches[0, place, token] = True
    known = torch.tensor([[True, True, True, False]])
    return Nearness(matches, torch.where(known[:, None], matches.float(), -1.0), known, torch.tensor([importance]))


def starts(at: int) -> torch.Tensor:
    logits = torch.full((B, T), -20.0)
    logits[0, at] = 20.0
    logits[0, 36:] = -torch.inf
    return logits


def setup() -> tuple[Doubt, torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    doubt = Doubt(D)
    torch.nn.init.normal_(doubt.weigh.weight)
    return doubt, torch.randn(B, M, D), torch.randn(B, T, D), torch.arange(T)[None] < 36


def test_silent_before_training():
    _, q, x, mask = setup()
    assert Doubt(D)(q, x, starts(5), near([(3, 0)]), mask).abs().max() == 0


def test_a_missing_word_and_a_word_far_from_the_answer_are_told_apart():
    doubt, q, x, mask = setup()
    held = [(4, 0), (5, 1), (6, 2)]
    alike = doubt(q, x, starts(5), near(held), mask)
    assert not torch.allclose(doubt(q, x, starts(5), near(held[:2]), mask), alike)
    assert not torch.allclose(doubt(q, x, starts(30), near(held), mask), alike)
    torch.testing.assert_close(doubt(q, x, starts(7), near(held), mask), alike)  # still around all of them


def test_padding_has_no_say():
    doubt, q, x, mask = setup()
    alike = doubt(q, x, starts(5), near([(4, 0)]), mask)
    q[0, 3], x[0, 36:] = 7.0, -7.0
    torch.testing.assert_close(doubt(q, x, starts(5), near([(4, 0)]), mask), alike)


def test_the_place_of_an_answer_is_not_learned_from_doubt():
    doubt, q, x, mask = setup()
    logits = starts(5).requires_grad_()
    x.requires_grad_()
    doubt(q, x, logits, near([(4, 0)]), mask).sum().backward()
    assert logits.grad is None and x.grad is not None

"""What of a question the passage does not bear out: the question's side of "there is no answer here".

A passage that nearly answers has the words around an answer, but not the name, the number or the year that was asked
for. That is seen token by token of the question: what the passage has nearest to it, anywhere and around the span that
would be the answer. Reading back from the passage to the question is BiDAF's (Seo et al. 2017, arXiv 1611.01603);
judging a found answer by its surroundings, Read + Verify's (Hu et al. 2019, arXiv 1808.05759).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .matching import Nearness

# Tokens around the likely answer that speak for a question's token.
_AROUND = 33
_FACTS = 5


class Doubt(nn.Module):
    """Logits to be added to those of the null answer; zeros before training."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.asks = nn.Linear(width, width)
        self.answers = nn.Linear(width, width)
        self.compare = nn.Linear(3 * width + _FACTS, width)
        self.weigh = nn.Linear(2 * width + 1, 2)
        nn.init.zeros_(self.weigh.weight)
        nn.init.zeros_(self.weigh.bias)

    def forward(self, q: Tensor, x: Tensor, starts: Tensor, near: Nearness, mask: Tensor) -> Tensor:
        """Read the passage from the question.

        Args:
            q: (B, M, D) question tokens.
            x: (B, T, D) passage tokens, read with the question.
            starts: (B, T) logits of an answer's first token, -inf for padding.
            near: how question and passage match.
            mask: (B, T) bool, true for tokens of the passage.

        Returns:
            (B, 2) float32.
        """
        scores = self.asks(q) @ self.answers(x).transpose(1, 2) * q.shape[-1] ** -0.5
        found = torch.softmax(scores.float().masked_fill(~mask[:, None], -torch.inf), -1).to(x.dtype) @ x
        facts = _facts(near, starts.detach())
        z = F.gelu(self.compare(torch.cat([q, found, q * found, facts.to(q.dtype)], -1)))
        known = near.known[..., None]
        weight = near.importance / near.importance.sum(1, keepdim=True).clamp(min=1e-6)
        most = torch.where(known, z, z.new_full((), -1e4)).amax(1)
        mean = (weight[..., None].to(z.dtype) * z).sum(1)
        missing = (weight * (1 - facts[..., 1])).sum(1, keepdim=True)
        return self.weigh(torch.cat([most, mean, missing.to(z.dtype)], -1)).float()


def _facts(near: Nearness, starts: Tensor) -> Tensor:
    """What is known of each question token beside the weights.

    Returns:
        (B, M, _FACTS) float32: its importance; whether it occurs in the passage, and around the likely answer; its
        nearest cosine in the passage, and around the likely answer.
    """
    likely = torch.softmax(starts.float(), -1)
    around = F.max_pool1d(likely[:, None], _AROUND, stride=1, padding=_AROUND // 2)
    around = around / around.amax(-1, keepdim=True).clamp(min=1e-9)
    same, cosines = near.same.float(), near.cosines.clamp(min=0.0)
    columns = [
        near.importance,
        same.amax(1),
        (same * around.transpose(1, 2)).amax(1),
        cosines.amax(1),
        (cosines * around.transpose(1, 2)).amax(1),
    ]
    return torch.stack(columns, -1)

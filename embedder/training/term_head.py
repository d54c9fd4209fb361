"""The terms step: a sparse head for a finished encoder, whose weights and dense vectors stay as they are.

SPLADE (arXiv 2109.10086) trains a masked language model's head and the layers below it. An encoder trained for text
vectors has no such head, and must not be moved. But its last states still know their tokens, so the head starts in
closed form: a ridge regression from a state to the direction of its token's embedding, and a bias by which a token's
own term weighs the square root of its inverse document frequency (a match of two then counts as in BM25), and others
nothing. From there the contrast of pairs and FLOPS teach which words matter and which others belong to them. Logits are
made for the terms of the batch and a sample of the others, which stands for all of them in FLOPS.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import LlamaForCausalLM

from ...kernels.pooling import max_logits, splade_weights
from .objectives.splade import flops, flops_factor
from .packed_texts import PackedTexts
from .pair_tokens import PairTokens
from .pairs import PairSet
from .recipe import TermsRecipe
from .run import Progress, Schedule, StepResult, train
from .states import hidden_states

HEAD = "head.safetensors"
# Largest share of its own token's cosine that another term may have before it counts, at the start.
_FLOOR = 0.7
_FREQUENCY_TEXTS = 20_000


class TermHead(nn.Module):
    """Weights of terms: log(1 + relu(max over tokens of (weight @ state + bias) @ table.T + terms)).

    Attributes:
        weight: (H, H).
        bias: (H,).
        terms: (V,), what a term needs to be exceeded by.
    """

    def __init__(self, weight: Tensor, bias: Tensor, terms: Tensor, table: Tensor, special: Tensor) -> None:
        """Start from these values; the (V, H) table and the ids of special tokens stay as they are."""
        super().__init__()
        self.weight, self.bias, self.terms = nn.Parameter(weight), nn.Parameter(bias), nn.Parameter(terms)
        self._table, self._special = table.bfloat16(), special

    def forward(self, states: Tensor, texts: PackedTexts, chosen: Tensor) -> Tensor:
        """(texts, chosen terms) float32 weights in the order asked for, of (total_tokens, H) states."""
        plain = ~torch.isin(texts.input_ids, self._special)
        queries = F.linear(states, self.weight, self.bias).bfloat16()
        logits = max_logits(queries, texts.layout(causal=False), plain, self._table[chosen])
        return splade_weights(logits + self.terms[chosen])[texts.restore]


def start(model: LlamaForCausalLM, pairs: PairSet, special: Tensor, recipe: TermsRecipe) -> TermHead:
    """The head before any gradient, where `model` and `special` are; `model` is frozen."""
    cast(nn.Module, model).eval().requires_grad_(False)
    table = cast(nn.Embedding, model.get_input_embeddings()).weight.detach().float()
    centre = table.mean(0)
    lengths = (table - centre).norm(dim=1)
    texts, _ = PairTokens(pairs, recipe.seed + 1, recipe.fit_tokens, {recipe.fit_limit: 1.0})[0]
    texts = texts.to(model.device)
    plain = ~torch.isin(texts.input_ids, special)
    ids = texts.input_ids[plain]
    states = F.pad(hidden_states(model, texts)[plain], (0, 1), value=1.0)
    wanted = (table[ids] - centre) / lengths[ids, None]
    gram = states.T @ states
    gram += recipe.ridge * gram.diagonal().mean() * torch.eye(len(gram), device=gram.device)
    map_ = torch.linalg.solve(gram, states.T @ wanted)
    own = float(((states @ map_) * wanted).sum(1).mean())
    # Without the part along the centre the raw table serves as well as the centred one.
    map_ -= torch.outer(map_ @ centre, centre) / centre.dot(centre)
    gain = recipe.gain / float(lengths.mean())
    steps = gain * lengths
    rare = torch.expm1(recipe.rarity * _rarities(pairs, len(table)).to(table.device).sqrt())
    terms = torch.minimum(rare - steps * own, -steps * own * _FLOOR)
    return TermHead(gain * map_[:-1].T.contiguous(), gain * map_[-1], terms, table, special)


def _rarities(pairs: PairSet, terms: int) -> Tensor:
    """(V,) float32 inverse document frequency, as BM25 counts it, in a sample of the passages."""
    rows = np.flatnonzero(~pairs.dev)
    rows = np.random.default_rng(0).permutation(rows)[:_FREQUENCY_TEXTS]
    counts = np.zeros(terms)
    for row in rows:
        counts[np.unique(pairs.passages[int(row)])] += 1
    return torch.from_numpy(np.log1p((len(rows) - counts + 0.5) / (counts + 0.5))).float()


def train_terms(
    model: LlamaForCausalLM,
    pairs: PairSet,
    special: list[int],
    recipe: TermsRecipe,
    folder: Path,
    report: Callable[[Progress], None] | None = None,
) -> TermHead:
    """Trains a head on a model that is left alone, on its device; what is drawn does not depend on that.

    Raises:
        TrainingError: as `run.train`.
    """
    device = model.device
    barred = torch.tensor(sorted(special), device=device)
    head = start(model, pairs, barred, recipe)
    batches = PairTokens(pairs, recipe.seed, recipe.batch_tokens, recipe.passage_tokens)
    every = torch.arange(len(head.terms), device=device)
    allowed = every[~torch.isin(every, barred)]

    def forward(step: int) -> StepResult:
        texts, count = batches[step]
        texts = texts.to(device)
        present = texts.input_ids.unique()
        present = present[~torch.isin(present, barred)]
        others = allowed[~torch.isin(allowed, present)]
        drawn = np.random.default_rng([recipe.seed, step]).permutation(len(others))[: recipe.sampled_terms]
        sampled = others[torch.from_numpy(drawn).to(device)]
        # A sampled term stands for others of its kind, and FLOPS adds squares.
        share = torch.ones(len(present) + len(sampled), device=device)
        share[len(present) :] = (len(others) / max(1, len(sampled))) ** 0.5
        rows = head(hidden_states(model, texts), texts, torch.cat([present, sampled]))
        queries, passages = rows[:count], rows[count:]
        contrast = F.cross_entropy(queries @ passages.T, torch.arange(count, device=device))
        grown = flops_factor(step, recipe.flops_warmup_steps)
        cost = recipe.flops * (flops(queries * share) + flops(passages * share))
        parts = {"contrast": contrast.item(), "flops": cost.item()}
        return StepResult(contrast + grown * cost, len(texts.input_ids), parts)

    groups: list[dict[str, object]] = [
        {"params": [head.weight, head.bias], "lr": recipe.learning_rate},
        {"params": [head.terms], "lr": recipe.terms_learning_rate},
    ]
    schedule = Schedule(recipe.steps, recipe.warmup_steps, recipe.checkpoint_steps)
    train(head, groups, forward, schedule, folder, report=report)
    return head

"""The token-table step: token vectors that are a good encoder on their own, as a weighted mean.

Each token starts as the teacher's vector of its string, centred, in the basis of the teacher's principal axes (so that
prefixes of the vector are good from the start), scaled by its smooth inverse frequency (Arora, Liang and Ma 2017); then
the table is trained on pairs. A token's magnitude is its weight in the mean. The transformer built on top keeps it: its
RMSNorm has an eps of the size of the mean square, so that x / sqrt(ms + eps) is nearly linear for small x. The same
function stands between table and mean here, and a transformer whose residual branches are zero equals this encoder.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedTokenizerBase

from .batches import BatchPlan, PairBatches
from .objective import Objective
from .packed_texts import PackedTexts
from .pairs import PairSet
from .recipe import TokenTableRecipe
from .run import Schedule, StepResult, train
from .teacher import Teacher, TeacherVectors


@dataclass(frozen=True)
class TokenTable:
    """Token vectors (V, D) float32 and the rotation (D, D) from the teacher's basis to theirs."""

    vectors: NDArray[np.float32]
    rotation: NDArray[np.float32]

    def save(self, path: Path) -> None:
        """Writes both arrays."""
        np.savez(path, vectors=self.vectors, rotation=self.rotation)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Reads what `save` wrote."""
        with np.load(path) as stored:
            return cls(stored["vectors"], stored["rotation"])


class TableEncoder(nn.Module):
    """Mean of the softly normalised token vectors.

    `weight` is (R, D); `rows` (V,) int64 says which row a token has, None for one of its own (R = V).
    """

    def __init__(self, vectors: NDArray[np.float32], norm_eps: float, rows: NDArray[np.int64] | None = None) -> None:
        super().__init__()
        self._rows = None if rows is None else torch.from_numpy(rows)
        first = slice(None) if rows is None else np.unique(rows, return_index=True)[1]
        self.weight = nn.Parameter(torch.from_numpy(vectors[first].copy()))
        self.norm_eps = norm_eps

    def forward(self, texts: PackedTexts) -> Tensor:
        """Vectors (texts, D) of packed texts, in the order asked for, not normalised."""
        table = self.weight * torch.rsqrt(self.weight.square().mean(1, keepdim=True) + self.norm_eps)
        starts = torch.tensor([0, *texts.lengths[:-1]]).cumsum(0)
        ids = texts.input_ids if self._rows is None else self._rows[texts.input_ids]
        return F.embedding_bag(ids, table, starts, mode="mean")[texts.restore]

    def vectors(self) -> NDArray[np.float32]:
        """(V, D), the row of every token."""
        rows = self.weight.detach()
        return (rows if self._rows is None else rows[self._rows]).numpy()


def folded_rows(tokenizer: PreTrainedTokenizerBase) -> NDArray[np.int64]:
    """(V,) one row for all tokens that are the same word up to case and a leading space, numbered without gaps.

    What a rare spelling learns from is otherwise only its own few texts. The decoder keeps a token for each spelling.
    """
    strings = [str(tokenizer.decode([token])) for token in range(len(tokenizer))]
    keys = [
        text.strip().lower() if text.strip() and "\ufffd" not in text else f" {i}" for i, text in enumerate(strings)
    ]
    seen: dict[str, int] = {}
    return np.asarray([seen.setdefault(key, len(seen)) for key in keys], np.int64)


def initial_table(
    tokenizer: PreTrainedTokenizerBase, pairs: PairSet, teacher: Teacher, vectors: TeacherVectors, sif: float
) -> TokenTable:
    """The untrained table: SIF-weighted teacher vectors of the token strings; special tokens are zero.

    Scaled so that the mean square of the median token that occurs is 1.
    """
    known = np.concatenate([vectors.queries, vectors.passages]).astype(np.float32)
    _, axes = np.linalg.eigh(np.cov(known, rowvar=False))
    rotation = np.ascontiguousarray(axes[:, ::-1]).astype(np.float32)
    strings = [str(tokenizer.decode([token])).strip() for token in range(len(tokenizer))]
    table = teacher.embed(strings)
    table = (table - table.mean(0)) @ rotation
    share = token_shares(pairs, len(tokenizer))
    table *= (sif / (sif + share))[:, None]
    hidden = [i for i, text in enumerate(strings) if not text or "\ufffd" in text]
    table[[*tokenizer.all_special_ids, *hidden]] = 0.0
    mean_squares = np.square(table).mean(1)
    table /= np.sqrt(np.median(mean_squares[(share > 0) & (mean_squares > 0)]))
    return TokenTable(table.astype(np.float32), rotation)


def token_shares(pairs: PairSet, vocab_size: int) -> NDArray[np.float64]:
    """(V,) share of each token among the tokens of queries and passages."""
    counts = sum(np.bincount(side.values, minlength=vocab_size) for side in (pairs.queries, pairs.passages))
    return counts / np.sum(counts)


def train_table(
    start: TokenTable,
    tokenizer: PreTrainedTokenizerBase,
    pairs: PairSet,
    vectors: TeacherVectors,
    recipe: TokenTableRecipe,
    folder: Path,
) -> TokenTable:
    """Trains the table on pairs; returns the trained one."""
    encoder = TableEncoder(start.vectors, recipe.norm_eps, folded_rows(tokenizer) if recipe.fold_case else None)
    plan = BatchPlan(recipe.seed, recipe.batch_pairs, 48, recipe.passage_tokens, recipe.teacher_share)
    batches = PairBatches(pairs, vectors, start.rotation, plan)
    objective = Objective(
        recipe.dims,
        recipe.temperature,
        recipe.contrastive_weight,
        recipe.cosine_weight,
        recipe.scores_weight,
    )

    def forward(step: int) -> StepResult:
        batch = batches[step]
        loss = objective(encoder(batch.queries), encoder(batch.passages), batch.targets)
        return StepResult(loss, batch.tokens)

    schedule = Schedule(recipe.steps, recipe.warmup_steps, recipe.checkpoint_steps)
    train(encoder, [{"params": [encoder.weight], "lr": recipe.learning_rate}], forward, schedule, folder)
    return TokenTable(encoder.vectors(), start.rotation)

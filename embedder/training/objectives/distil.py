"""Distillation from a sentence-transformers folder: its vectors (cosine, mean square) and its in-batch scores (KL).

A teacher that is wider than the model is met through a linear layer that is trained with it and then dropped.
sentence-transformers' DistillKLDivLoss compares each query's own candidates only, not the whole batch's scores.
"""

from __future__ import annotations

from pathlib import Path

import torch
from sentence_transformers import SentenceTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from ..losses import cosine_distance, score_divergence
from ..run import StepResult
from ..settings import RecipeError
from ..training_recipe import DistilSettings
from .context import Context
from .gradcache import cached_backward
from .pair_batches import PairBatches
from .ranking import over_widths


class Distil:
    """The objective; see `DistilSettings`."""

    def __init__(self, settings: DistilSettings, context: Context, names: list[str]) -> None:
        self._settings, self._context = settings, context
        self._batches = PairBatches(settings, context, names)
        self._teacher = _load(settings, context)
        width, own = self._teacher.get_embedding_dimension() or 0, context.dims[0]
        self._projection: nn.Module = nn.Identity()
        if width > own and (settings.cosine_weight or settings.mse_weight):
            self._projection = context.trainee.add_projection(str(context.number), width, context.seed)

    def __call__(self, step: int, weight: float) -> StepResult:
        """Propagates the step's loss back."""
        batch = self._batches(step)
        theirs = self._embed(batch.texts, batch.kinds)
        count = batch.candidates.queries

        def loss_of(vectors: Tensor) -> Tensor:
            total = over_widths(vectors, self._context.dims, lambda unit: self._scores(unit, theirs, count))
            ours = F.normalize(self._projection(vectors)[:, : theirs.shape[1]], dim=1)
            if self._settings.cosine_weight:
                total = total + self._settings.cosine_weight * cosine_distance(ours, theirs)
            if self._settings.mse_weight:
                # Summed over the dimensions: the mean over them would shrink with the width.
                total = total + self._settings.mse_weight * F.mse_loss(ours, theirs) * theirs.shape[1]
            return total

        seed = self._context.dropout_seed(step)
        loss = cached_backward(batch.parts, self._context.trainee.vectors, loss_of, weight, seed)
        return StepResult(loss, batch.tokens)

    def _scores(self, unit: Tensor, theirs: Tensor, count: int) -> Tensor:
        ours, wanted = (unit[:count], unit[count:]), (theirs[:count], theirs[count:])
        return self._settings.scores_weight * score_divergence(ours, wanted, self._settings.temperature)

    def _embed(self, texts: list[str], kinds: list[str]) -> Tensor:
        """The teacher's unit vectors, each text behind the prompt the teacher has for its side."""
        rows = torch.empty(len(texts), self._teacher.get_embedding_dimension() or 0)
        for encode, asked in ((self._teacher.encode_query, True), (self._teacher.encode_document, False)):
            places = [place for place, kind in enumerate(kinds) if (kind == "query") is asked]
            if places:
                with torch.no_grad():
                    found = encode([texts[i] for i in places], convert_to_tensor=True, show_progress_bar=False)
                rows[places] = found.float().cpu()
        return F.normalize(rows, dim=1).to(self._context.trainee.device)


def _load(settings: DistilSettings, context: Context) -> SentenceTransformer:
    folder = Path(settings.teacher).expanduser()
    if not folder.is_dir():
        raise RecipeError(f"{context.field}.teacher: no folder at {settings.teacher}")
    device = context.trainee.device
    # Half precision, in which many teachers are stored, is slower than float32 on a CPU by an order of magnitude.
    dtype = torch.float32 if device.type == "cpu" else "auto"
    try:
        teacher = SentenceTransformer(
            str(folder), device=str(device), local_files_only=True, model_kwargs={"dtype": dtype}
        )
    except Exception as error:
        line = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise RecipeError(f"{context.field}.teacher: cannot load {folder}: {line}") from error
    teacher.max_seq_length = min(settings.teacher_tokens, teacher.max_seq_length or settings.teacher_tokens)
    return teacher

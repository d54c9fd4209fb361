"""Training of cross-attention blocks: questions answered, and passages repeated, from cached states alone.

After XC-Cache (arXiv 2404.15420): half the steps ask for the passage itself, which teaches the blocks to read before
they can answer. CEPE's divergence from the decoder with the passage in its prompt can be added. The decoder, which
also encodes the passages, stays frozen.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import AutoModelForCausalLM, AutoTokenizer

from ...embedder.device import choose_device
from ...embedder.training.run import Schedule, StepResult, train
from ..errors import GeneratorError
from ..reader.data import read_questions
from .config import ASK, REPEAT, XcConfig, rope_theta
from .decoder import XcDecoder
from .recipe import XcRecipe

log = logging.getLogger(__name__)
_IGNORED = -100


class XcTrainer:
    """Everything a run needs: data, decoder, blocks."""

    def __init__(self, data: Path, folder: Path, recipe: XcRecipe, device: str | None = None) -> None:
        """Read data and decoder; `device` None takes the best one here.

        Raises:
            GeneratorError: the folder holds no decoder, or the blocks do not fit it.
            ModelError: the device is not there.
        """
        self.device = choose_device(device)
        self.recipe, self.folder = recipe, folder
        self.questions = read_questions(
            data / recipe.questions, dev_articles=recipe.dev_articles, paragraphs=recipe.paragraphs, seed=recipe.seed
        )
        try:
            self.tokenizer = AutoTokenizer.from_pretrained(recipe.model, local_files_only=True)
            base = AutoModelForCausalLM.from_pretrained(recipe.model, dtype=torch.float32, local_files_only=True)
        except (OSError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise GeneratorError(f"{recipe.model} holds no decoder to train on ({reason}): choose another") from error
        torch.manual_seed(recipe.seed)
        self.model = XcDecoder(base, _config(recipe, base.config))
        if recipe.from_self_attention:
            self.model.initialize_from_self_attention()
        self.model.to(self.device)
        self._rows = np.random.default_rng(recipe.seed).permutation(np.flatnonzero(~self.questions.dev))

    def loss(self, step: int) -> StepResult:
        """Mean cross-entropy of a step's targets, and the divergence where it is asked for."""
        torch.manual_seed(self.recipe.seed * 1_000_003 + step)
        count = self.recipe.batch_questions
        rows = self._rows[(step * count + np.arange(count)) % len(self._rows)].tolist()
        repeat = torch.rand(()).item() < self.recipe.repeat_share
        with torch.autocast(self.device.type, torch.bfloat16):
            loss, tokens = self.batch_loss(rows, repeat=repeat)
        return StepResult(loss, tokens, {"repeat" if repeat else "answer": float(loss.detach())})

    def batch_loss(self, rows: Sequence[int], *, repeat: bool, shuffled: bool = False) -> tuple[Tensor, int]:
        """The loss on some questions and how many tokens it reads; `shuffled` gives each another's passage."""
        contexts = [self._ids(self.questions.passages[int(self.questions.passage_of[i])])[:-1] for i in rows]
        contexts = [ids[: self.recipe.context_tokens] for ids in contexts]
        prompts = [self._ids(REPEAT if repeat else ASK.format(self.questions.texts[i]))[:-1] for i in rows]
        targets = contexts if repeat else [self._ids(f" {self.questions.answers[i]}") for i in rows]
        states = [self.model.context_states(torch.tensor(ids, device=self.device)) for ids in contexts]
        if shuffled:
            states = states[1:] + states[:1]
        memories = self.model.remember(torch.cat(states).clone(), [len(s) for s in states])
        ids, labels = (part.to(self.device) for part in _side_by_side(prompts, targets))
        logits = self.model(ids, memories, use_cache=False).logits.float()
        loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=_IGNORED)
        if self.recipe.teacher_weight and not repeat:
            loss = loss + self.recipe.teacher_weight * self._divergence(contexts, prompts, targets, logits, labels)
        return loss, ids.numel() + sum(map(len, contexts))

    def _divergence(
        self,
        contexts: list[list[int]],
        prompts: list[list[int]],
        targets: list[list[int]],
        logits: Tensor,
        labels: Tensor,
    ) -> Tensor:
        """KL from the decoder that has the passage in its prompt, at the answers' tokens."""
        read = [c + p for c, p in zip(contexts, prompts, strict=True)]
        whole, wanted = (part.to(self.device) for part in _side_by_side(read, targets))
        with torch.no_grad():
            taught = self.model.base(input_ids=whole, use_cache=False).logits.float()
        own = logits[:, :-1][labels[:, 1:] != _IGNORED].log_softmax(-1)
        teacher = taught[:, :-1][wanted[:, 1:] != _IGNORED].log_softmax(-1)
        return F.kl_div(own, teacher, log_target=True, reduction="batchmean")

    def _ids(self, text: str) -> list[int]:
        """A text's tokens with the token that ends a text behind them."""
        return [*self.tokenizer.encode(text, add_special_tokens=False, verbose=False), self.tokenizer.eos_token_id]

    def run(self) -> None:
        """Train, or go on where the last run stopped; write the blocks and what they make of held-out questions."""
        recipe = self.recipe
        self.model.train()
        schedule = Schedule(recipe.steps, recipe.warmup_steps, recipe.checkpoint_steps)
        blocks = self.model.cross_attn_layers
        groups: list[dict[str, object]] = [{"params": list(blocks.parameters()), "lr": recipe.learning_rate}]
        train(blocks, groups, self.loss, schedule, self.folder)
        self.model.eval()
        base = Path(recipe.model)
        self.model.save(self.folder / "adapter", str(base.resolve()) if base.is_dir() else recipe.model)
        scores = self.dev_losses()
        log.info("development: %s", scores)
        (self.folder / "dev.json").write_text(json.dumps(scores, indent=2) + "\n")

    @torch.no_grad()
    def dev_losses(self, count: int = 200) -> dict[str, float]:
        """Loss on held-out questions with their passage, with another's, and of the decoder without any."""
        rows = np.flatnonzero(self.questions.dev)[:: max(1, int(self.questions.dev.sum()) // count)].tolist()
        batches = [rows[i : i + 16] for i in range(0, len(rows) - 1, 16)]
        totals = {"right": 0.0, "shuffled": 0.0, "repeat": 0.0}
        for batch in batches:
            totals["right"] += self.batch_loss(batch, repeat=False)[0].item() / len(batches)
            totals["shuffled"] += self.batch_loss(batch, repeat=False, shuffled=True)[0].item() / len(batches)
            totals["repeat"] += self.batch_loss(batch, repeat=True)[0].item() / len(batches)
        return totals


def _config(recipe: XcRecipe, decoder: object) -> XcConfig:
    text = decoder
    return XcConfig(
        decoder_layers=int(text.num_hidden_layers),  # type: ignore[attr-defined]
        decoder_width=int(text.hidden_size),  # type: ignore[attr-defined]
        context_width=int(text.hidden_size),  # type: ignore[attr-defined]
        blocks=recipe.blocks,
        stride=recipe.stride,
        hidden=recipe.hidden,
        heads=recipe.heads,
        kv_heads=recipe.kv_heads,
        inner=recipe.inner,
        gate=recipe.gate,
        eps=float(text.rms_norm_eps),  # type: ignore[attr-defined]
        rope_theta=rope_theta(text),
    )


def _side_by_side(prompts: Sequence[Sequence[int]], targets: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Ids (B, L), padded behind, and labels (B, L) that are those of the targets and ignored elsewhere."""
    rows = [[*prompt, *target] for prompt, target in zip(prompts, targets, strict=True)]
    longest = max(map(len, rows))
    ids = torch.zeros(len(rows), longest, dtype=torch.int64)
    labels = torch.full((len(rows), longest), _IGNORED)
    for i, (row, prompt) in enumerate(zip(rows, prompts, strict=True)):
        ids[i, : len(row)] = torch.tensor(row)
        labels[i, len(prompt) : len(row)] = torch.tensor(row[len(prompt) :])
    return ids, labels

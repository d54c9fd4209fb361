"""Masked next-token prediction (LLM2Vec, arXiv 2404.05961): the state before a masked token predicts it.

transformers' masked-language-model collator pads, and predicts a token at its own place.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..mask_token import mask_token_id
from ..packed_texts import PackedTexts
from ..run import StepResult
from ..training_recipe import MntpSettings
from .context import Context
from .text_batches import TextBatches, texts_a_step


@dataclass(frozen=True)
class Masking:
    """How tokens are hidden.

    Attributes:
        share: of the tokens that may be hidden.
        mask_id: the token that stands for a hidden one.
        bert: whether 10 % of the chosen places get a random token and 10 % keep theirs.
        special: (specials,) ids that are never chosen and never put in.
        vocabulary: number of token ids.
    """

    share: float
    mask_id: int
    bert: bool
    special: NDArray[np.int64]
    vocabulary: int

    def __call__(self, texts: PackedTexts, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Hides tokens.

        Returns:
            input ids (total_tokens,), and the places (masked,) of the tokens to predict. A text's first token is
            never among them, because nothing stands before it.
        """
        ids = texts.input_ids.cpu().numpy()
        open_ = ~np.isin(ids, self.special)
        open_[np.cumsum([0, *texts.lengths[:-1]])] = False
        chosen = open_ & (rng.random(len(ids)) < self.share)
        if not chosen.any() and open_.any():
            chosen[rng.choice(np.flatnonzero(open_))] = True
        places = np.flatnonzero(chosen)
        fed = ids.copy()
        fed[places] = self.mask_id
        if self.bert:
            fate = rng.random(len(places))
            fed[places[fate < 0.2]] = ids[places[fate < 0.2]]
            scrambled = places[fate < 0.1]
            fed[scrambled] = self._random_tokens(rng, len(scrambled))
        device = texts.input_ids.device
        return torch.from_numpy(fed).to(device), torch.from_numpy(places).to(device)

    def _random_tokens(self, rng: np.random.Generator, count: int) -> NDArray[np.int64]:
        ordinary = np.setdiff1d(np.arange(self.vocabulary), self.special)
        return rng.choice(ordinary, size=count)


class Mntp:
    """The objective; see `MntpSettings`."""

    def __init__(self, settings: MntpSettings, context: Context, names: list[str]) -> None:
        self._settings, self._context = settings, context
        self._batches = TextBatches(context, names, settings.max_tokens)
        tokenizer = context.trainee.encoder.text_tokenizer
        mask_id = mask_token_id(tokenizer.source, settings.mask_token, f"{context.field}.mask_token")
        special = np.asarray(sorted(tokenizer.source.all_special_ids), np.int64)
        self.masking = Masking(
            settings.mask_share, mask_id, settings.corruption == "bert", special, tokenizer.vocabulary_size
        )

    def __call__(self, step: int, weight: float) -> StepResult:
        """Propagates the step's loss back."""
        texts = self._batches(step, texts_a_step(self._settings.batch_tokens, self._settings.max_tokens))
        fed, places = self.masking(texts, self._context.rng(step + 1_000_000_007))
        self._context.fix_dropout(step)
        masked = PackedTexts(fed, texts.lengths, texts.restore)
        hidden = self._context.trainee.hidden(masked, masked.layout(causal=False))
        loss = self._context.trainee.token_loss(hidden[places - 1], texts.input_ids[places])
        (weight * loss).backward()
        return StepResult(loss.detach(), len(texts.input_ids))

"""The sparse head: a weight per term of the vocabulary, from the language-model head (SPLADE)."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import torch
from scipy.sparse import csr_array
from tokenizers import Tokenizer
from torch import Tensor

from ..kernels.attention import PackedLayout
from ..kernels.pooling import max_logits, splade_weights
from .lm_head import LmHead
from .spec import SparseSpec


class SparseHead:
    """Makes sparse rows of hidden states.

    Attributes:
        lm_head: the language-model head.
        terms: V, the width of a row.
    """

    def __init__(self, spec: SparseSpec, lm_head: LmHead, special_ids: list[int], vocabulary_size: int) -> None:
        """Fix which terms may appear: none the tokenizer does not have, and no special one unless the spec says so."""
        self.lm_head = lm_head
        self.terms = int(lm_head.weight.shape[0])
        self._spec = spec
        device = lm_head.weight.device
        barred = [] if spec.special_tokens else special_ids
        self._special = torch.tensor(sorted(barred), dtype=torch.long, device=device)
        # Vocabularies are padded to round numbers; the rows beyond them were never trained.
        self._open = torch.arange(self.terms, device=device) < vocabulary_size
        self._open[self._special[self._special < self.terms]] = False

    def weights(self, hidden: Tensor, input_ids: Tensor, layout: PackedLayout, keep: Tensor | None) -> Tensor:
        """Return dense rows of term weights, differentiable.

        Args:
            hidden: (total_tokens, H).
            input_ids: (total_tokens,), to leave special tokens out: a BOS draws attention to itself, and its logits
                would win every maximum.
            layout: where each text lies.
            keep: (total_tokens,) bool, the pooled tokens; None for all.

        Returns:
            (batch, V) float32, not negative; zeros for a text that is left without a place.
        """
        if len(self._special):
            plain = ~torch.isin(input_ids, self._special)
            keep = plain if keep is None else keep & plain
        if self._spec.shifted:
            keep = _in_front(keep, layout)
        states = self.lm_head.states(hidden)
        logits = max_logits(states, layout, keep, self.lm_head.weight, self.lm_head.bias)
        weights = splade_weights(self.lm_head.adjust(logits), double_log=self._spec.double_log)
        weights = weights * self._open
        if self._spec.top_k is not None and self._spec.top_k < self.terms:
            kept = weights.topk(self._spec.top_k, dim=-1)
            weights = torch.zeros_like(weights).scatter(-1, kept.indices, kept.values)
        return weights

    def rows(self, hidden: Tensor, input_ids: Tensor, layout: PackedLayout, keep: Tensor | None) -> csr_array:
        """Return (batch, V) float32 CSR rows of the terms with a positive weight; arguments as in `weights`."""
        return csr_array(self.weights(hidden, input_ids, layout, keep).cpu().numpy())


def _in_front(keep: Tensor | None, layout: PackedLayout) -> Tensor:
    """Return the places whose next token, in the same text, is kept: a last token's logits speak of no token."""
    ids = layout.sequence_ids()
    followed = ids == ids.roll(-1)
    followed[-1] = False
    return followed if keep is None else followed & keep.roll(-1)


def explain(rows: csr_array, tokenizer: Tokenizer, top: int | None = None) -> list[list[tuple[str, float]]]:
    """Return each row's terms as people read them, with their weights, heaviest first; `top` per row at most."""
    explained: list[list[tuple[str, float]]] = []
    indices, weights = np.asarray(rows.indices), np.asarray(rows.data, np.float32)
    for begin, end in pairwise(np.asarray(rows.indptr).tolist()):
        order = begin + np.argsort(-weights[begin:end], kind="stable")[:top]
        explained.append([(_readable(tokenizer, int(indices[i])), float(weights[i])) for i in order])
    return explained


def _readable(tokenizer: Tokenizer, term: int) -> str:
    return tokenizer.decode([term], skip_special_tokens=False).strip() or str(tokenizer.id_to_token(term))

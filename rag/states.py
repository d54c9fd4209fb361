"""Hidden states of texts: what is cached of a passage, from the same pass of the same model that made its vector."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from ..embedder.encoder import Encoder
from ..embedder.forwards import forwards
from .errors import AnswerError


@dataclass(frozen=True)
class States:
    """One text as a model sees it; prompt and special tokens are left out.

    Attributes:
        ids: (T,) int32 token ids.
        offsets: (T, 2) int32, `text[start:end]` of each token.
        hidden: (T, H) float16, final-norm output.
    """

    ids: NDArray[np.int32]
    offsets: NDArray[np.int32]
    hidden: NDArray[np.float16]

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays."""
        return self.ids.nbytes + self.offsets.nbytes + self.hidden.nbytes


@torch.inference_mode()
def encode_states(encoder: Encoder, texts: Sequence[str], kind: str = "document") -> list[States]:
    """Run the encoder's backbone over texts, each by itself; one `States` per text, cut where the encoder would cut.

    Raises:
        AnswerError: the encoder changes texts before it reads them, so its tokens have no place in them.
        InputError: see `Encoder.encode`.
    """
    template = encoder.spec.template(kind, None)
    tokenized = encoder.text_tokenizer(list(texts), template)
    wrapped = [template.wrap(text) for text in texts]
    encodings = encoder.tokenizer.encode_batch(wrapped, add_special_tokens=encoder.spec.add_special_tokens)
    kept: list[tuple[NDArray[np.int64], NDArray[np.int32]]] = []
    for text, ids, encoding in zip(texts, tokenized.ids, encodings, strict=True):
        shared = min(len(ids), len(encoding.ids))
        same = np.equal(ids[:shared], np.array(encoding.ids[:shared], np.int32))
        usable = shared if same.all() else int(same.argmin())
        begin = len(template.before(text))
        offsets = np.array(encoding.offsets, np.int32).reshape(-1, 2)[:usable] - begin
        special = np.array(encoding.special_tokens_mask, np.bool_)[:usable]
        inside = (offsets[:, 0] >= 0) & (offsets[:, 1] <= len(text))
        # Runs of white space are tokens without width; they count only where there is nothing else.
        wide = ~special & inside & (offsets[:, 1] > offsets[:, 0])
        own = np.flatnonzero(wide if wide.any() else ~special & inside)
        if not len(own) and text.strip():
            raise AnswerError(
                "this model rewrites its texts, so nothing can be cached of them: use --model decant-mini"
            )
        kept.append((own, offsets[own]))
    out: list[States | None] = [None] * len(texts)
    for made in forwards(encoder, tokenized, None):
        hidden = made.hidden.to(torch.float16).cpu().numpy()
        start = 0
        for i in made.batch.texts:
            own, offsets = kept[i]
            out[i] = States(tokenized.ids[i][own], offsets, hidden[start + own])
            start += len(tokenized.ids[i])
    return [states for states in out if states is not None]

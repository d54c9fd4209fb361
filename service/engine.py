"""`EncoderEngine`: an `Encoder` cut in two for the queue: texts to tokens on any thread, tokens to vectors on one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..embedder import Encoder, InputError, ModelError
from ..embedder.encoder import BATCH_TOKENS_CPU, BATCH_TOKENS_GPU
from ..embedder.tokenization import TokenizedTexts, Truncate
from .errors import ComputeFailed, EmptyInput

# For room held before a text is tokenised: English has four characters to a token, other languages fewer.
_CHARACTERS_PER_TOKEN = 3


@dataclass(frozen=True)
class EmbedOptions:
    """How the texts of one call are to be encoded; as the arguments of `Encoder.encode`.

    Attributes:
        normalize: whether vectors get unit length; None for the model's own rule.
    """

    kind: str = "document"
    instruction: str | None = None
    dimensions: int | None = None
    truncate: Truncate = "end"
    normalize: bool | None = None


@dataclass(frozen=True, slots=True)
class PreparedText:
    """One text as tokens. Those of equal `key` can be encoded in one forward."""

    ids: NDArray[np.int32]
    pool_from: int
    truncated: bool
    key: tuple[int, bool]

    @property
    def tokens(self) -> int:
        """How many, prompt and special tokens included."""
        return len(self.ids)


@dataclass(frozen=True, slots=True)
class Encoded:
    """One text's result.

    Attributes:
        vector: (D,) float32.
        tokens: how many were encoded, prompt and special tokens included.
        truncated: whether the text was cut.
    """

    vector: NDArray[np.float32]
    tokens: int
    truncated: bool


class EncoderEngine:
    """Both halves; `run` belongs to one thread, the rest to any."""

    def __init__(self, encoder: Encoder) -> None:
        self.encoder = encoder

    @property
    def batch_tokens(self) -> int:
        """The token budget of one forward that is quickest on this encoder's device."""
        return BATCH_TOKENS_GPU if self.encoder.backbone.device.type == "cuda" else BATCH_TOKENS_CPU

    def check(self, options: EmbedOptions) -> None:
        """Refuse what no text could be encoded with; raises InputError."""
        self.encoder.spec.template(options.kind, options.instruction)
        self.encoder.head.width(options.dimensions)

    def estimate(self, texts: Sequence[str]) -> int:
        """About how many tokens the texts have."""
        longest = self.encoder.max_tokens
        return sum(min(longest, 2 + len(text) // _CHARACTERS_PER_TOKEN) for text in texts)

    def prepare(self, texts: Sequence[str], options: EmbedOptions) -> list[PreparedText | Exception]:
        """Tokenise; a text that cannot be is its own error."""
        try:
            return list(self._tokenized(texts, options, 0))
        except InputError as error:
            if len(texts) == 1:
                return [error]
        results: list[PreparedText | Exception] = []
        for i, text in enumerate(texts):
            try:
                results.extend(self._tokenized([text], options, i))
            except InputError as error:
                results.append(error)
        return results

    def run(self, works: Sequence[PreparedText]) -> list[Encoded | Exception]:
        """Encode texts of one key in one forward."""
        tokenized = TokenizedTexts(
            [work.ids for work in works],
            np.array([work.pool_from for work in works], np.int32),
            np.array([work.truncated for work in works], np.bool_),
        )
        width, unit = works[0].key
        try:
            dense = self.encoder.encode_tokens(
                tokenized, dimensions=width, batch_tokens=sum(work.tokens for work in works), normalize=unit
            )
        except Exception as error:
            why = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise ComputeFailed(f"the model failed ({why}): try again, or tell who runs this server") from error
        whole = [bool(np.isfinite(vector).all()) for vector in dense]
        return [
            Encoded(vector, work.tokens, work.truncated)
            if fine
            else ModelError("the model gave a vector with NaN or infinity, which is not handed out: use dtype=float32")
            for work, vector, fine in zip(works, dense, whole, strict=True)
        ]

    def warm_up(self) -> None:
        """Encode a short text and long ones, so that the first caller does not wait for what happens only once."""
        options = EmbedOptions()
        for texts in (["warm"], ["warm up " * self.encoder.max_tokens] * 2):
            works = [work for work in self.prepare(texts, options) if isinstance(work, PreparedText)]
            if failed := [result for result in self.run(works) if isinstance(result, Exception)]:
                raise failed[0]

    def _tokenized(self, texts: Sequence[str], options: EmbedOptions, first: int) -> list[PreparedText]:
        for i, text in enumerate(texts):
            if not text:
                raise EmptyInput(f"text {first + i} is empty: leave it out")
        template = self.encoder.spec.template(options.kind, options.instruction)
        made = self.encoder.text_tokenizer(texts, template, options.truncate, first=first)
        unit = self.encoder.spec.normalize if options.normalize is None else options.normalize
        key = (self.encoder.head.width(options.dimensions), unit)
        rows = zip(made.ids, made.pool_from.tolist(), made.truncated.tolist(), strict=True)
        return [PreparedText(ids, pool_from, truncated, key) for ids, pool_from, truncated in rows]

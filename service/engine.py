"""`EncoderEngine`: an `Encoder` cut in two for the queue: texts to tokens on any thread, tokens to vectors on one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from ..embedder import Encoder, InputError
from ..embedder.tokenization import TokenizedTexts, Truncate
from .errors import ComputeFailed, EmptyInput, NotOffered, UntrustedVector
from .token_states import token_states

# For room held before a text is tokenised: English has four characters to a token, other languages fewer.
_CHARACTERS_PER_TOKEN = 3
# What a caller may ask for. `states` is one vector per token, for late interaction and TEI's embed_all.
DENSE, SPARSE, ROUTER, STATES = "dense", "sparse", "router", "states"


@dataclass(frozen=True)
class EmbedOptions:
    """How the texts of one call are to be encoded; as the arguments of `Encoder.encode`.

    Attributes:
        normalize: whether vectors get unit length; None for the model's own rule.
        outputs: some of DENSE, SPARSE and ROUTER, or STATES alone.
    """

    kind: str = "document"
    instruction: str | None = None
    dimensions: int | None = None
    truncate: Truncate = "end"
    normalize: bool | None = None
    outputs: tuple[str, ...] = (DENSE,)


@dataclass(frozen=True, slots=True)
class PreparedText:
    """One text as tokens. Those of equal `key` can be encoded in one forward."""

    ids: NDArray[np.int32]
    pool_from: int
    truncated: bool
    key: tuple[tuple[str, ...], int, bool]

    @property
    def tokens(self) -> int:
        """How many, prompt and special tokens included."""
        return len(self.ids)


@dataclass(frozen=True, slots=True)
class SparseVector:
    """The terms of one text: (T,) token ids, ascending, and their (T,) float32 weights, none of them zero."""

    terms: NDArray[np.int32]
    weights: NDArray[np.float32]


_NOT_FINITE = "the model gave a vector with NaN or infinity, which is not handed out: serve it in float32"
_NO_VECTOR = np.zeros(0, np.float32)


@dataclass(frozen=True, slots=True)
class Encoded:
    """One text's result; what was not asked for is empty or None.

    Attributes:
        vector: (D,) float32.
        tokens: how many were encoded, prompt and special tokens included.
        truncated: whether the text was cut.
        router: (R,) float32.
        states: (tokens, H) float32, what the model made of each token, not normalised.
        pool_from: the first token of the text itself, behind the prompt, where the model does not pool that.
    """

    vector: NDArray[np.float32]
    tokens: int
    truncated: bool
    sparse: SparseVector | None = None
    router: NDArray[np.float32] | None = None
    states: NDArray[np.float32] | None = None
    pool_from: int = 0


class EncoderEngine:
    """Both halves; `run` belongs to one thread, the rest to any."""

    def __init__(self, encoder: Encoder) -> None:
        self.encoder = encoder

    @property
    def batch_tokens(self) -> int:
        """The token budget of one forward that is quickest on this encoder's device."""
        return self.encoder.batch_tokens

    def check(self, options: EmbedOptions) -> None:
        """Refuse what no text could be encoded with; raises InputError, NotOffered."""
        missing = [name for name in options.outputs if name != STATES and name not in self.encoder.outputs]
        if missing:
            offered = " and ".join(self.encoder.outputs)
            raise NotOffered(f"the model served here offers {offered} vectors, not {missing[0]}: convert it with one")
        if not options.outputs or (STATES in options.outputs and len(options.outputs) > 1):
            raise InputError("ask for dense, sparse or router vectors")
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
        try:
            return list(self._computed(tokenized, works))
        except Exception as error:
            why = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise ComputeFailed(f"the model failed ({why}): try again, or tell who runs this server") from error

    def _computed(self, tokenized: TokenizedTexts, works: Sequence[PreparedText]) -> Iterator[Encoded | Exception]:
        """Yield one result per text, all from one forward."""
        outputs, width, unit = works[0].key
        parts: list[dict[str, Any]]
        if outputs == (STATES,):
            parts = [{STATES: states} for states in token_states(self.encoder, tokenized.ids)]
        else:
            budget = sum(work.tokens for work in works)
            made = self.encoder.represent(tokenized, outputs, dimensions=width, batch_tokens=budget, normalize=unit)
            columns = {"vector": made.dense, SPARSE: _sparse_vectors(made.sparse), ROUTER: made.router}
            present = {name: column for name, column in columns.items() if column is not None}
            parts = [{name: column[i] for name, column in present.items()} for i in range(len(works))]
        for work, part in zip(works, parts, strict=True):
            numbers = [value.weights if isinstance(value, SparseVector) else value for value in part.values()]
            if all(bool(np.isfinite(values).all()) for values in numbers):
                vector = part.pop("vector", _NO_VECTOR)
                yield Encoded(vector, work.tokens, work.truncated, pool_from=work.pool_from, **part)
            else:
                yield UntrustedVector(_NOT_FINITE)

    def warm_up(self) -> None:
        """Encode a short text and long ones, so that the first caller does not wait for what happens only once."""
        options = EmbedOptions(outputs=self.encoder.outputs)
        for texts in (["warm"], ["warm up " * self.encoder.max_tokens] * 2):
            works = [work for work in self.prepare(texts, options) if isinstance(work, PreparedText)]
            if failed := [result for result in self.run(works) if isinstance(result, Exception)]:
                raise failed[0]

    def _tokenized(self, texts: Sequence[str], options: EmbedOptions, first: int) -> list[PreparedText]:
        for i, text in enumerate(texts):
            if not text:
                raise EmptyInput(f"text {first + i} is empty: leave it out")
        made = self.encoder.tokenize(texts, options.kind, options.instruction, truncate=options.truncate, first=first)
        unit = self.encoder.spec.normalize if options.normalize is None else options.normalize
        outputs = tuple(name for name in (DENSE, SPARSE, ROUTER, STATES) if name in options.outputs)
        key = (outputs, self.encoder.head.width(options.dimensions), unit)
        rows = zip(made.ids, made.pool_from.tolist(), made.truncated.tolist(), strict=True)
        return [PreparedText(ids, pool_from, truncated, key) for ids, pool_from, truncated in rows]


def _sparse_vectors(rows: csr_array | None) -> list[SparseVector] | None:
    """Cut (N, V) CSR rows into N vectors."""
    if rows is None:
        return None
    rows.sort_indices()
    terms, weights = np.asarray(rows.indices, np.int32), np.asarray(rows.data, np.float32)
    ends = np.asarray(rows.indptr).tolist()
    return [SparseVector(terms[begin:end], weights[begin:end]) for begin, end in pairwise(ends)]

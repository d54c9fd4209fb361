"""The pieces an `EncoderSpec` is made of: its choices, and the descriptions of its optional parts."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import TypeVar

from .errors import ModelError

E = TypeVar("E", bound=StrEnum)


def member(kind: type[E], value: str, what: str) -> E:
    """Return the member of an enum that `value` names.

    Raises:
        ModelError: naming the choices, if there is none.
    """
    try:
        return kind(value)
    except ValueError:
        raise ModelError(f"unknown {what} {value!r}: choose from {', '.join(kind)}") from None


class Attention(StrEnum):
    """What a token sees: the whole text, or only what precedes it."""

    BIDIRECTIONAL = "bidirectional"
    CAUSAL = "causal"


class Pooling(StrEnum):
    """How one vector is made of the pooled tokens' hidden states; `none` for an encoder without a dense vector."""

    MEAN = "mean"
    WEIGHTED_MEAN = "weighted_mean"
    LAST = "last"
    FIRST = "first"
    MAX = "max"
    NONE = "none"


class PromptSpan(StrEnum):
    """How the end of a prompt that is not pooled is found among the tokens.

    `offsets`: by character offsets. A token that joins the prompt's last space to the text's first word is the text's.
    `text`: by character offsets as well, and special tokens in front are left out also where there is no prompt; the
    weights of a weighted mean count from the text's first token. LLM2Vec's rule.
    `tokens`: by the number of tokens the prompt has alone, as sentence-transformers and GritLM do; where the prompt
    ends in a space, many tokenizers then leave the text's first word out.
    `bare_tokens`: by the same number, special tokens not counted. Behind a BOS the prompt's last token is then pooled;
    NV-Embed was trained so.
    """

    OFFSETS = "offsets"
    TEXT = "text"
    TOKENS = "tokens"
    BARE_TOKENS = "bare_tokens"


class Rewrite(StrEnum):
    """What is done to a text before anything is put around it.

    `none`: nothing.
    `sentence`: it is made to fit between quotation marks, as PromptEOL's and MoEE's published code does: a full stop
    where it ends in none of `.?!"'`, single quotation marks for double ones, spaces for underscores.
    """

    NONE = "none"
    SENTENCE = "sentence"


class Activation(StrEnum):
    """The non-linearity behind a dense layer."""

    IDENTITY = "identity"
    TANH = "tanh"
    RELU = "relu"
    GELU = "gelu"
    SILU = "silu"


@dataclass(frozen=True)
class DenseSpec:
    """One linear layer applied to the pooled vector: (in_features,) -> (out_features,), then the activation."""

    in_features: int
    out_features: int
    bias: bool
    activation: Activation

    def __post_init__(self) -> None:
        """Accept the activation as a string and refuse empty layers."""
        object.__setattr__(self, "activation", member(Activation, self.activation, "dense activation"))
        if min(self.in_features, self.out_features) < 1:
            raise ModelError(f"a dense layer of {self.in_features} x {self.out_features} features is empty")


@dataclass(frozen=True)
class LatentSpec:
    """A latent attention block between hidden states and their mean (NV-Embed, arXiv 2405.17428).

    Attributes:
        latents: number of learned vectors every token attends to.
        heads: attention heads.
        head_dim: width of a head.
        hidden_size: width of hidden states and latents.
    """

    latents: int
    heads: int
    head_dim: int
    hidden_size: int

    def __post_init__(self) -> None:
        """Refuse an empty block."""
        if min(self.latents, self.heads, self.head_dim, self.hidden_size) < 1:
            raise ModelError(f"a latent attention block of {asdict(self)} is empty")


@dataclass(frozen=True)
class SparseSpec:
    """A weight per term of the vocabulary, from the language-model head (SPLADE, arXiv 2109.10086).

    Attributes:
        top_k: most terms a text keeps; None for all with a positive weight.
        special_tokens: whether special tokens take part, as places that are pooled and as terms.
        shifted: whether the logits at one token speak of the next, as in heads trained by next-token prediction or
            MNTP (LLM2Vec): the pooled places are then those in front of pooled tokens, a BOS among them.
        double_log: whether the logarithm is taken twice (arXiv 2504.14839).
        on_request: whether an index holds these rows only where it is asked to: their head may cost more than the
            model.
    """

    top_k: int | None = None
    special_tokens: bool = False
    shifted: bool = False
    double_log: bool = False
    on_request: bool = False

    def __post_init__(self) -> None:
        """Refuse a cap that leaves nothing."""
        if self.top_k is not None and self.top_k < 1:
            raise ModelError(f"top_k must be at least 1 term, not {self.top_k}")


@dataclass(frozen=True)
class RouterSpec:
    """A weight per expert of every mixture-of-experts layer, from the routers (MoEE, arXiv 2410.10814).

    Attributes:
        pooling: `last`, the softmax at the last pooled token, or `mean`, its average over the pooled tokens. The
            paper's is the last, by a wide margin.
        calibrated: whether each dimension is standardised, with the mean and deviation stored beside the weights.
        normalize: whether router vectors have unit L2 norm.
    """

    pooling: Pooling = Pooling.LAST
    calibrated: bool = False
    normalize: bool = True

    def __post_init__(self) -> None:
        """Accept the pooling as a string and refuse what no paper measured."""
        object.__setattr__(self, "pooling", member(Pooling, self.pooling, "router pooling"))
        if self.pooling not in (Pooling.LAST, Pooling.MEAN):
            raise ModelError(f"router pooling is last or mean, not {self.pooling}")


class ExampleSearch(StrEnum):
    """How the examples nearest to a query are found: by words, or by the model's own dense vectors."""

    BM25 = "bm25"
    DENSE = "dense"


@dataclass(frozen=True)
class ExampleSpec:
    """Examples retrieved for the query at hand, from those saved with the model (RARe, arXiv 2410.20088).

    Attributes:
        count: most examples per query; the farthest are left out where they do not fit.
        search: how they are found.
    """

    count: int = 5
    search: ExampleSearch = ExampleSearch.BM25

    def __post_init__(self) -> None:
        """Accept the search as a string and refuse a count that leaves nothing."""
        object.__setattr__(self, "search", member(ExampleSearch, self.search, "example search"))
        if self.count < 1:
            raise ModelError(f"a query needs at least 1 example, not {self.count}")


@dataclass(frozen=True)
class TextLimit:
    """A limit on the text alone, applied before anything is put around it.

    Attributes:
        tokens: most tokens a text may have, special tokens not counted.
        whole_words: cut by whole words, in proportion to the excess and until it fits, as LLM2Vec does; words are then
            joined by single spaces. Otherwise cut behind the last token that fits.
    """

    tokens: int
    whole_words: bool = False

    def __post_init__(self) -> None:
        """Refuse a limit that leaves nothing."""
        if self.tokens < 1:
            raise ModelError(f"a text limit must be at least 1 token, not {self.tokens}")

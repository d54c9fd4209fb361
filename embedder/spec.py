"""`EncoderSpec`: everything besides the weights that influences a vector."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self, TypeVar

from .errors import InputError, ModelError
from .template import Template, fill, parse

SPEC_FILE = "decant.json"
SPEC_FORMAT = 1
INSTRUCTION_SLOT = "{instruction}"
EXAMPLES_SLOT = "{examples}"
E = TypeVar("E", bound=StrEnum)


class Attention(StrEnum):
    """What a token sees: the whole text, or only what precedes it."""

    BIDIRECTIONAL = "bidirectional"
    CAUSAL = "causal"


class Pooling(StrEnum):
    """How one vector is made of the pooled tokens' hidden states."""

    MEAN = "mean"
    WEIGHTED_MEAN = "weighted_mean"
    LAST = "last"
    FIRST = "first"
    MAX = "max"


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
        object.__setattr__(self, "activation", _member(Activation, self.activation, "dense activation"))
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
        double_log: whether the logarithm is taken twice (arXiv 2504.14839).
    """

    top_k: int | None = None
    special_tokens: bool = False
    double_log: bool = False

    def __post_init__(self) -> None:
        """Refuse a cap that leaves nothing."""
        if self.top_k is not None and self.top_k < 1:
            raise ModelError(f"top_k must be at least 1 term, not {self.top_k}")


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


@dataclass(frozen=True)
class EncoderSpec:
    """Frozen, validated description of an encoder, saved beside its weights as `decant.json`.

    What is not in the spec does not influence a vector.

    Attributes:
        attention: `bidirectional` or `causal`.
        pooling: how hidden states become one vector, see `Pooling`.
        prompts: what stands around a text, by kind; `query` and `document` always exist (empty where not given).
            `{text}` stands for the text, and at the end of a prompt that has none; twice, it repeats the text (echo
            embeddings, arXiv 2402.15449), and the last copy is pooled. `{instruction}` and `{examples}` are filled per
            call. What follows the text survives truncation.
        bare_prompts: the prompt by kind where the instruction is empty; a kind not listed keeps its prompt.
        instruction: what fills the slot when the caller gives none.
        example: one worked example with the slots `{instruction}`, `{query}` and `{passage}`; a call's examples, end
            to end, fill the prompt's `{examples}`.
        include_prompt: whether what stands before the text is pooled; it is attended to in any case. Where it is not,
            special tokens in front are left out with it. What follows the text is always pooled.
        prompt_span: how the end of a prompt that is not pooled is found.
        add_special_tokens: whether the tokenizer's own template (BOS, EOS, CLS, SEP) is applied.
        append_eos: whether the tokenizer's EOS is appended where the template did not put it.
        lowercase: whether texts are lower-cased before tokenisation.
        max_tokens: longest sequence, prompt and special tokens included.
        text_limit: a limit on the text alone, see `TextLimit`; None for none.
        latent: the latent attention block before mean pooling; None for none.
        sparse: the sparse head beside the dense vector; None for none.
        dense: linear layers behind the pooling.
        normalize: whether vectors have unit L2 norm; a vector cut to fewer dimensions is normalised again.
        dimensions: Matryoshka widths the model was trained for, besides the full width; empty for none.
        default_dimension: the width given when the caller asks for none; None is the full width.
    """

    attention: Attention = Attention.BIDIRECTIONAL
    pooling: Pooling = Pooling.MEAN
    prompts: Mapping[str, str] = field(default_factory=dict[str, str])
    bare_prompts: Mapping[str, str] = field(default_factory=dict[str, str])
    instruction: str = ""
    example: str = ""
    include_prompt: bool = True
    prompt_span: PromptSpan = PromptSpan.OFFSETS
    add_special_tokens: bool = True
    append_eos: bool = False
    lowercase: bool = False
    max_tokens: int = 512
    text_limit: TextLimit | None = None
    latent: LatentSpec | None = None
    sparse: SparseSpec | None = None
    dense: tuple[DenseSpec, ...] = ()
    normalize: bool = True
    dimensions: tuple[int, ...] = ()
    default_dimension: int | None = None

    def __post_init__(self) -> None:
        """Normalise strings to enums, freeze containers, refuse what makes no sense."""
        put = object.__setattr__
        put(self, "attention", _member(Attention, self.attention, "attention"))
        put(self, "pooling", _member(Pooling, self.pooling, "pooling"))
        put(self, "prompt_span", _member(PromptSpan, self.prompt_span, "prompt span"))
        put(self, "prompts", MappingProxyType({"query": "", "document": "", **self.prompts}))
        put(self, "bare_prompts", MappingProxyType(dict(self.bare_prompts)))
        put(self, "dense", tuple(self.dense))
        put(self, "dimensions", tuple(sorted(set(self.dimensions), reverse=True)))
        if self.max_tokens < 1:
            raise ModelError(f"max_tokens must be at least 1, not {self.max_tokens}")
        self._check_prompts()
        if self.latent and self.pooling is not Pooling.MEAN:
            raise ModelError(f"latent attention averages its tokens: pooling must be mean, not {self.pooling}")
        if any(width < 1 for width in self.dimensions):
            raise ModelError(f"Matryoshka dimensions must be positive, not {self.dimensions}")
        for before, after in zip(self.dense, self.dense[1:], strict=False):
            if before.out_features != after.in_features:
                raise ModelError(
                    f"a dense layer gives {before.out_features} features, the next one takes {after.in_features}"
                )

    def _check_prompts(self) -> None:
        """Refuse bare prompts without a prompt, copies that would all be pooled, and examples without a place."""
        strange = self.bare_prompts.keys() - self.prompts.keys()
        if strange:
            raise ModelError(f"bare prompts for {', '.join(sorted(strange))}, which the prompts do not list")
        for kind, pattern in (*self.prompts.items(), *self.bare_prompts.items()):
            if parse(pattern, {}).copies > 1 and self.include_prompt:
                raise ModelError(f"the {kind} prompt repeats the text: set include_prompt=False to pool its last copy")
            if EXAMPLES_SLOT in pattern and not self.example:
                raise ModelError(f"the {kind} prompt takes examples: say in `example` how one is written")

    def template(self, kind: str, instruction: str | None = None, examples: Sequence[tuple[str, str]] = ()) -> Template:
        """Return what stands around a text of this kind.

        Args:
            kind: one of the prompts.
            instruction: fills the prompt's slot; None for the spec's own.
            examples: (query, passage) pairs, in the order they are written.

        Raises:
            InputError: for an unknown kind, or an instruction or examples given to a prompt that has no place for them.
        """
        if kind not in self.prompts:
            raise InputError(f"unknown kind {kind!r}: this model knows {', '.join(sorted(self.prompts))}")
        pattern = self.prompts[kind]
        if instruction is not None and INSTRUCTION_SLOT not in pattern:
            raise InputError(f"this model's {kind} prompt takes no instruction: leave it out")
        if examples and EXAMPLES_SLOT not in pattern:
            raise InputError(f"this model's {kind} prompt takes no examples: leave them out")
        task = self.instruction if instruction is None else instruction
        if not task:
            pattern = self.bare_prompts.get(kind, pattern)
        written = [fill(self.example, {"instruction": task, "query": q, "passage": p}) for q, p in examples]
        return parse(pattern, {"instruction": task, "examples": "".join(written)})

    def prompt(self, kind: str, instruction: str | None) -> str:
        """Return what stands before the first copy of a text of this kind; errors as in `template`."""
        return self.template(kind, instruction).parts[0]

    def to_json(self) -> str:
        """Return the canonical JSON text of this spec: sorted keys, one format number."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        values["prompts"] = dict(self.prompts)
        values["bare_prompts"] = dict(self.bare_prompts)
        values["text_limit"] = asdict(self.text_limit) if self.text_limit else None
        values["latent"] = asdict(self.latent) if self.latent else None
        values["sparse"] = asdict(self.sparse) if self.sparse else None
        values["dense"] = [asdict(layer) for layer in self.dense]
        return json.dumps({"format": SPEC_FORMAT, "spec": values}, indent=2, sort_keys=True, ensure_ascii=False)

    def identity(self) -> str:
        """Return what distinguishes this spec: the fields that differ from their defaults, as canonical JSON.

        A field that a later version adds leaves it as it was, and with it the fingerprint of every store.
        """
        plain: dict[str, Any] = json.loads(type(self)().to_json())["spec"]
        own: dict[str, Any] = json.loads(self.to_json())["spec"]
        return json.dumps({key: value for key, value in own.items() if value != plain[key]}, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read what `to_json` wrote.

        Raises:
            ModelError: if the text is not such JSON, or has keys this version does not know.
        """
        try:
            document = json.loads(text)
            version, values = document["format"], dict[str, Any](document["spec"])
        except (ValueError, KeyError, TypeError) as error:
            raise ModelError(f"{SPEC_FILE} is not an encoder description: {error}") from None
        if version != SPEC_FORMAT:
            raise ModelError(f"{SPEC_FILE} has format {version}, this Decant reads {SPEC_FORMAT}: upgrade Decant")
        unknown = values.keys() - {f.name for f in fields(cls)}
        if unknown:
            raise ModelError(f"{SPEC_FILE} has unknown keys {sorted(unknown)}: upgrade Decant or remove them")
        try:
            values["dense"] = tuple(DenseSpec(**layer) for layer in values.get("dense", ()))
            values["text_limit"] = TextLimit(**values["text_limit"]) if values.get("text_limit") else None
            values["latent"] = LatentSpec(**values["latent"]) if values.get("latent") else None
            values["sparse"] = SparseSpec(**values["sparse"]) if values.get("sparse") else None
            return cls(**values)
        except (TypeError, AttributeError) as error:
            raise ModelError(f"{SPEC_FILE} has a value of the wrong type: {error}") from None

    def save(self, folder: Path) -> None:
        """Write `decant.json` into `folder`."""
        (folder / SPEC_FILE).write_text(self.to_json() + "\n", encoding="utf-8")


def _member(kind: type[E], value: str, what: str) -> E:
    try:
        return kind(value)
    except ValueError:
        raise ModelError(f"unknown {what} {value!r}: choose from {', '.join(kind)}") from None

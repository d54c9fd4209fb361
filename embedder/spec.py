"""`EncoderSpec`: everything besides the weights that influences a vector."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self, TypeVar

from .errors import InputError, ModelError

SPEC_FILE = "decant.json"
SPEC_FORMAT = 1
INSTRUCTION_SLOT = "{instruction}"
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
    `tokens`: by the number of tokens the prompt has alone, as sentence-transformers and NV-Embed do; where the prompt
    ends in a space, many tokenizers then leave the text's first word out.
    """

    OFFSETS = "offsets"
    TOKENS = "tokens"


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
class EncoderSpec:
    """Frozen, validated description of an encoder, saved beside its weights as `decant.json`.

    What is not in the spec does not influence a vector.

    Attributes:
        attention: `bidirectional` or `causal`.
        pooling: how hidden states become one vector, see `Pooling`.
        prompts: prefix by kind; `query` and `document` always exist (empty where not given). A prefix may hold
            the slot `{instruction}`, filled per call.
        instruction: what fills the slot when the caller gives none.
        include_prompt: whether the prompt's tokens are pooled; they are attended to in any case. Where they are
            not, special tokens in front are left out with them.
        prompt_span: how the end of a prompt that is not pooled is found.
        add_special_tokens: whether the tokenizer's own template (BOS, EOS, CLS, SEP) is applied.
        append_eos: whether the tokenizer's EOS is appended where the template did not put it.
        lowercase: whether texts are lower-cased before tokenisation.
        max_tokens: longest sequence, prompt and special tokens included.
        dense: linear layers behind the pooling.
        normalize: whether vectors have unit L2 norm; a vector cut to fewer dimensions is normalised again.
        dimensions: Matryoshka widths the model was trained for, besides the full width; empty for none.
        default_dimension: the width given when the caller asks for none; None is the full width.
    """

    attention: Attention = Attention.BIDIRECTIONAL
    pooling: Pooling = Pooling.MEAN
    prompts: Mapping[str, str] = field(default_factory=dict[str, str])
    instruction: str = ""
    include_prompt: bool = True
    prompt_span: PromptSpan = PromptSpan.OFFSETS
    add_special_tokens: bool = True
    append_eos: bool = False
    lowercase: bool = False
    max_tokens: int = 512
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
        put(self, "dense", tuple(self.dense))
        put(self, "dimensions", tuple(sorted(set(self.dimensions), reverse=True)))
        if self.max_tokens < 1:
            raise ModelError(f"max_tokens must be at least 1, not {self.max_tokens}")
        if any(width < 1 for width in self.dimensions):
            raise ModelError(f"Matryoshka dimensions must be positive, not {self.dimensions}")
        for before, after in zip(self.dense, self.dense[1:], strict=False):
            if before.out_features != after.in_features:
                raise ModelError(
                    f"a dense layer gives {before.out_features} features, the next one takes {after.in_features}"
                )

    def prompt(self, kind: str, instruction: str | None) -> str:
        """Return the prefix for `kind` with the instruction filled in.

        Raises:
            InputError: for an unknown kind, or an instruction given to a prompt that has no place for it.
        """
        if kind not in self.prompts:
            raise InputError(f"unknown kind {kind!r}: this model knows {', '.join(sorted(self.prompts))}")
        template = self.prompts[kind]
        if INSTRUCTION_SLOT not in template:
            if instruction is not None:
                raise InputError(f"this model's {kind} prompt takes no instruction: leave it out")
            return template
        return template.replace(INSTRUCTION_SLOT, self.instruction if instruction is None else instruction)

    def to_json(self) -> str:
        """Return the canonical JSON text of this spec: sorted keys, one format number."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        values["prompts"] = dict(self.prompts)
        values["dense"] = [asdict(layer) for layer in self.dense]
        return json.dumps({"format": SPEC_FORMAT, "spec": values}, indent=2, sort_keys=True, ensure_ascii=False)

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
        values["dense"] = tuple(DenseSpec(**layer) for layer in values.get("dense", ()))
        return cls(**values)

    def save(self, folder: Path) -> None:
        """Write `decant.json` into `folder`."""
        (folder / SPEC_FILE).write_text(self.to_json() + "\n", encoding="utf-8")


def _member(kind: type[E], value: str, what: str) -> E:
    try:
        return kind(value)
    except ValueError:
        raise ModelError(f"unknown {what} {value!r}: choose from {', '.join(kind)}") from None

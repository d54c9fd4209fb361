"""`EncoderSpec`: everything besides the weights that influences a vector."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self

from .errors import InputError, ModelError
from .plain_values import misfit
from .spec_parts import (
    Activation,
    Attention,
    DenseSpec,
    ExampleSearch,
    ExampleSpec,
    LatentSpec,
    Pooling,
    PromptSpan,
    Rewrite,
    RouterSpec,
    SparseSpec,
    TextLimit,
    member,
)
from .template import Template, fill, parse

__all__ = [
    "PARTS",
    "SPEC_FILE",
    "Activation",
    "Attention",
    "DenseSpec",
    "EncoderSpec",
    "ExampleSearch",
    "ExampleSpec",
    "LatentSpec",
    "Pooling",
    "PromptSpan",
    "Rewrite",
    "RouterSpec",
    "SparseSpec",
    "TextLimit",
]

SPEC_FILE = "decant.json"
SPEC_FORMAT = 1
INSTRUCTION_SLOT = "{instruction}"
EXAMPLES_SLOT = "{examples}"
# The optional parts of a spec, which are descriptions of their own.
PARTS = {
    "text_limit": TextLimit,
    "latent": LatentSpec,
    "sparse": SparseSpec,
    "router": RouterSpec,
    "retrieved_examples": ExampleSpec,
}


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
        rewrite: what is done to a text before anything is put around it, see `Rewrite`.
        lowercase: whether texts are lower-cased before tokenisation.
        max_tokens: longest sequence, prompt and special tokens included.
        text_limit: a limit on the text alone, see `TextLimit`; None for none.
        latent: the latent attention block before mean pooling; None for none.
        sparse: the sparse head; None for none.
        router: the router vector of a mixture of experts; None for none.
        dense: linear layers behind the pooling.
        standardize: whether each dimension of the dense vector is standardised, with the mean and deviation stored
            beside the weights, before it is cut and normalised.
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
    retrieved_examples: ExampleSpec | None = None
    include_prompt: bool = True
    prompt_span: PromptSpan = PromptSpan.OFFSETS
    add_special_tokens: bool = True
    append_eos: bool = False
    rewrite: Rewrite = Rewrite.NONE
    lowercase: bool = False
    max_tokens: int = 512
    text_limit: TextLimit | None = None
    latent: LatentSpec | None = None
    sparse: SparseSpec | None = None
    router: RouterSpec | None = None
    dense: tuple[DenseSpec, ...] = ()
    standardize: bool = False
    normalize: bool = True
    dimensions: tuple[int, ...] = ()
    default_dimension: int | None = None

    def __post_init__(self) -> None:
        """Normalise strings to enums, freeze containers, refuse what makes no sense."""
        put = object.__setattr__
        put(self, "attention", member(Attention, self.attention, "attention"))
        put(self, "pooling", member(Pooling, self.pooling, "pooling"))
        put(self, "prompt_span", member(PromptSpan, self.prompt_span, "prompt span"))
        put(self, "rewrite", member(Rewrite, self.rewrite, "rewrite"))
        put(self, "prompts", MappingProxyType({"query": "", "document": "", **self.prompts}))
        put(self, "bare_prompts", MappingProxyType(dict(self.bare_prompts)))
        put(self, "dense", tuple(self.dense))
        put(self, "dimensions", tuple(sorted(set(self.dimensions), reverse=True)))
        if self.max_tokens < 1:
            raise ModelError(f"max_tokens must be at least 1, not {self.max_tokens}")
        self._check_prompts()
        if self.latent and self.pooling is not Pooling.MEAN:
            raise ModelError(f"latent attention averages its tokens: pooling must be mean, not {self.pooling}")
        if self.pooling is Pooling.NONE:
            self._check_no_vector()
        if any(width < 1 for width in self.dimensions):
            raise ModelError(f"Matryoshka dimensions must be positive, not {self.dimensions}")
        for before, after in zip(self.dense, self.dense[1:], strict=False):
            if before.out_features != after.in_features:
                raise ModelError(
                    f"a dense layer gives {before.out_features} features, the next one takes {after.in_features}"
                )

    def _check_no_vector(self) -> None:
        if not (self.sparse or self.router):
            raise ModelError("pooling=none leaves nothing to give out: add a sparse head or router vectors")
        for name in ("dense", "dimensions", "default_dimension", "standardize"):
            if getattr(self, name):
                raise ModelError(f"pooling=none makes no dense vector: leave {name} out")

    def _check_prompts(self) -> None:
        """Refuse bare prompts without a prompt, copies that would all be pooled, and examples without a place."""
        strange = self.bare_prompts.keys() - self.prompts.keys()
        if strange:
            raise ModelError(f"bare prompts for {', '.join(sorted(strange))}, which the prompts do not list")
        if self.retrieved_examples and not any(EXAMPLES_SLOT in pattern for pattern in self.prompts.values()):
            raise ModelError("examples are retrieved, but no prompt has a place for them: write {examples} in one")
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

    def retrieves(self, kind: str) -> bool:
        """Whether texts of this kind get examples found for them."""
        return self.retrieved_examples is not None and EXAMPLES_SLOT in self.prompts.get(kind, "")

    def prompt(self, kind: str, instruction: str | None) -> str:
        """Return what stands before the first copy of a text of this kind; errors as in `template`."""
        return self.template(kind, instruction).parts[0]

    def to_json(self) -> str:
        """Return the canonical JSON text of this spec: sorted keys, one format number."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        values["prompts"] = dict(self.prompts)
        values["bare_prompts"] = dict(self.bare_prompts)
        for name in PARTS:
            part = getattr(self, name)
            values[name] = asdict(part) if part else None
        values["dense"] = [asdict(layer) for layer in self.dense]
        return json.dumps({"format": SPEC_FORMAT, "spec": values}, indent=2, sort_keys=True, ensure_ascii=False)

    def identity(self) -> str:
        """Return what distinguishes this spec: the fields that differ from their defaults, as canonical JSON.

        A field that a later version adds leaves it as it was, and with it the fingerprint of every store.
        """
        plain: dict[str, Any] = json.loads(type(self)().to_json())["spec"]
        own: dict[str, Any] = json.loads(self.to_json())["spec"]
        for name, kind in PARTS.items():
            if own[name]:
                known = {part.name: part.default for part in fields(kind)}
                differing = {key: value for key, value in own[name].items() if value != known[key]}
                # What an index holds says nothing about the vectors.
                own[name] = {key: value for key, value in differing.items() if key != "on_request"}
        return json.dumps({key: value for key, value in own.items() if value != plain[key]}, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read what `to_json` wrote.

        Raises:
            ModelError: if the text is not such JSON, naming the key that this version does not know or cannot take.
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
        if wrong := misfit(cls, values):
            raise ModelError(f"{SPEC_FILE}: {wrong}")
        values["dense"] = tuple(DenseSpec(**layer) for layer in values.get("dense", ()))
        for name, kind in PARTS.items():
            values[name] = None if values.get(name) is None else kind(**values[name])
        return cls(**values)

    def save(self, folder: Path) -> None:
        """Write `decant.json` into `folder`."""
        (folder / SPEC_FILE).write_text(self.to_json() + "\n", encoding="utf-8")

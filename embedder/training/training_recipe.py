"""What one training is: a model, its data, objectives, optimiser. Read from YAML; checked before anything is loaded."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal, get_args

from .settings import Count, CountOrNone, NotNegative, Positive, Range

# Two texts at least are contrasted.
Texts = Annotated[int, Range(low=2)]
# Special tokens, and a few words to predict from one another.
Window = Annotated[int, Range(low=8)]
# With 0 nothing would be hidden, with 1 nothing be left to read.
Part = Annotated[float, Range(above=0, high=0.99)]


@dataclass(frozen=True)
class DecoderSettings:
    """A decoder from scratch.

    Attributes:
        architecture: a causal language model of transformers, by its model type (`llama`, `olmoe`, ...).
        tokenizer: folder with tokenizer.json; sets vocabulary and special tokens.
        config: keys of that architecture's configuration.
        experts_of: a trained Llama whose feed-forward neurons become the experts of a `qwen2_moe`, all else taken over.
    """

    architecture: str
    tokenizer: str
    config: dict[str, Any] = field(default_factory=dict[str, Any])
    experts_of: str = ""


@dataclass(frozen=True)
class LoraSettings:
    """Low-rank adapters in place of full fine-tuning (peft); what stands behind the backbone is trained whole."""

    rank: Count = 16
    alpha: Count = 32
    dropout: Annotated[float, Range(low=0, high=0.99)] = 0.05
    targets: list[str] | None = None
    """Names of the linear layers; None for all of them."""


@dataclass(frozen=True)
class DataSettings:
    """One data set: JSON lines, plain or gzipped, or the pairs.parquet of a pairs step, without what it held out.

    Attributes:
        files: paths; `$NAME` stands for an environment variable, `$RUN` for the folder of the run.
        kind: `pairs` (query, positive, negatives) or `texts` (text).
        limit: most records taken, from the first.
        query, positive, negatives, text: names of the fields.
        instruction: fills the query prompt's slot, where it has one.
        query_kind: the encoder's prompt for queries.
        passage_kind: the encoder's prompt for positives and negatives; the queries' where both sides are alike.
        weight: how often it is drawn, relative to the others; None for its number of records to the power 0.75.
    """

    files: list[str]
    kind: Literal["pairs", "texts"] = "pairs"
    limit: Count | None = None
    query: str = "query"
    positive: str = "positive"
    negatives: str = "negatives"
    text: str = "text"
    instruction: str | None = None
    query_kind: str = "query"
    passage_kind: str = "document"
    weight: Positive | None = None


@dataclass(frozen=True, kw_only=True)
class ObjectiveSettings:
    """What all objectives share.

    Attributes:
        data: names of data sets; None for all of the objective's kind.
        weight: factor on the loss.
        turns: steps in a row where the recipe alternates its objectives.
    """

    kind: ClassVar[str]
    wants: ClassVar[str] = "texts"
    embeds: ClassVar[bool] = False

    data: list[str] | None = None
    weight: Positive = 1.0
    turns: Count = 1


@dataclass(frozen=True, kw_only=True)
class ClmSettings(ObjectiveSettings):
    """Next-token prediction with causal attention; with `mask_share` above 0, MEAP (arXiv 2502.07490).

    `router_balance` weighs a mixture of experts' load-balancing loss.
    """

    kind: ClassVar[str] = "clm"
    batch_tokens: Count = 4096
    max_tokens: Window = 256
    mask_share: Annotated[float, Range(low=0, high=0.99)] = 0.0
    mask_token: Literal["blank", "mask", "eos", "add"] = "mask"
    router_balance: NotNegative = 0.01


@dataclass(frozen=True, kw_only=True)
class MntpSettings(ObjectiveSettings):
    """Masked next-token prediction (LLM2Vec, arXiv 2404.05961): position i - 1 predicts the masked token i.

    `mask_token`: `blank` is the existing token "_", `add` a new token "<mask>", `mask` and `eos` the tokenizer's own.
    `corruption`: `bert` puts the mask token in 80 % of the places, a random token in 10 %, nothing in 10 %; `mask`
    puts the mask token in all of them.
    """

    kind: ClassVar[str] = "mntp"
    batch_tokens: Count = 4096
    max_tokens: Window = 256
    mask_share: Annotated[float, Range(above=0, high=1)] = 0.2
    mask_token: Literal["blank", "mask", "eos", "add"] = "blank"
    corruption: Literal["bert", "mask"] = "bert"


@dataclass(frozen=True, kw_only=True)
class InfillSettings(ObjectiveSettings):
    """Generation of missing spans under MAGNET's hybrid mask (arXiv 2501.08648).

    `span_share` and `span_tokens` (mean length) are this project's choice; the paper's were not verified.
    """

    kind: ClassVar[str] = "infill"
    batch_tokens: Count = 4096
    max_tokens: Window = 256
    span_share: Part = 0.15
    span_tokens: Count = 5


@dataclass(frozen=True, kw_only=True)
class SimcseSettings(ObjectiveSettings):
    """Each text with itself under two dropout masks (SimCSE, arXiv 2104.08821)."""

    kind: ClassVar[str] = "simcse"
    embeds: ClassVar[bool] = True
    batch_texts: Texts = 128
    max_tokens: Window = 128
    dropout: Part = 0.3
    temperature: Positive = 0.05
    chunk_tokens: Count = 8192


@dataclass(frozen=True, kw_only=True)
class PairSettings(ObjectiveSettings):
    """What objectives on pairs share.

    Attributes:
        batch_pairs: pairs of one step.
        negatives: hard negatives of each pair, where its record has them.
        query_tokens: longest query, prompt included.
        passage_tokens: longest positive or negative, prompt included.
        blended: whether one batch mixes the data sets; else it is drawn from one of them.
        chunk_tokens: most tokens of one forward; a bigger batch goes through in chunks, with the same gradient.
    """

    wants: ClassVar[str] = "pairs"
    embeds: ClassVar[bool] = True
    batch_pairs: Count = 128
    negatives: CountOrNone = 0
    query_tokens: Count = 64
    passage_tokens: Count = 256
    blended: bool = False
    chunk_tokens: Count = 8192


@dataclass(frozen=True, kw_only=True)
class ContrastiveSettings(PairSettings):
    """InfoNCE over positives and hard negatives; `in_batch_negatives: false` is NV-Embed's second stage."""

    kind: ClassVar[str] = "contrastive"
    temperature: Positive = 0.05
    in_batch_negatives: bool = True
    symmetric: bool = False


@dataclass(frozen=True, kw_only=True)
class DistilSettings(PairSettings):
    """The vectors and in-batch scores of a sentence-transformers folder."""

    kind: ClassVar[str] = "distil"
    teacher: str
    cosine_weight: NotNegative = 1.0
    mse_weight: NotNegative = 1.0
    scores_weight: NotNegative = 1.0
    temperature: Positive = 0.05
    teacher_tokens: Count = 256


@dataclass(frozen=True, kw_only=True)
class SpladeSettings(PairSettings):
    """Contrast of term weights with FLOPS regularisers, whose weights rise quadratically (arXiv 2109.10086)."""

    kind: ClassVar[str] = "splade"
    temperature: Positive = 1.0
    in_batch_negatives: bool = True
    query_flops: NotNegative = 0.002
    passage_flops: NotNegative = 0.006
    flops_warmup_steps: CountOrNone = 300


Objective = (
    ClmSettings | MntpSettings | InfillSettings | SimcseSettings | ContrastiveSettings | DistilSettings | SpladeSettings
)


@dataclass(frozen=True)
class TrainRecipe:
    """One training of one model.

    Attributes:
        model: folder or hub name of a decoder or encoder; `decoder` instead makes one from scratch.
        encoder: changes to its `EncoderSpec` (attention, pooling, prompts, latent, sparse, ...).
        data: data sets by name.
        objectives: each adds its weighted loss to every step, or has its turns where `alternate` is set.
        alternate: whether objectives take turns (AntLM, arXiv 2412.03275).
        lora: adapters in place of full fine-tuning.
        examples: .jsonl of query and positive, saved with an encoder that retrieves examples for its queries (RARe);
            training queries get theirs as well.
        dims: Matryoshka widths every embedding objective is averaged over, besides the full width.
        freeze_embeddings: whether the table of token embeddings stays as it is.
        dtype: what a forward multiplies in; weights and optimiser are float32.
        saved_dtype: number format of the saved weights.
    """

    step: ClassVar[str] = "train"
    model: str = ""
    decoder: DecoderSettings | None = None
    encoder: dict[str, Any] = field(default_factory=dict[str, Any])
    data: dict[str, DataSettings] = field(default_factory=dict[str, DataSettings])
    objectives: list[Objective] = field(default_factory=list[Objective])
    alternate: bool = False
    lora: LoraSettings | None = None
    examples: str | None = None
    dims: list[Count] = field(default_factory=list[int])
    freeze_embeddings: bool = False
    steps: Count = 1000
    learning_rate: Positive = 2e-4
    warmup_steps: CountOrNone = 50
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    weight_decay: NotNegative = 0.0
    max_grad_norm: Positive = 1.0
    checkpoint_steps: Count = 100
    seed: CountOrNone = 0
    dtype: Literal["float32", "bfloat16"] = "float32"
    saved_dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    gradient_checkpointing: bool = False

    def __post_init__(self) -> None:
        """Refuse what contradicts itself; `settings.build` puts the file's name before the message."""
        if bool(self.model) == (self.decoder is not None):
            raise ValueError("model: name one, or describe a `decoder` from scratch")
        if not self.objectives:
            raise ValueError(f"objectives: there is none; choose from {', '.join(o.kind for o in get_args(Objective))}")
        for number, objective in enumerate(self.objectives):
            self._check_data(objective, f"objectives[{number}]")

    def names_of(self, objective: ObjectiveSettings) -> list[str]:
        """The data sets an objective draws from."""
        if objective.data is not None:
            return objective.data
        return [name for name, data in self.data.items() if data.kind == objective.wants]

    def _check_data(self, objective: ObjectiveSettings, where: str) -> None:
        for name in objective.data or []:
            if name not in self.data:
                raise ValueError(
                    f"{where}.data: {name!r} is not among the data sets {', '.join(self.data) or '(none)'}"
                )
            if objective.wants == "pairs" and self.data[name].kind == "texts":
                raise ValueError(f"{where}.data: {objective.kind} takes pairs, and {name!r} holds texts")
        if not self.names_of(objective):
            raise ValueError(f"{where}: {objective.kind} takes {objective.wants}, and no data set holds them")

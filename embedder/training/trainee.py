"""The model that is trained: an encoder whose weights move, and the language-model head of the decoder it came from."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from ...kernels.attention import PackedLayout, register
from ..encoder import Encoder
from ..errors import ModelError
from ..formats.folder import LM_HEAD_FOLDER
from ..lm_head import LmHead
from ..sparse import SparseHead
from ..spec import EncoderSpec
from ..tokenization import TextTokenizer
from .hybrid import register_training
from .packed_texts import PackedTexts
from .settings import RecipeError
from .training_recipe import LoraSettings

# Tokens whose logits exist at once in a language-model loss; with 128k terms they take 512 MiB in float32.
_LOGIT_TOKENS = 1024

log = logging.getLogger(__name__)


class Trainee(nn.Module):
    """An `Encoder` in training.

    Attributes:
        encoder: the encoder; its weights are this module's.
        tokenizer: its tokenizer.
        lm_head: the language-model head, or None where no objective needs it.
    """

    def __init__(
        self, encoder: Encoder, lm_head: LmHead | None, *, bfloat16: bool = False, lora: LoraSettings | None = None
    ) -> None:
        """Makes weights trainable: all, or adapters on the backbone and everything behind it."""
        super().__init__()
        self.encoder, self.lm_head, self._bfloat16 = encoder, lm_head, bfloat16
        model = encoder.backbone.model.requires_grad_(True)
        model.set_attn_implementation(register_training())
        self.peft: PeftModel | None = None
        if lora is not None:
            self.peft = _add_lora(model, lora)
        self.model = model
        self.head = encoder.head.requires_grad_(True)
        if lm_head is not None and not lm_head.tied and lora is None:
            self.lm_weight = nn.Parameter(lm_head.weight)
            self.lm_head = replace(lm_head, weight=self.lm_weight)
        self.sparse = _sparse_head(encoder, self.lm_head)
        self.projections = nn.ModuleDict()

    @property
    def spec(self) -> EncoderSpec:
        """The encoder's description."""
        return self.encoder.spec

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.encoder.backbone.device

    def text_tokenizer(self, max_tokens: int) -> TextTokenizer:
        """The encoder's tokenizer with a limit of its own."""
        limit = min(max_tokens, self.spec.max_tokens)
        return TextTokenizer(self.encoder.text_tokenizer.source, replace(self.spec, max_tokens=limit))

    def set_dropout(self, share: float, field: str) -> None:
        """Sets the attention dropout of every layer, which acts in training only.

        Raises:
            RecipeError: the architecture has none, and neither have the adapters.
        """
        found = [module for module in self.model.modules() if hasattr(module, "attention_dropout")]
        if not found:
            raise RecipeError(
                f"{field}: {self.model.config.model_type} has no attention dropout: use another objective"
            )
        for module in found:
            module.attention_dropout = share  # type: ignore[assignment]

    def add_projection(self, name: str, width: int, seed: int) -> nn.Module:
        """A trained map of vectors (texts, D) to `width` columns; it is left behind when the encoder is saved."""
        layer = nn.Linear(self.head.full_width, width, bias=False)
        # Drawn on the CPU: the same on any device.
        nn.init.orthogonal_(layer.weight, generator=torch.Generator().manual_seed(seed))
        self.projections[name] = layer.to(self.device)
        return layer

    def hidden(self, texts: PackedTexts, layout: PackedLayout) -> Tensor:
        """Last hidden states, (total_tokens, H), of a packed batch; `layout` may be a `HybridLayout`."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self._bfloat16):
            return self.encoder.backbone(texts.input_ids, layout)

    def hidden_and_routes(self, texts: PackedTexts, layout: PackedLayout) -> tuple[Tensor, tuple[Tensor, ...]]:
        """As `hidden`, and the router logits of each mixture-of-experts layer, (total_tokens, experts)."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self._bfloat16):
            output = self.model(
                input_ids=texts.input_ids[None],
                position_ids=layout.position_ids()[None],
                use_cache=False,
                output_router_logits=True,
                packed=layout,
            )
        return output.last_hidden_state[0], output.router_logits

    def vectors(self, texts: PackedTexts) -> Tensor:
        """Full-width vectors, (texts, D) float32, not normalised, in the order that was asked for."""
        layout = texts.layout(causal=self._causal)
        hidden = self.hidden(texts, layout).float()
        return self.head(hidden, layout, texts.keep(layout), self.head.full_width, normalize=False)[texts.restore]

    def term_weights(self, texts: PackedTexts) -> Tensor:
        """Sparse rows, (texts, V) float32, in the order that was asked for.

        Raises:
            ModelError: the encoder has no sparse head.
        """
        if self.sparse is None:
            raise ModelError("the encoder has no sparse head: set `sparse` under encoder")
        layout = texts.layout(causal=self._causal)
        hidden = self.hidden(texts, layout).float()
        return self.sparse.weights(hidden, texts.input_ids, layout, texts.keep(layout))[texts.restore]

    def token_loss(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """Mean cross-entropy of `targets` (tokens,) under the logits of `hidden` (tokens, H), a part at a time."""
        head = self.lm_head
        if head is None:
            raise ModelError("the model has no language-model head")

        def part(states: Tensor, wanted: Tensor) -> Tensor:
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self._bfloat16):
                logits = F.linear(head.states(states), head.weight, head.bias)
            return F.cross_entropy(head.adjust(logits.float()), wanted, reduction="sum")

        pairs = list(zip(hidden.split(_LOGIT_TOKENS), targets.split(_LOGIT_TOKENS), strict=True))
        if len(pairs) == 1:
            return part(hidden, targets) / len(targets)
        sums = [cast(Tensor, checkpoint(part, *pair, use_reentrant=False)) for pair in pairs]
        return torch.stack(sums).sum() / len(targets)

    def save(self, folder: Path, dtype: torch.dtype = torch.float32) -> None:
        """Writes the encoder folder in a number format, adapters merged; the adapter goes beside it into `adapter/`."""
        if self.peft is not None:
            self.peft.save_pretrained(str(folder.with_name("adapter")))
            self.peft.merge_and_unload(safe_merge=True)
            self.peft = None
        self.model.set_attn_implementation(register())
        self.eval()
        cast(nn.Module, self.model).to(dtype)
        self.encoder.save(folder)
        if self.lm_head is not None and not self.lm_head.tied:
            self.lm_head.save(folder / LM_HEAD_FOLDER)

    @property
    def _causal(self) -> bool:
        return self.spec.attention == "causal"


def load_lm_head(encoder: Encoder, folder: Path) -> LmHead:
    """The language-model head of the folder an encoder was loaded from, as wide as its table of embeddings.

    Tokens that were added after the head was saved get the mean of its rows.
    """
    own = folder / LM_HEAD_FOLDER
    head = LmHead.load(own if own.is_dir() else folder, encoder.backbone)
    missing = encoder.backbone.embedding_rows - head.weight.shape[0]
    if missing <= 0:
        return head
    rows = head.weight.mean(0, keepdim=True).expand(missing, -1)
    bias = head.bias if head.bias is None else torch.cat([head.bias, head.bias.mean().expand(missing)])
    return replace(head, weight=torch.cat([head.weight, rows]), bias=bias)


def grouped_parameters(trainee: Trainee, learning_rate: float, weight_decay: float) -> list[dict[str, object]]:
    """AdamW groups: matrices decay, vectors do not."""
    parameters = list(_once(p for p in trainee.parameters() if p.requires_grad))
    return [
        {"params": [p for p in parameters if p.dim() > 1], "lr": learning_rate, "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.dim() <= 1], "lr": learning_rate, "weight_decay": 0.0},
    ]


def _once(parameters: Iterator[nn.Parameter]) -> Sequence[nn.Parameter]:
    return list({id(parameter): parameter for parameter in parameters}.values())


def _sparse_head(encoder: Encoder, lm_head: LmHead | None) -> SparseHead | None:
    if encoder.spec.sparse is None or lm_head is None:
        return encoder.sparse_head
    tokenizer = encoder.text_tokenizer
    head = SparseHead(encoder.spec.sparse, lm_head, tokenizer.source.all_special_ids, tokenizer.vocabulary_size)
    encoder.sparse_head = head
    return head


def _add_lora(model: Any, settings: LoraSettings) -> PeftModel:
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=settings.targets or "all-linear",
        bias="none",
    )
    try:
        with warnings.catch_warnings():
            # PEFT asks transformers for something by a name that is going away; a user can do nothing about it.
            warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
            return cast(PeftModel, get_peft_model(model, config))
    except ValueError as error:
        raise RecipeError(f"lora.targets: {str(error).splitlines()[0]}") from error

"""What sentence-transformers meets in a folder that its own modules cannot compute: Decant behind its interface.

It takes `trust_remote_code=True`, for the class is Decant's, and Decant installed; no code of the folder is run.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import torch
from sentence_transformers.base.modules import InputModule
from torch import Tensor

from ..embeddings import Embeddings
from ..encoder import Encoder
from ..errors import InputError, ModelError
from ..tokenization import TokenizedTexts


class DecantModule(InputModule):
    """The whole encoder as one module; what it gives are `Encoder.encode`'s vectors, and cannot be trained.

    The name of a prompt is the kind of text. What the prompt says is put around the text here, because it may stand
    behind the text as well, or hold examples.

    Attributes:
        encoder: the encoder.
        tokenizer: its tokenizer.
        model: its backbone, so that the module is moved with it.
        head: what stands behind the backbone.
    """

    def __init__(self, encoder: Encoder) -> None:
        """Show a loaded encoder to sentence-transformers."""
        super().__init__()
        self.encoder, self.tokenizer = encoder, encoder.text_tokenizer.source
        self.model, self.head = encoder.backbone.model, encoder.head

    @classmethod
    def load(  # type: ignore[override]
        cls, model_name_or_path: str, *, model_kwargs: dict[str, Any] | None = None, **_: Any
    ) -> Self:
        """Load the folder with Decant and prove its invariants; `dtype` of `model_kwargs` is `Encoder.load`'s.

        Raises:
            ModelError: as `Encoder.load`, or for an encoder without a dense vector.
        """
        options = model_kwargs or {}
        encoder = Encoder.load(model_name_or_path, dtype=options.get("dtype", options.get("torch_dtype")))
        if "dense" not in encoder.outputs:
            raise ModelError(
                f"{model_name_or_path} gives {' and '.join(encoder.outputs)} vectors, which sentence-transformers "
                "cannot express: load it with decant.embedder.Encoder.load"
            )
        return cls(encoder)

    @property
    def max_seq_length(self) -> int:
        """Longest text, prompt and special tokens included."""
        return self.encoder.max_tokens

    def get_embedding_dimension(self) -> int:
        """Width of the vectors."""
        return self.encoder.dimension

    def preprocess(
        self, inputs: Sequence[Any], prompt: str | None = None, task: str | None = None, **_: Any
    ) -> dict[str, Any]:
        """Tokenise texts with everything that stands around them.

        Raises:
            InputError: as `Encoder.encode`, or for a prompt that is not one of the encoder's, by name.
        """
        kinds = self.encoder.spec.prompts
        kind = prompt or (task if task in kinds else None) or "document"
        if kind not in kinds:
            raise InputError(
                f"this encoder puts its own prompts around texts: give prompt_name, one of {', '.join(kinds)}"
            )
        return {"tokenized": self.encoder.tokenize(list(inputs), kind)}

    def forward(self, features: dict[str, Any], **_: Any) -> dict[str, Any]:
        """Add `sentence_embedding`, (texts, D) float32.

        Raises:
            ModelError: in a training.
        """
        if self.training and torch.is_grad_enabled():
            raise ModelError("sentence-transformers cannot train this encoder: use decant train")
        tokenized: TokenizedTexts = features["tokenized"]
        made: Embeddings = self.encoder.represent(tokenized)
        assert made.dense is not None
        vectors: Tensor = torch.from_numpy(made.dense).to(self.encoder.backbone.device)
        return {**features, "sentence_embedding": vectors}

    def save(self, output_path: str, *_: Any, **__: Any) -> None:
        """Copy the folder the encoder came from; sentence-transformers writes its own two files over the copies."""
        shutil.copytree(self.encoder.path, Path(output_path), dirs_exist_ok=True)

"""`TokenEncoder`: token ids in, vectors out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from .backbone import Backbone
from .calibration import Calibration
from .embeddings import Embeddings
from .errors import InputError
from .formats.folder import ModelFiles
from .forwards import represent
from .head import Head
from .lm_head import LmHead
from .router import RouterHead
from .sparse import SparseHead
from .spec import EncoderSpec, Pooling
from .tokenization import TextTokenizer, TokenizedTexts

# Measured with decant-mini on one core: 2,048 to 8,192 tokens are alike, 1,024 and 16,384 are a tenth slower.
BATCH_TOKENS_CPU = 4096
BATCH_TOKENS_GPU = 32768


class TokenEncoder:
    """A backbone and the heads that its spec asks for; safe to share between threads.

    Attributes:
        spec: everything besides the weights that influences a vector.
        backbone: turns token ids into hidden states.
        text_tokenizer: whose ids it takes.
        calibrations: what the spec standardises by, by the names of `outputs`.
        head: makes the dense vector.
        sparse_head: weighs the vocabulary's terms; None where the spec has none.
        router_head: reads the routers; None where the spec has none.
    """

    def __init__(
        self,
        files: ModelFiles,
        backbone: Backbone,
        tokenizer: TextTokenizer,
        calibrations: Mapping[str, Calibration],
    ) -> None:
        """Put the heads on a loaded backbone.

        Raises:
            ModelError: if a head's weights are missing or do not fit.
        """
        spec: EncoderSpec = files.spec
        self.spec = spec
        self.backbone = backbone
        self.text_tokenizer = tokenizer
        self.calibrations = dict(calibrations)
        self.head = Head(spec, backbone.hidden_size)
        self.head.load_dense(files.dense)
        self.head.load_latent(files.latent, backbone.dtype)
        self.head.load_calibration(calibrations.get("dense"))
        self.head.to(backbone.device).eval().requires_grad_(False)
        self.sparse_head: SparseHead | None = None
        if spec.sparse:
            lm_head = LmHead.load(files.lm_head or files.backbone, backbone)
            special = tokenizer.source.all_special_ids
            self.sparse_head = SparseHead(spec.sparse, lm_head, special, tokenizer.vocabulary_size)
        self.router_head = RouterHead(spec.router, backbone, calibrations.get("router")) if spec.router else None

    @property
    def outputs(self) -> tuple[str, ...]:
        """The representations this model offers: some of `dense`, `sparse` and `router`."""
        offered = {
            "dense": self.spec.pooling is not Pooling.NONE,
            "sparse": self.sparse_head is not None,
            "router": self.router_head is not None,
        }
        return tuple(name for name, there in offered.items() if there)

    @property
    def indexed_outputs(self) -> tuple[str, ...]:
        """Those of `outputs` that an index holds where nothing else is asked for."""
        apart = self.spec.sparse is not None and self.spec.sparse.on_request
        return tuple(name for name in self.outputs if not (apart and name == "sparse"))

    @property
    def dimension(self) -> int:
        """Width of a dense vector when none is asked for; 0 where the model makes none."""
        return self.head.width(None)

    @property
    def max_tokens(self) -> int:
        """Longest text, prompt and special tokens included."""
        return self.spec.max_tokens

    @property
    def batch_tokens(self) -> int:
        """Token budget of one forward where none is asked for."""
        return BATCH_TOKENS_GPU if self.backbone.device.type == "cuda" else BATCH_TOKENS_CPU

    def represent(
        self,
        tokenized: TokenizedTexts,
        outputs: Sequence[str] = ("dense",),
        *,
        dimensions: int | None = None,
        batch_tokens: int | None = None,
        normalize: bool | None = None,
    ) -> Embeddings:
        """Turn token ids into every representation asked for, from one forward; row i from `tokenized.ids[i]`.

        Args:
            tokenized: N texts.
            outputs: some of `outputs`.
            dimensions: as in `Encoder.encode`.
            batch_tokens: as in `Encoder.encode`.
            normalize: overrules what the spec says of dense vectors.

        Raises:
            InputError: for an output the model does not offer.
        """
        self.refuse_missing(outputs)
        return represent(
            self, tokenized, outputs, dimensions=dimensions, batch_tokens=batch_tokens, normalize=normalize
        )

    def encode_tokens(
        self,
        tokenized: TokenizedTexts,
        *,
        dimensions: int | None = None,
        batch_tokens: int | None = None,
        normalize: bool | None = None,
    ) -> NDArray[np.float32]:
        """Turn token ids into dense vectors, (N, D) float32; arguments as in `represent`."""
        result = self.represent(tokenized, dimensions=dimensions, batch_tokens=batch_tokens, normalize=normalize)
        assert result.dense is not None
        return result.dense

    def refuse_missing(self, outputs: Sequence[str]) -> None:
        """Raise InputError for representations that the model does not offer, or none at all."""
        offered = self.outputs
        if not outputs or set(outputs) - set(offered):
            wanted = ", ".join(sorted(set(outputs) - set(offered))) or "nothing"
            raise InputError(f"this model offers {' and '.join(offered)} vectors, not {wanted}")

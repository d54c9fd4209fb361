"""Router vectors: how a text is spread over the experts of a mixture-of-experts decoder (MoEE, arXiv 2410.10814)."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel
from transformers.utils.output_capturing import OutputRecorder

from ..kernels.attention import PackedLayout
from ..kernels.pooling import pool_edge, pool_mean
from .backbone import Backbone
from .calibration import Calibration
from .errors import ModelError, UnsupportedModelError
from .model_config import model_type
from .spec import Pooling, RouterSpec

_OUTPUT = "router_logits"


class RouterHead:
    """Listens to the routers while the backbone runs, and makes one vector per text of what they said.

    A router's weight of an expert is the softmax of its logits over all experts, before any are chosen; also where the
    model itself weighs them otherwise (DeepSeek-V3's sigmoid, grouped or biased choice), so that a layer's weights add
    up to one in every family.

    Attributes:
        experts: R, experts summed over the layers that have routers.
    """

    def __init__(self, spec: RouterSpec, backbone: Backbone, calibration: Calibration | None) -> None:
        """Find the routers, and run one token through the model to see that they speak.

        Raises:
            UnsupportedModelError: if the model has none.
            ModelError: if the calibration is missing or not of this model.
        """
        self._spec = spec
        self._heard: ContextVar[list[list[Tensor]] | None] = ContextVar("router logits", default=None)
        gates = router_modules(backbone.model)
        for number, (module, index) in enumerate(gates):
            module.register_forward_hook(self._listener(number, index))
        with torch.inference_mode(), self.listening(len(gates)) as heard:
            backbone(torch.zeros(1, dtype=torch.long, device=backbone.device), backbone.layout([1]))
        if not gates or not all(heard):
            raise UnsupportedModelError(
                f"{model_type(backbone.config)} has no routers to listen to: router vectors need a mixture of experts"
            )
        self._gates = len(gates)
        self.experts = sum(int(parts[0].shape[-1]) for parts in heard)
        if spec.calibrated and calibration is None:
            raise ModelError("the spec's router is calibrated, the folder has no calibration: run decant convert again")
        if calibration is not None and len(calibration.mean) != self.experts:
            raise ModelError(
                f"the router calibration is of {len(calibration.mean)} experts, the model has {self.experts}"
            )
        self.calibration = calibration if spec.calibrated else None

    @contextmanager
    def listening(self, gates: int | None = None) -> Generator[list[list[Tensor]]]:
        """Yield what the routers say inside the block: per router, the (tokens, experts) logits of each forward.

        A list of this thread's own, so that encoders may share a model between threads.
        """
        heard: list[list[Tensor]] = [[] for _ in range(self._gates if gates is None else gates)]
        token = self._heard.set(heard)
        try:
            yield heard
        finally:
            self._heard.reset(token)

    def _listener(self, number: int, index: int) -> Any:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            if (heard := self._heard.get()) is not None:
                logits: Tensor = output[index] if isinstance(output, tuple) else output
                heard[number].append(logits.reshape(-1, logits.shape[-1]))

        return hook

    def __call__(
        self, heard: list[list[Tensor]], layout: PackedLayout, keep: Tensor | None, *, raw: bool = False
    ) -> Tensor:
        """Make router vectors, differentiable.

        Args:
            heard: what `listening` gave for this batch.
            layout: where each text lies.
            keep: (total_tokens,) bool, the pooled tokens; None for all.
            raw: leave calibration and normalisation out.

        Returns:
            (batch, R) float32.
        """
        # The backbone may have computed more rows than there are tokens; they are the last.
        logits = [torch.cat(parts)[: layout.total_tokens].float() for parts in heard]
        layers = [functional.softmax(part, dim=-1) for part in logits]
        if self._spec.pooling is Pooling.MEAN:
            vectors = torch.cat([pool_mean(layer, layout, keep) for layer in layers], dim=-1)
        else:
            vectors = torch.cat([pool_edge(layer, layout, keep, last=True) for layer in layers], dim=-1)
        if raw:
            return vectors
        if self.calibration:
            vectors = self.calibration.apply(vectors)
        return functional.normalize(vectors, dim=-1) if self._spec.normalize else vectors


def router_modules(model: PreTrainedModel) -> list[tuple[nn.Module, int]]:
    """Return each router in the order of layers, and where its output holds the logits; transformers names both."""
    found: list[tuple[nn.Module, int]] = []
    for part in model.modules():
        declared = getattr(type(part), "_can_record_outputs", None) or {}
        if not isinstance(part, PreTrainedModel) or _OUTPUT not in declared:
            continue
        wanted = declared[_OUTPUT] if isinstance(declared[_OUTPUT], list) else [declared[_OUTPUT]]
        recorders = [r if isinstance(r, OutputRecorder) else OutputRecorder(r, index=1) for r in wanted]
        known = {id(module) for module, _ in found}
        for name, module in part.named_modules():
            for recorder in recorders:
                fits = isinstance(module, recorder.target_class) if recorder.target_class else False
                placed = recorder.layer_name is None or f".{recorder.layer_name}." in f".{name}."
                if fits and placed and id(module) not in known:
                    found.append((module, recorder.index))
    return found

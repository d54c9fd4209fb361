"""The same experts for the same tokens in two computations, so that what else differs between them can be measured.

In half precision a token that two experts suit almost equally goes to one or the other by how its state was rounded.
Both are right, and then its states differ by more than any bound that would still tell a fault.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from .router import router_modules

Said = list[tuple[nn.Module, list[tuple[Tensor, ...]]]]
"""Each router, and what it said in each of its forwards: tensors of one row per token."""


@contextmanager
def recorded(model: PreTrainedModel) -> Generator[Said]:
    """Yield what the routers say inside the block; empty for a model without experts."""
    said: Said = [(module, []) for module, _ in router_modules(model)]
    with ExitStack() as hooks:
        for module, forwards in said:

            def listen(_module: nn.Module, _inputs: Any, output: Any, forwards: Any = forwards) -> None:
                forwards.append(_parts(output))

            hooks.enter_context(module.register_forward_hook(listen))
        yield said


@contextmanager
def repeated(said: Said) -> Generator[None]:
    """Let the routers say it again inside the block, for the same tokens in the same order, in forwards of any size.

    A router that does not speak token by token says what it would.
    """
    with ExitStack() as hooks:
        for module, forwards in said:
            if forwards and all(_by_token(parts) for parts in forwards):
                hooks.enter_context(module.register_forward_hook(_Again(forwards)))
        yield


class _Again:
    def __init__(self, forwards: list[tuple[Tensor, ...]]) -> None:
        self._said = [torch.cat([_rows(part) for part in parts]) for parts in zip(*forwards, strict=True)]
        self._next = 0

    def __call__(self, _module: nn.Module, _inputs: Any, output: Any) -> Any:
        parts = _parts(output)
        tokens = slice(self._next, self._next + len(_rows(parts[0])))
        self._next = tokens.stop
        again = [said[tokens].view_as(part) for said, part in zip(self._said, parts, strict=True)]
        return tuple(again) if isinstance(output, tuple) else again[0]


def _parts(output: Any) -> tuple[Any, ...]:
    return output if isinstance(output, tuple) else (output,)


def _by_token(parts: tuple[Any, ...]) -> bool:
    return all(isinstance(part, Tensor) and part.dim() > 1 for part in parts) and (
        len({len(_rows(part)) for part in parts}) == 1
    )


def _rows(part: Tensor) -> Tensor:
    return part.flatten(0, -2)

"""An accelerator that is not there: tensors in the CPU's memory that say they are elsewhere.

What a GPU would refuse fails here too: a tensor beside one of another device, or a `.numpy()` of its memory.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

# A kind that neither Triton nor pinned memory is asked for, and autocast knows.
NAME = "xpu"

# What takes tensors of two devices: copies, and rows looked up by an index on the host.
_MIXING = {
    Tensor.copy_, Tensor.to, Tensor.__getitem__, Tensor.__setitem__, Tensor.is_set_to, Tensor.data.__set__,
    torch._has_compatible_shallow_copy_type,
}  # fmt: skip


class Elsewhere(Tensor):
    """A tensor of the pretended device."""

    __torch_function__ = torch._C._disabled_torch_function_impl

    def __reduce_ex__(self, protocol: Any) -> Any:
        return _here(self).__reduce_ex__(protocol)


class Pretended(TorchFunctionMode):
    """Inside the block there is such a device.

    Attributes:
        products: kinds of device that matrices were multiplied on.
    """

    def __init__(self) -> None:
        super().__init__()
        self.products: set[str] = set()

    def __enter__(self) -> Any:
        # Else modules would keep their weights' objects and change only what is in them.
        torch.__future__.set_overwrite_module_params_on_conversion(True)
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        torch.__future__.set_overwrite_module_params_on_conversion(False)
        super().__exit__(*error)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        away = [one for one in tensors if isinstance(one, Elsewhere)]
        name = getattr(func, "__name__", "")
        if func == Tensor.device.__get__:
            return torch.device(NAME) if away else func(*args, **kwargs)
        if func == Tensor.is_cpu.__get__:
            return not away
        if func is Tensor.cpu:
            return _here(args[0])
        if func is Tensor.numpy and away:
            raise TypeError(f"can't convert {NAME} tensor to numpy")
        if away and func not in _MIXING:
            strangers = [one for one in tensors if not isinstance(one, Elsewhere) and one.dim()]
            if strangers:
                raise RuntimeError(f"{name}: tensors on {NAME} and cpu, {[tuple(one.shape) for one in strangers]}")
        if name in ("linear", "matmul", "__matmul__"):
            self.products.add(NAME if away else "cpu")
        sent, args, kwargs = _destination(func, args, kwargs)
        found = func(*args, **kwargs)
        if sent is None:
            sent = isinstance(args[0], Elsewhere) if func in _MIXING and args else bool(away)
        return tree_map(lambda one: _moved(one, sent) if isinstance(one, Tensor) else one, found)


def _destination(func: Any, args: Any, kwargs: Any) -> tuple[bool | None, Any, Any]:
    """Whether the result lies elsewhere, None where its inputs decide; and the arguments without a device."""
    if func is torch._C._nn._parse_to:
        return False, args, kwargs
    if func is Tensor.to and len(args) > 1 and isinstance(args[1], Tensor):
        return isinstance(args[1], Elsewhere), args, kwargs
    named = [*(arg for arg in args if isinstance(arg, torch.device)), kwargs.get("device")]
    if func is Tensor.to:
        named += [arg for arg in args if isinstance(arg, str)]
    device = next((torch.device(one) for one in named if one is not None), None)
    if device is None or device.type not in (NAME, "cpu"):
        return None, args, kwargs
    if "device" in kwargs:
        kwargs["device"] = "cpu"
    args = [torch.device("cpu") if isinstance(arg, torch.device | str) else arg for arg in args]
    return device.type == NAME, args, kwargs


def _moved(tensor: Tensor, away: bool) -> Tensor:
    if isinstance(tensor, Elsewhere) == away:
        return tensor
    return tensor.as_subclass(Elsewhere) if away else _here(tensor)


def _here(tensor: Tensor) -> Tensor:
    return tensor.as_subclass(Tensor)

"""Single tensors out of a checkpoint, whatever its shards."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..errors import ModelError


def read_tensors(folder: Path, prefix: str) -> dict[str, Tensor]:
    """Read every tensor whose name begins with `prefix` from a folder's safetensors files, the prefix left out.

    Raises:
        ModelError: if the folder has no such files, or one is broken.
    """
    files = sorted(folder.glob("model*.safetensors"))
    if not files:
        raise ModelError(f"{folder} holds no model*.safetensors")
    found: dict[str, Tensor] = {}
    for file in files:
        try:
            with safe_open(file, framework="pt") as tensors:
                names = [name for name in tensors.keys() if name.startswith(prefix)]  # noqa: SIM118 - no mapping
                found.update({name.removeprefix(prefix): tensors.get_tensor(name) for name in names})
        except (SafetensorError, OSError) as error:
            raise ModelError(f"cannot read {file}: {str(error).splitlines()[0]}") from None
    return found

"""Reading and writing the small JSON files of model folders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..errors import ModelError


def read_json(file: Path, kind: type[Any] = dict) -> Any:
    """Read a JSON file that holds a `kind` (dict or list) at its top.

    Raises:
        ModelError: if the file is unreadable or holds something else.
    """
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"cannot read {file}: {error}") from None
    if not isinstance(value, kind):
        raise ModelError(f"{file} holds no JSON {kind.__name__}")
    return value


def write_json(file: Path, value: object) -> None:
    """Write `value` with an indent of two, Unicode as it is."""
    file.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")

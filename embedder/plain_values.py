"""Plain values of JSON or YAML against the fields of a dataclass: what does not fit is named by its path."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import MISSING, fields, is_dataclass
from enum import StrEnum
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

_SPELLED: dict[type, str] = {bool: "true or false", int: "a whole number", str: "text"}


def misfit(kind: type[Any], values: Mapping[str, Any], path: str = "") -> str | None:
    """Say which value a dataclass, or one that it holds, does not take; None where it takes all.

    A choice may be any text here: the dataclass knows its choices, and names them.

    Args:
        kind: of whole numbers, texts, flags, choices, mappings of them, and dataclasses of the like.
        values: by the names of its fields.
        path: what stands before those names in the message.
    """
    hints = get_type_hints(kind)
    if unknown := next((key for key in values if key not in hints), None):
        return f"{path}{unknown} is unknown; known keys are {', '.join(hints)}"
    for one in fields(kind):
        if one.name in values:
            found = _misfit(hints[one.name], values[one.name], path + one.name)
        else:
            required = one.default is MISSING and one.default_factory is MISSING
            found = f"{path}{one.name} is missing" if required else None
        if found:
            return found
    return None


def _misfit(hint: Any, value: Any, place: str) -> str | None:
    origin, options = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        rest = [option for option in options if option is not NoneType]
        return None if value is None else _misfit(rest[0], value, place)
    if origin is tuple:
        if not isinstance(value, list):
            return f"{place} must be a list, not {value!r}"
        return _first(_misfit(options[0], item, f"{place}[{i}]") for i, item in enumerate(value))
    if is_dataclass(hint) or origin is Mapping:
        if not isinstance(value, dict):
            return f"{place} must be a mapping, not {value!r}"
        if origin is Mapping:
            return _first(_misfit(options[1], item, f"{place}.{key}") for key, item in value.items())
        assert isinstance(hint, type)
        return misfit(hint, value, f"{place}.")
    plain = str if issubclass(hint, StrEnum) else hint
    return None if type(value) is plain else f"{place} must be {_SPELLED[plain]}, not {value!r}"


def _first(found: Iterable[str | None]) -> str | None:
    return next((one for one in found if one), None)

"""Plain values of a YAML file into frozen dataclasses: a typo in a key or a value of the wrong kind names its field."""

from __future__ import annotations

import dataclasses
import types
from typing import Annotated, Any, ClassVar, Literal, Protocol, TypeVar, Union, get_args, get_origin, get_type_hints

from ..errors import DecantError


class RecipeError(DecantError):
    """A recipe that names an unknown step or key, or gives a value that cannot be."""


class _Dataclass(Protocol):
    __dataclass_fields__: ClassVar[dict[str, Any]]


T = TypeVar("T", bound=_Dataclass)


@dataclasses.dataclass(frozen=True)
class Range:
    """What a number must be, as metadata of its type: from `low`, or `above` it, to `high`."""

    low: float | None = None
    high: float | None = None
    above: float | None = None

    def refusal(self, value: float) -> str | None:
        """Say what `value` must be; None where it is."""
        if self.low is not None and not value >= self.low:
            return f"at least {self.low}"
        if self.above is not None and not value > self.above:
            return f"above {self.above}"
        if self.high is not None and not value <= self.high:
            return f"at most {self.high}"
        return None


Count = Annotated[int, Range(low=1)]
CountOrNone = Annotated[int, Range(low=0)]
Positive = Annotated[float, Range(above=0)]
NotNegative = Annotated[float, Range(low=0)]


def build(kind: type[T], values: dict[str, Any], where: str, field: str = "") -> T:
    """Builds a dataclass, and those it holds, from plain values.

    A field whose type is a union of dataclasses takes the one whose class attribute `kind` is the value's `kind`.

    Args:
        kind: the dataclass.
        values: its fields.
        where: what the message of an error starts with, a file as a rule.
        field: path of these values in the file; empty at its root.

    Raises:
        RecipeError: a key is unknown or missing, or a value is of the wrong kind.
    """
    known = get_type_hints(kind, include_extras=True)
    hints = {f.name: known[f.name] for f in dataclasses.fields(kind)}
    for key in values:
        if key not in hints:
            raise RecipeError(f"{where}: {_join(field, str(key))} is unknown; known keys are {', '.join(hints)}")
    for one in dataclasses.fields(kind):
        required = one.default is dataclasses.MISSING and one.default_factory is dataclasses.MISSING
        if required and one.name not in values:
            raise RecipeError(f"{where}: {_join(field, one.name)} is missing")
    read = {key: _read(value, hints[key], where, _join(field, key)) for key, value in values.items()}
    try:
        return kind(**read)
    except ValueError as error:
        raise RecipeError(f"{where}: {_join(field, str(error))}") from None


def _read(value: Any, hint: Any, where: str, field: str) -> Any:
    origin, options = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _read_within(value, options, where, field)
    if origin in (Union, types.UnionType):
        return _read_union(value, options, where, field)
    if origin is list and isinstance(value, list):
        return [_read(item, options[0], where, f"{field}[{i}]") for i, item in enumerate(value)]
    if origin is dict and isinstance(value, dict):
        for key in value:
            if not isinstance(key, options[0]):
                raise RecipeError(f"{where}: {field} has the key {key!r}, which must be {_spelled(options[0])}")
        return {key: _read(item, options[1], where, _join(field, str(key))) for key, item in value.items()}
    if dataclasses.is_dataclass(hint) and isinstance(hint, type) and isinstance(value, dict):
        return build(hint, _without_kind(value, hint), where, field)
    if not _fits(value, hint):
        raise RecipeError(f"{where}: {field} must be {_spelled(hint)}, not {value!r}")
    return value


def _read_within(value: Any, options: tuple[Any, ...], where: str, field: str) -> Any:
    read = _read(value, options[0], where, field)
    for bounds in options[1:]:
        if isinstance(bounds, Range) and (what := bounds.refusal(read)):
            raise RecipeError(f"{where}: {field} must be {what}, not {value!r}")
    return read


def _read_union(value: Any, options: tuple[Any, ...], where: str, field: str) -> Any:
    if value is None and type(None) in options:
        return None
    kinds = {option.kind: option for option in options if _has_kind(option)}
    if kinds:
        named = value.get("kind") if isinstance(value, dict) else None
        if named not in kinds:
            raise RecipeError(f"{where}: {_join(field, 'kind')} {named!r} is unknown; choose one of {', '.join(kinds)}")
        return _read(value, kinds[named], where, field)
    rest = [option for option in options if option is not type(None)]
    if len(rest) == 1:
        return _read(value, rest[0], where, field)
    if not any(_fits(value, option) for option in rest):
        raise RecipeError(f"{where}: {field} must be {' or '.join(map(_spelled, rest))}, not {value!r}")
    return value


def _fits(value: object, hint: Any) -> bool:
    if hint is Any:
        return True
    if get_origin(hint) is Literal:
        return value in get_args(hint)
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    plain = get_origin(hint) or hint
    return isinstance(value, plain)


def _has_kind(hint: Any) -> bool:
    """Whether a dataclass is told apart by `kind`, and has no field of that name."""
    return hasattr(hint, "kind") and all(f.name != "kind" for f in dataclasses.fields(hint))


def _without_kind(value: dict[str, Any], hint: type) -> dict[str, Any]:
    return {key: item for key, item in value.items() if key != "kind" or not _has_kind(hint)}


def _spelled(hint: Any) -> str:
    if get_origin(hint) is Literal:
        return "one of " + ", ".join(map(str, get_args(hint)))
    return hint.__name__ if isinstance(hint, type) and get_origin(hint) is None else str(hint)


def _join(field: str, key: str) -> str:
    return f"{field}.{key}" if field else key

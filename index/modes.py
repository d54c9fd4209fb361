"""Ways to search: one representation, or several whose lists are fused."""

from __future__ import annotations

from collections.abc import Sequence

from .errors import QueryError
from .layout import Layout

# Which representations of the query each single mode needs; `moee` is the weighted sum of dense and router cosines.
NEEDS = {"dense": ("dense",), "sparse": ("sparse",), "lexical": (), "router": ("router",), "moee": ("dense", "router")}
HYBRID = "hybrid"
# What every store can do, whatever made it.
MODES = ("dense", "lexical", HYBRID)


def parse_mode(mode: str, layout: Layout) -> tuple[str, ...]:
    """The single modes that a mode stands for, in a fixed order.

    Args:
        mode: one of `NEEDS`; several with `+` between (`dense+sparse`); or `hybrid`, everything the store holds.
        layout: the store's.

    Raises:
        QueryError: an unknown mode, or one that needs vectors the store does not hold.
    """
    if mode == HYBRID:
        return hybrid_modes(layout)
    wanted = mode.split("+")
    unknown = [name for name in wanted if name not in NEEDS]
    if unknown or len(set(wanted)) < len(wanted):
        raise QueryError(
            f"unknown mode {mode!r}: choose from {', '.join(available(layout))}, or join some of them with +"
        )
    for name in wanted:
        lacking = [need for need in NEEDS[name] if need not in layout.outputs]
        if lacking:
            raise QueryError(
                f"mode {name} needs {lacking[0]} vectors, which this store does not hold: index anew with a model that "
                f"makes them and --outputs that name them, or choose from {', '.join(available(layout))}"
            )
    return tuple(name for name in NEEDS if name in wanted)


def hybrid_modes(layout: Layout) -> tuple[str, ...]:
    """What `hybrid` fuses: the store's dense side (with its routers, where it has them), sparse, and lexical."""
    dense = "moee" if layout.router else "dense"
    return (dense, *(("sparse",) if layout.terms else ()), "lexical")


def available(layout: Layout) -> tuple[str, ...]:
    """Every mode a store can be searched in, `hybrid` last."""
    held = layout.outputs
    return (*(name for name, needs in NEEDS.items() if all(need in held for need in needs)), HYBRID)


def needed(modes: Sequence[str]) -> tuple[str, ...]:
    """The query's representations that some single modes need."""
    return tuple(dict.fromkeys(need for name in modes for need in NEEDS[name]))

"""Loading an encoder for a command."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict, Unpack

from rich.text import Text

from .output import errors
from .quiet import quiet_transformers

if TYPE_CHECKING:
    from ...embedder import Encoder, EncoderSpec


class LoadOptions(TypedDict, total=False):
    """What `Encoder.load` takes besides the model, the device and the number format."""

    spec: EncoderSpec | None
    rule: str | None
    adapters: Sequence[str | Path]
    examples: Path | None
    verify: bool


def load_encoder(
    model: str | None,
    device: str | None = None,
    dtype: str | None = None,
    *,
    debug: bool = False,
    **options: Unpack[LoadOptions],
) -> Encoder:
    """Load a model with a spinner on stderr; options as of `Encoder.load`."""
    with waiting(f"loading {name_of(model)}"):
        from ...embedder import Encoder
        from ...embedder.threads import limit_threads

        limit_threads()
        if not debug:
            quiet_transformers()
        return Encoder.load(model, device=device, dtype=dtype, **options)


def name_of(model: str | None) -> str:
    """What to call a model on the screen."""
    return "decant-mini" if model is None else Path(model).name or model


@contextmanager
def waiting(what: str) -> Generator[None]:
    """Show a spinner on stderr while the block runs; nothing where stderr is no terminal."""
    console = errors()
    if not console.is_terminal:
        yield
        return
    with console.status(Text(what, style="dim")):
        yield

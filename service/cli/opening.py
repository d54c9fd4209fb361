"""Opening an index together with the encoder that made it, for commands that read."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from .loading import load_encoder
from .problem import require_store
from .store_model import model_of

if TYPE_CHECKING:
    from ...embedder import Encoder
    from ...index.store import Store


@contextmanager
def open_index(
    store: Path, model: str | None, device: str | None, dtype: str | None, *, debug: bool
) -> Generator[tuple[Store, Encoder]]:
    """Yield the index, to be read, and its encoder.

    Args:
        store: folder of the index.
        model: the encoder asked for; None for the one that made the index.
        device: where it computes; None for the best device.
        dtype: what it computes in; None for the device's best.
        debug: leave transformers' own messages on.

    Raises:
        Problem: there is no index, or its model is gone.
    """
    require_store(store)
    encoder = load_encoder(model_of(store, model), device, dtype, debug=debug)
    from ...index.store import Store

    with Store.open(store, encoder=encoder, read_only=True) as opened:
        yield opened, encoder


@contextmanager
def open_words(store: Path) -> Generator[tuple[Store, None]]:
    """Yield the index, to be searched by words: no model is loaded, which is most of a search's time.

    Raises:
        Problem: there is no index.
    """
    require_store(store)
    from ...index.store import Store

    with Store.open(store, read_only=True) as opened:
        yield opened, None

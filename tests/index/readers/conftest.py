"""A worker that reads files apart."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from decant.index.readers.isolated import Isolated


@pytest.fixture(scope="module")
def isolated() -> Iterator[Isolated]:
    with Isolated(seconds=30) as worker:
        yield worker

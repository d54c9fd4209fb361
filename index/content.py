"""A digest of what a store holds, whatever its files look like: equal content, equal digest."""

from __future__ import annotations

import hashlib
import json

import numpy as np

from .schema import table_schema
from .snapshot import Snapshot

DIGEST_ROWS = 4096


def content_digest(snapshot: Snapshot) -> str:
    """Hash every column of every row, ordered by chunk id: 64 hex digits.

    Two runs that stored the same documents with the same encoder agree, in whatever order, with whatever crashes
    between and before or after any compaction.
    """
    columns = [name for name in table_schema(snapshot.layout).names if name not in ("vector", "router")]
    digest = hashlib.blake2b(digest_size=32)
    order = np.argsort(snapshot.chunk_ids, kind="stable")
    for start in range(0, len(order), DIGEST_ROWS):
        positions = order[start : start + DIGEST_ROWS]
        for row in snapshot.take(positions, columns).to_pylist():
            digest.update(json.dumps(row, sort_keys=True, ensure_ascii=True).encode())
        digest.update(np.ascontiguousarray(snapshot.vectors(positions), "<f4").tobytes())
    return digest.hexdigest()

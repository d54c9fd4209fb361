"""Generations of sealed sparse segments: when to seal, when to merge, and loading what was sealed."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .generations import UnusableGeneration, publish, read_manifest, retire, verified
from .schema import MOST_WEIGHT
from .seismic import FILES, KEYS, Segment, are_halves, load_segment, missing, write_segment
from .snapshot import Snapshot

# Over 100,000 rows exact postings answer in 0.6 ms, a segment at recall 0.99 in 0.3 (docs/index.md); the first grows
# with the rows, the second hardly. Where they meet has not been measured: this is on the safe side.
SEAL_FROM = 200_000
# Rows that came since are sealed when they are this share of all, segments merged when they are this many.
SEAL_SHARE = 0.1
MOST_SEGMENTS = 4
TOMBSTONE_SHARE = 0.1


def build(root: Path, snapshot: Snapshot, fingerprint: str, kind: str = "auto") -> str:
    """Seal what is worth sealing; the writer's lock must be held. Returns what was done and why, one line.

    Args:
        root: the folder of the generations.
        snapshot: whose rows to build from.
        fingerprint: of the encoder that made them.
        kind: `auto`, `seismic` for one segment of everything whatever the size, or `exact` for none.

    Raises:
        StoreError: Seismic failed; what was in use stays in use.
    """
    rows = len(snapshot)
    if kind == "exact" or not rows or (kind == "auto" and rows < SEAL_FROM):
        retire(root)
        return f"sparse exact: {'as asked for' if kind == 'exact' else _small(rows)}"
    if why := missing():
        retire(root)
        return f"sparse exact: {why}"
    kept = [] if kind == "seismic" else _kept(root, snapshot, fingerprint)
    held = np.concatenate([np.zeros(0, np.int64), *kept])
    fresh = np.flatnonzero(~np.isin(snapshot.keys, held))
    tombstones = len(held) - (rows - len(fresh))
    if kept and len(fresh) <= SEAL_SHARE * rows and tombstones <= TOMBSTONE_SHARE * rows:
        return f"seismic: kept, {len(kept)} segments cover {rows - len(fresh):,} of {rows:,} chunks"
    if len(kept) >= MOST_SEGMENTS or tombstones > TOMBSTONE_SHARE * rows:
        kept, fresh = [], np.arange(rows)
    manifest = read_manifest(root) if kept else None
    made = snapshot.sparse(fresh)
    if made.nnz and made.data.max() > MOST_WEIGHT:  # stored by an older Decant
        retire(root)
        return f"sparse exact: a weight is beyond {MOST_WEIGHT:,}, the most that a segment can hold"
    halves = [*manifest.facts.get("halves", ())] if manifest is not None else []

    def write(folder: Path) -> None:
        for number in range(len(kept)):
            for name in FILES:
                assert manifest is not None, "segments are kept from a generation"
                os.link(root / manifest.generation / f"{number}-{name}", folder / f"{number}-{name}")
        write_segment(folder, len(kept), snapshot.keys[fresh], made, snapshot.layout.terms)

    facts: dict[str, Any] = {"kind": "seismic", "segments": len(kept) + 1, "rows": rows, "version": snapshot.version}
    # Numbers of the segments whose rows need not be scored again; an older Decant wrote no such list.
    facts["halves"] = [*halves, len(kept)] if are_halves(made) else halves
    publish(root, snapshot.version, fingerprint, facts, write)
    return f"seismic: {len(kept) + 1} segments over {rows:,} chunks"


def load(root: Path, fingerprint: str, terms: int) -> tuple[Segment, ...]:
    """The segments in use, none where none were built.

    Raises:
        UnusableGeneration: they are damaged, not of this store, or Seismic is not installed.
    """
    manifest = read_manifest(root)
    if manifest is None:
        return ()
    if why := missing():
        raise UnusableGeneration(why)
    paths = verified(root, manifest, fingerprint, trust_stamps=True)
    try:
        halves, count = manifest.facts.get("halves", ()), int(manifest.facts["segments"])
        return tuple(load_segment(paths, number, terms, halves=number in halves) for number in range(count))
    except (KeyError, OSError, TypeError, ValueError, RuntimeError) as error:
        raise UnusableGeneration(f"it cannot be loaded ({' '.join(str(error).split())[:120]})") from error


def status(root: Path, snapshot: Snapshot, fingerprint: str) -> Mapping[str, Any]:
    """How sparse search works on a snapshot, and why; checks every file's checksum."""
    try:
        manifest = read_manifest(root)
        if manifest is None:
            return {"search": "exact", "reason": _small(len(snapshot)) if len(snapshot) < SEAL_FROM else _unbuilt()}
        paths = verified(root, manifest, fingerprint)
        keys = np.concatenate([np.load(paths[f"{n}-{KEYS}"]) for n in range(int(manifest.facts["segments"]))])
    except (UnusableGeneration, KeyError, TypeError, ValueError) as error:
        return {"search": "exact", "reason": f"the accelerator is not used because {error}: build it again"}
    covered = int(np.isin(snapshot.keys, keys).sum())
    return {
        "search": "seismic",
        "reason": f"{manifest.facts['segments']} segments of {len(keys):,} chunks",
        "covered": covered,
        "exact_tail": len(snapshot) - covered,
        "tombstones": len(keys) - covered,
    }


def _kept(root: Path, snapshot: Snapshot, fingerprint: str) -> list[NDArray[np.int64]]:
    """The keys of each segment in use, none where they are of no use."""
    try:
        manifest = read_manifest(root)
        if manifest is None:
            return []
        paths = verified(root, manifest, fingerprint)
        return [np.load(paths[f"{n}-{KEYS}"]) for n in range(int(manifest.facts["segments"]))]
    except (UnusableGeneration, KeyError, TypeError, ValueError):
        return []


def _small(rows: int) -> str:
    return f"{rows:,} chunks are searched exactly; segments are sealed from {SEAL_FROM:,}"


def _unbuilt() -> str:
    return missing() or "no segments were sealed yet"

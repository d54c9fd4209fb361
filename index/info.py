"""What `decant info` tells of a store: how much, by which model, and how each mode searches it and why."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from . import accelerator, segments
from .generations import Manifest, UnusableGeneration, read_manifest, verified
from .lance_ann import kind_of, status
from .lexical import unindexed_rows
from .meta import StoreMeta
from .modes import available
from .opening import ACCELERATORS
from .place import Place
from .snapshot import Snapshot


def describe(place: Place, meta: StoreMeta, snapshot: Snapshot, table: Any) -> dict[str, Any]:
    """Facts about a store, ready for JSON; sizes in bytes.

    Args:
        place: where the store is.
        meta: its description.
        snapshot: the version to describe.
        table: a handle on that version or a later one.
    """
    root = place.folder
    sparse: dict[str, Any] = {}
    if meta.terms:
        sparse["sparse"] = {
            "terms": meta.terms,
            **segments.status(root / ACCELERATORS / "sparse", snapshot, meta.fingerprint),
        }
    lost = snapshot.unreadable_indexes()
    return {
        "path": str(place),
        "schema": meta.schema,
        "model": meta.model,
        "fingerprint": meta.fingerprint,
        "model_path": meta.model_path,
        "dimension": meta.dimension,
        **({"router": meta.router} if meta.router else {}),
        "modes": list(available(meta.layout)),
        "created": meta.created,
        "version": snapshot.version,
        "documents": snapshot.scan([], "ordinal = 0").num_rows,
        "chunks": len(snapshot),
        "bytes": place_bytes(place),
        "dense": dense_status(place, snapshot, meta.fingerprint, table),
        **sparse,
        "lexical": {"scoring": "BM25, English stemming", "not_yet_indexed": unindexed_rows(table)},
        **({"unreadable_indexes": f"{', '.join(lost)}: the next decant index makes them anew"} if lost else {}),
    }


def dense_status(place: Place, snapshot: Snapshot, fingerprint: str, table: Any) -> Mapping[str, Any]:
    """How dense search works on a snapshot, and why; checks every accelerator file's checksum."""
    kind, reason = accelerator.choose_kind(len(snapshot), snapshot.layout.width, bucket=place.remote)
    if own := kind_of(snapshot):
        found = status(snapshot, table)
        return {**found, "reason": f"{found['reason']}; {reason if own == kind else 'as asked for'}"}
    folder = place.folder / ACCELERATORS / "dense"
    try:
        manifest = read_manifest(folder)
        if manifest is None:
            missing = "" if kind == "exact" else f"; none was built yet, although {reason}"
            return {"search": "exact", "reason": reason if kind == "exact" else f"no accelerator{missing}"}
        keys = np.load(verified(folder, manifest, fingerprint)[accelerator.KEYS_FILE])
        built = _built(manifest)
    except (UnusableGeneration, KeyError, TypeError, ValueError) as error:
        return {"search": "exact", "reason": f"the accelerator is not used because {_said(error)}: build it again"}
    covered = int(np.isin(snapshot.keys, keys).sum())
    return {
        "search": manifest.facts["kind"],
        "reason": built,
        "covered": covered,
        "exact_tail": len(snapshot) - covered,
        "tombstones": len(keys) - covered,
    }


def _built(manifest: Manifest) -> str:
    """From what a dense accelerator was built, and why, and how widely it is searched."""
    facts = manifest.facts
    accelerator.check_facts(facts)
    width = f"; width {facts['width']} found {facts['width_recall']:.1%} of a sample" if "width" in facts else ""
    return f"built from version {facts['version']}; {facts.get('why', 'as asked for')}{width}"


def _said(error: Exception) -> str:
    return str(error) if isinstance(error, UnusableGeneration) else f"its manifest makes no sense ({error})"


def place_bytes(place: Place) -> int:
    """Bytes of all files of a store; files that vanish meanwhile count nothing."""
    if place.remote:
        return place.size()
    total = 0
    for path in place.folder.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except OSError:
            continue
    return total

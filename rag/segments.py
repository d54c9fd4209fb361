"""Cached states on disk: immutable safetensors files in a store's folder, memory-mapped, a checksum for each row.

A row that does not match its checksum is as good as absent. Files appear whole or not at all, so that readers need no
lock; only one process writes, the holder of the store's writer lock.
"""

from __future__ import annotations

import hashlib
import json
import os
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from .states import States

StateDtype = Literal["float16", "int8"]
_SUFFIX = ".safetensors"


class Segments:
    """All rows below one folder, by key.

    Attributes:
        corrupt: rows that did not match their checksums, and files that could not be read, so far.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: dict[str, Mapping[str, list[int]]] = {}
        self._places: dict[str, str] = {}
        self._seen = -1
        self._damaged: set[str] = set()
        self.corrupt = 0

    def refresh(self) -> None:
        """Take up files that were written or removed since the last call."""
        try:
            changed = self._folder.stat().st_mtime_ns
        except OSError:
            changed = 0
        if changed == self._seen:
            return
        self._seen = changed
        names = {path.name for path in self._folder.glob(f"*{_SUFFIX}")}
        self._files = {name: rows for name, rows in self._files.items() if name in names}
        for name in sorted(names - self._files.keys()):
            try:
                with safe_open(self._folder / name, framework="np") as file:
                    self._files[name] = json.loads(file.metadata()["rows"])
            except (OSError, SafetensorError, ValueError, KeyError, TypeError):
                self.corrupt += 1
                self._damaged.add(name)
                self._files[name] = {}
        self._places = {key: name for name, rows in self._files.items() for key in rows}

    def __contains__(self, key: str) -> bool:
        return key in self._places

    def read(self, key: str) -> States | None:
        """The row of a key; None where there is none, or none that can be trusted."""
        name = self._places.get(key)
        if name is None:
            return None
        try:
            start, stop, checksum = self._files[name][key]
            with safe_open(self._folder / name, framework="np") as file:
                parts = {part: file.get_slice(part)[start:stop] for part in file.keys()}  # noqa: SIM118  (no mapping)
            sound = len(parts["ids"]) == stop - start and _checksum(parts) == checksum
        except (OSError, SafetensorError, ValueError, KeyError, TypeError):
            parts, sound = {}, False
        if not sound:
            self.corrupt += 1
            self._damaged.add(name)
            self._places.pop(key, None)
            return None
        return _unpack(parts)

    def write(self, rows: Sequence[tuple[str, States]], dtype: StateDtype) -> None:
        """Write one file of rows, durably."""
        if not rows:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        packed = [_pack(states, dtype) for _, states in rows]
        ends = np.cumsum([len(states) for _, states in rows]).tolist()
        starts = [0, *ends[:-1]]
        index = {
            key: [start, end, _checksum(parts)]
            for (key, _), parts, start, end in zip(rows, packed, starts, ends, strict=True)
        }
        tensors = {name: np.ascontiguousarray(np.concatenate([parts[name] for parts in packed])) for name in packed[0]}
        name = hashlib.blake2b("".join(index).encode(), digest_size=12).hexdigest()
        unfinished = self._folder / f"{name}.tmp"
        with unfinished.open("wb") as file:
            file.write(save(tensors, metadata={"rows": json.dumps(index)}))
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(self._folder / f"{name}{_SUFFIX}")

    def keep(self, live: Iterable[str]) -> None:
        """Read every row, and remove files that are damaged or of whose rows less than half are live.

        What was live and sound in them is missing then.
        """
        self.refresh()
        wanted = set(live)
        for key in list(self._places):
            self.read(key)
        for name, rows in list(self._files.items()):
            if name in self._damaged or 2 * len(wanted & rows.keys()) < max(1, len(rows)):
                (self._folder / name).unlink(missing_ok=True)
                del self._files[name]
        self._places = {key: name for name, rows in self._files.items() for key in rows}
        self._damaged.clear()
        for unfinished in self._folder.glob("*.tmp"):
            unfinished.unlink(missing_ok=True)


def rounded(states: States) -> States:
    """What comes back of states that were written as int8."""
    return _unpack(_pack(states, "int8"))


def _pack(states: States, dtype: StateDtype) -> dict[str, NDArray[Any]]:
    parts: dict[str, NDArray[Any]] = {"ids": states.ids, "offsets": states.offsets}
    if dtype == "float16":
        return {**parts, "hidden": np.ascontiguousarray(states.hidden)}
    hidden = states.hidden.astype(np.float32)
    scale = np.maximum(np.abs(hidden).max(-1, keepdims=True) / 127, 1e-8).astype(np.float16)
    levels = np.clip(np.rint(hidden / scale.astype(np.float32)), -127, 127).astype(np.int8)
    return {**parts, "hidden": levels, "scale": scale}


def _unpack(parts: Mapping[str, NDArray[Any]]) -> States:
    hidden = parts["hidden"]
    if "scale" in parts:
        hidden = (hidden.astype(np.float32) * parts["scale"].astype(np.float32)).astype(np.float16)
    return States(parts["ids"], parts["offsets"], hidden)


def _checksum(parts: Mapping[str, NDArray[Any]]) -> int:
    checksum = 0
    for name in sorted(parts):
        checksum = zlib.crc32(np.ascontiguousarray(parts[name]).tobytes(), checksum)
    return checksum

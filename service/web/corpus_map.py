"""The map of a corpus: every passage a point, computed once for each version of a store."""

from __future__ import annotations

import asyncio
import os.path
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from ...index import Store
from ..caller import Caller
from ..errors import DeadlineExceeded
from ..search import SearchService
from .projection import EXPLAINED, Method, project

# What a browser draws without pause and t-SNE places in seconds; larger stores are drawn in an even sample.
MOST_POINTS = {"pca": 5000, "tsne": 2000}
MOST_GROUPS = 12
OTHER = "other"
HERE = "top"
_EXCERPT = 140
_COLUMNS = ["doc_id", "ordinal", "start_char", "end_char", "title", "path", "media", "text"]
_KEPT = 8


class CorpusMaps:
    """Maps that were made, the last few; one is made at a time. Lives on the event loop."""

    def __init__(self) -> None:
        self._tasks: dict[tuple[str, int, Method], asyncio.Task[bytes]] = {}
        self._one = asyncio.Lock()

    async def get(self, service: SearchService, method: Method, caller: Caller) -> bytes:
        """Return the map of a store's newest version as JSON, see `draw_map`.

        Callers that ask for one that is being made wait for it; it is made to the end even if all of them leave.

        Raises:
            DeadlineExceeded: it took longer than the caller allows; it will be there later.
        """
        store = service.store
        version = await service.on_thread(lambda: store.snapshot().version, caller)
        key = (str(store.root), version, method)
        task = self._tasks.get(key)
        if task is None or (task.done() and (task.cancelled() or task.exception() is not None)):
            task = self._tasks[key] = asyncio.create_task(self._made(store, method))
            self._forget(key)
        try:
            async with asyncio.timeout_at(caller.deadline):
                return await asyncio.shield(task)
        except TimeoutError:
            raise DeadlineExceeded("the map is still being made: come back in a while") from None

    async def _made(self, store: Store, method: Method) -> bytes:
        async with self._one:
            return await asyncio.to_thread(lambda: orjson.dumps(draw_map(store, method)))

    def _forget(self, newest: tuple[str, int, Method]) -> None:
        done = [key for key, task in self._tasks.items() if task.done() and key != newest]
        for key in done[: max(0, len(self._tasks) - _KEPT)]:
            del self._tasks[key]


def draw_map(store: Store, method: Method) -> dict[str, Any]:
    """Place a store's passages.

    Returns:
        `x`, `y`, `doc`, `ordinal`, `start`, `end`, `text`: one value per point; `docs`: what `doc` counts, each with
        its `group`; `groups`: their names; `labels`: for each group the point to write its name at, or -1.
    """

    def run(snapshot: Any) -> tuple[int, int, Any, NDArray[np.float32]]:
        total = len(snapshot)
        count = min(total, MOST_POINTS[method])
        positions = np.unique(np.linspace(0, max(0, total - 1), count).round().astype(np.int64))
        rows = snapshot.take(positions, _COLUMNS)
        return snapshot.version, total, rows, snapshot.vectors(positions)[:, : store.meta.dimension]

    version, total, rows, vectors = store.read(run)
    places = project(vectors, method)
    columns = {name: rows[name].to_pylist() for name in _COLUMNS}
    docs, doc = _documents(columns)
    groups = group_names([entry["path"] for entry in docs], [entry["media"] for entry in docs])
    named = [name for name, _ in Counter(groups).most_common() if name != OTHER]
    names = [*named, *([OTHER] if OTHER in groups else [])]
    for entry, group in zip(docs, groups, strict=True):
        entry["group"] = names.index(group)
    of_point = np.array([docs[at]["group"] for at in doc], np.int64)
    return {
        "method": method,
        "explained": EXPLAINED[method],
        "version": version,
        "total": total,
        "x": np.round(places[:, 0].astype(float), 4).tolist(),
        "y": np.round(places[:, 1].astype(float), 4).tolist(),
        "doc": doc,
        "ordinal": columns["ordinal"],
        "start": columns["start_char"],
        "end": columns["end_char"],
        "text": [" ".join(text[: 2 * _EXCERPT].split())[:_EXCERPT] for text in columns["text"]],
        "docs": docs,
        "groups": names,
        "labels": [_middle(places, of_point == at) for at in range(len(names))] if len(names) > 1 else [],
    }


def group_names(paths: Sequence[str], media: Sequence[str]) -> list[str]:
    """What colours each document: the folder below the one they all share, or their kind where that tells nothing.

    The rarest beyond `MOST_GROUPS` are put together as `OTHER`.
    """
    folders = [os.path.dirname(path) for path in paths]
    try:
        shared = os.path.commonpath(folders) if folders else ""
    except ValueError:  # some paths begin at the root and some do not
        shared = ""
    below = [os.path.relpath(folder, shared).split(os.sep)[0] if shared else folder.split("/")[0] for folder in folders]
    names = [name if name not in ("", ".") else os.path.basename(shared) or HERE for name in below]
    if len(set(names)) < 2:
        names = list(media)
    counted = Counter(names)
    if len(counted) <= MOST_GROUPS:
        return names
    kept = {name for name, _ in counted.most_common(MOST_GROUPS - 1)}
    return [name if name in kept else OTHER for name in names]


def _documents(columns: dict[str, list[Any]]) -> tuple[list[dict[str, Any]], list[int]]:
    """Each document once, and which of them every row belongs to."""
    at: dict[str, int] = {}
    docs: list[dict[str, Any]] = []
    fields = ("doc_id", "path", "title", "media")
    for row in zip(*(columns[field] for field in fields), strict=True):
        if row[0] not in at:
            at[row[0]] = len(docs)
            docs.append(dict(zip(fields, row, strict=True)))
    return docs, [at[doc_id] for doc_id in columns["doc_id"]]


def _middle(places: NDArray[np.float32], inside: NDArray[np.bool_]) -> int:
    """The point of a group that is nearest to its median, -1 where there is none."""
    own = np.flatnonzero(inside)
    if not len(own):
        return -1
    away = np.abs(places[own] - np.median(places[own], axis=0)).sum(axis=1)
    return int(own[away.argmin()])

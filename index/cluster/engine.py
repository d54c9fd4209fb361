"""`index_paths` with many workers: Ray actors read, cut and encode; the store gets it all in one commit at the end.

    index_on_cluster(store, encoder, [Path("corpus")], load=Encoder.load, workers=8)

Plain actors, not Ray Data: what a run must survive is the death of the driver, so every shard's fragments are noted in
the store as soon as it is done, by the driver, in the order in which they come. Ray Data would own that loop, and the
one thing it would bring, retries of a task whose actor died, actors have themselves.

`RAY_ADDRESS` names a cluster; without it workers are processes of this machine. Every worker opens the files and the
store by the paths given here, so on other machines both must be there: on a shared file system, or in a bucket.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...embedder.errors import DecantError
from ..batches import BATCH_CHUNKS
from ..chunking import DEFAULT_CHUNK_TOKENS, Chunker, ChunkSettings
from ..encoder import Encoder
from ..errors import ClusterError, lance_errors
from ..ingest import IndexProgress, IndexReport, tidied, vanished, walked
from ..readers.isolated import PARSE_SECONDS
from ..schema import TABLE
from ..store import Store
from ..walk import Failure, Findings
from .commit import commit
from .journal import Journal
from .shards import Shard, shard_bytes, shards_of
from .worker import Finished, Job, ShardWorker

# A worker that dies is started again and given its shard again, so often; then the shard is to blame.
RETRIES = 3
Progress = Callable[[IndexProgress], None]


def index_on_cluster(
    store: Store,
    encoder: Encoder,
    paths: Sequence[Path],
    *,
    load: Callable[[], Encoder],
    workers: int | None = None,
    gpus_per_worker: float = 0,
    chunk_tokens: int = DEFAULT_CHUNK_TOKENS,
    overlap: int = 0,
    late_chunking: bool = False,
    parse_seconds: float = PARSE_SECONDS,
    batch_chunks: int = BATCH_CHUNKS,
    progress: Progress | None = None,
) -> IndexReport:
    """Make the store hold what the files at `paths` hold now, with many workers; see `ingest.index_paths`.

    Nothing is visible before the one commit at the end. Killed at any moment, the same call goes on with the shards
    that were not finished.

    Args:
        store: open for writing, with this encoder.
        encoder: for its tokenizer; the workers' own make the vectors.
        paths: folders and files, which every worker sees under the same names.
        load: gives a worker its encoder; sent to it.
        workers: how many; None for one a processor, or one a GPU where `gpus_per_worker` asks for any.
        gpus_per_worker: what share of a GPU each one takes.
        chunk_tokens: a chunk's most tokens.
        overlap: tokens a chunk may repeat from the one before.
        late_chunking: encode each document whole and pool its chunks from it.
        parse_seconds: what parsing one PDF, HTML or Word file may take.
        batch_chunks: chunks encoded together.
        progress: called after each shard.

    Raises:
        ClusterError: Ray or Lance is not installed, or workers die again and again.
        InputError, StoreLocked: see `index_paths`.
    """
    require_libraries()
    settings = Chunker(encoder, ChunkSettings(chunk_tokens, overlap, late_chunking)).settings
    with store.writer(), _cluster(workers) as ray:
        parts, findings = walked(store, paths)
        hashes = {name: state.content_hash for name, state in store.documents().items()}
        job = Job(store.meta, settings, parse_seconds, batch_chunks, f"{store.place.tables}/{TABLE}.lance", hashes)
        actors = _Actors(ray, load, job, _count(ray, workers, gpus_per_worker), gpus_per_worker)
        version = store.table.version
        journal = Journal(store.place, job, version)
        shards = shards_of(findings.files, journal.limit(shard_bytes(findings.files, actors.count)))
        results = _results(shards, journal, actors, findings, progress)
        outcome = _Outcome(hashes, findings, failed_ids=set(findings.failed))
        for shard in shards:
            finished = results[shard.name]
            if clash := outcome.clash(finished):
                finished = actors.again(shard, clash)
            outcome.add(finished)
        gone = vanished(hashes, outcome.seen, outcome.failed_ids, parts)
        report = outcome.report(len(gone))
        if outcome.fragments or gone:
            replaced = {doc_id for doc_id in outcome.encoded if doc_id in hashes}
            with lance_errors(store.place):
                commit(job.table, version, outcome.fragments, replaced | set(gone))
            tidied(store)
        journal.forget()
        return report


def require_libraries() -> None:
    """Raise `ClusterError` where what this needs is not installed."""
    for module in ("ray", "lance"):
        if importlib.util.find_spec(module) is None:
            raise ClusterError(f"--engine ray needs {module}, which is not installed: pip install 'decant[ray]'")


@contextmanager
def _cluster(workers: int | None) -> Generator[Any]:
    """Ray, connected to the cluster that the environment names, or started here for as long as the block lasts."""
    # Before Ray is imported: it reports its use to its makers unless it is told not to.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray

    library: Any = ray
    if library.is_initialized():
        yield library
        return
    address = os.environ.get("RAY_ADDRESS")
    here: dict[str, Any] = {"num_cpus": workers, "include_dashboard": False}
    try:
        library.init(
            address=address or "local", log_to_driver=False, logging_level="ERROR", **({} if address else here)
        )
    except (ConnectionError, RuntimeError, OSError, ValueError) as error:
        text = " ".join(str(error).split())[:160]
        raise ClusterError(f"Ray could not be started or reached ({text}): check RAY_ADDRESS") from error
    try:
        yield library
    finally:
        library.shutdown()


def _count(ray: Any, workers: int | None, gpus: float) -> int:
    if workers is not None:
        return workers
    there = ray.cluster_resources()
    return max(1, int(there.get("GPU", 0) / gpus if gpus else there.get("CPU", 1)))


class _Actors:
    """The workers, each with one shard at a time and one waiting."""

    def __init__(self, ray: Any, load: Callable[[], Encoder], job: Job, count: int, gpus: float) -> None:
        self._ray = ray
        self.count = count
        kind = ray.remote(num_cpus=1, num_gpus=gpus, max_restarts=RETRIES, max_task_retries=RETRIES)(ShardWorker)
        # Given with each task, not to the actor: then nothing that a new start of it needs can be lost.
        self._job = ray.put(job)
        self._make: Callable[[], Any] = lambda: kind.remote(load, job.settings)
        self._actors: list[Any] = []

    def results(self, shards: Sequence[Shard]) -> Iterator[tuple[Shard, Finished]]:
        """What becomes of each shard, in the order in which they are done."""
        todo = iter(shards)
        self._start(min(self.count, len(shards)))
        running: dict[Any, tuple[Shard, Any]] = {}

        def give(actor: Any) -> None:
            if (shard := next(todo, None)) is not None:
                running[actor.run.remote(self._job, shard)] = (shard, actor)

        for actor in (*self._actors, *self._actors):
            give(actor)
        while running:
            [done], _ = self._ray.wait(list(running), num_returns=1)
            shard, actor = running.pop(done)
            yield shard, self._got(done, shard)
            give(actor)

    def again(self, shard: Shard, leave_out: frozenset[str]) -> Finished:
        """A shard once more, without documents that another one has."""
        self._start(1)
        return self._got(self._actors[0].run.remote(self._job, shard, leave_out), shard)

    def _start(self, count: int) -> None:
        self._actors += [self._make() for _ in range(count - len(self._actors))]

    def _got(self, done: Any, shard: Shard) -> Finished:
        try:
            return self._ray.get(done)
        except self._ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, DecantError):
                raise error.cause from error
            text = " ".join(str(error.cause).split())[:160]
            raise ClusterError(f"a worker failed on {_first(shard)} ({text}): run again to go on from here") from error
        except self._ray.exceptions.RayError as error:
            raise ClusterError(
                f"workers died {RETRIES + 1} times on the files from {_first(shard)} on, perhaps for lack of memory: "
                "give them more, or take fewer workers; run again to go on from here"
            ) from error


def _first(shard: Shard) -> str:
    return str(shard.pieces[0].file.path)


def _results(
    shards: Sequence[Shard], journal: Journal, actors: _Actors, findings: Findings, progress: Progress | None
) -> dict[str, Finished]:
    """What became of every shard, those of an earlier run included."""
    found = journal.finished()
    done = {shard.name: found[shard.name] for shard in shards if shard.name in found}
    todo = [shard for shard in shards if shard.name not in done]
    total = sum(shard.bytes for shard in shards)
    left = sum(shard.bytes for shard in todo)
    for shard, finished in actors.results(todo):
        journal.keep(shard, finished)
        done[shard.name] = finished
        left -= shard.bytes
        if progress is not None:
            chunks, tokens = (sum(getattr(one, name) for one in done.values()) for name in ("chunks", "tokens"))
            files = len(findings.files)
            share = int(files * (1 - left / max(total, 1)))
            progress(IndexProgress(share, files, total - left, total, chunks, tokens, _first(shard)))
    return done


@dataclass
class _Outcome:
    """Everything that the shards add up to, taken up in the walk's order."""

    known: dict[str, str]
    findings: Findings
    fragments: list[str] = field(default_factory=list[str])
    encoded: set[str] = field(default_factory=set[str])
    seen: set[str] = field(default_factory=set[str])
    failed: list[Failure] = field(default_factory=list[Failure])
    failed_ids: set[str] = field(default_factory=set[str])
    unchanged: int = 0
    chunks: int = 0
    tokens: int = 0
    truncated: int = 0

    def clash(self, finished: Finished) -> frozenset[str]:
        """Documents of a shard whose ids are taken by earlier ones."""
        return frozenset(name for name in (*finished.encoded, *finished.unchanged) if name in self.seen)

    def add(self, finished: Finished) -> None:
        """Take up a shard without clashes."""
        self.fragments += finished.fragments
        self.encoded.update(finished.encoded)
        self.seen.update(finished.encoded, finished.unchanged)
        self.failed += [Failure(path, reason) for _, path, reason in finished.failed]
        self.failed_ids.update(begin for begin, _, _ in finished.failed)
        self.unchanged += len(finished.unchanged)
        self.chunks += finished.chunks
        self.tokens += finished.tokens
        self.truncated += finished.truncated

    def report(self, removed: int) -> IndexReport:
        """What the run did."""
        changed = sum(doc_id in self.known for doc_id in self.encoded)
        return IndexReport(
            added=len(self.encoded) - changed,
            changed=changed,
            unchanged=self.unchanged,
            removed=removed,
            failed=tuple(sorted([*self.findings.failed.values(), *self.failed], key=str)),
            ignored=tuple(sorted(self.findings.ignored, key=str)),
            chunks=self.chunks,
            tokens=self.tokens,
            truncated=self.truncated,
        )

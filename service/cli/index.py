"""`decant index`."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .exit_codes import ExitCode
from .loading import load_encoder, name_of
from .options import DEFAULT_STORE, Debug, Device, Dtype, DtypeOption, Json, Model, Store
from .output import print_json, results, say, table
from .problem import Problem, require_paths
from .progress import progress_bar
from .store_model import model_of

if TYPE_CHECKING:
    from ...index.ingest import IndexProgress, IndexReport

NAME = "index"
SHORT_HELP = "Read files and folders into an index that can be searched."
# The same as index.chunking.DEFAULT_CHUNK_TOKENS, which cannot be imported without torch.
CHUNK_TOKENS = 256


class StateFormat(StrEnum):
    """Number formats of cached hidden states."""

    FLOAT16 = "float16"
    INT8 = "int8"


class Engine(StrEnum):
    """What does the work."""

    LOCAL = "local"
    RAY = "ray"


def command(
    paths: Annotated[list[Path], typer.Argument(metavar="PATH", help="Folders and files to index.")],
    store: Store = DEFAULT_STORE,
    model: Model = None,
    chunk_tokens: Annotated[int, typer.Option(min=1, help="Most tokens of one passage.")] = CHUNK_TOKENS,
    overlap: Annotated[int, typer.Option(min=0, help="Tokens a passage may repeat from the one before.")] = 0,
    outputs: Annotated[
        str | None,
        typer.Option(
            "--outputs",
            metavar="LIST",
            help="What a new index holds of each passage, commas between: dense, with sparse or router where the model "
            "makes them. Default: what the model wants held, which is dense with decant-mini.",
        ),
    ] = None,
    late_chunking: Annotated[
        bool, typer.Option("--late-chunking", help="Encode documents whole, so that passages know their context.")
    ] = False,
    cache_context: Annotated[
        StateFormat | None,
        typer.Option(
            "--cache-context",
            help="Also keep each passage's hidden states in this format, so that answering reads none of them again.",
        ),
    ] = None,
    engine: Annotated[
        Engine,
        typer.Option(
            "--engine",
            help="local: this process. ray: many workers, here or on the cluster that RAY_ADDRESS names; one commit at "
            "the end, nothing visible before.",
        ),
    ] = Engine.LOCAL,
    workers: Annotated[
        int | None, typer.Option("--workers", min=1, help="Of --engine ray. Default: one for each processor or GPU.")
    ] = None,
    device: Device = None,
    dtype: DtypeOption = None,
    as_json: Json = False,
    debug: Debug = False,
) -> int:
    """Read files and folders into an index that can be searched.

    Reads text, Markdown, HTML, PDF, Word, reStructuredText, source code and .jsonl (a document per line). Run it
    again whenever you like: only what changed is encoded, what vanished is removed. If it is interrupted, the next
    run goes on from there. A file that cannot be read is reported and the others are indexed all the same.
    """
    require_paths(paths)
    if workers is not None and engine is Engine.LOCAL:
        raise Problem("--workers goes with --engine ray: one process does the local engine's work")
    held = None if outputs is None else tuple(name.strip() for name in outputs.split(","))
    options = _Options(engine, workers, chunk_tokens, overlap, late_chunking, cache_context, held)
    report, seconds = _index(paths, store, model, options, device, dtype, debug=debug)
    if as_json:
        print_json({"store": str(store), "seconds": round(seconds, 3), **_as_json(report)})
    else:
        _print(report, store, seconds)
    return ExitCode.PARTIAL if report.failed else ExitCode.OK


@dataclass(frozen=True)
class _Options:
    """How to index."""

    engine: Engine
    workers: int | None
    chunk_tokens: int
    overlap: int
    late: bool
    cache_context: StateFormat | None
    outputs: tuple[str, ...] | None


def _index(
    paths: list[Path],
    folder: Path,
    model: str | None,
    options: _Options,
    device: str | None,
    dtype: Dtype | None,
    *,
    debug: bool,
) -> tuple[IndexReport, float]:
    model = model_of(folder, model)
    encoder = load_encoder(model, device, dtype, debug=debug)
    run = _engine(options, model, device, dtype)
    from ...index.store import Store as IndexStore

    began = time.monotonic()
    with (
        IndexStore.open(folder, encoder=encoder, create=True, outputs=options.outputs) as store,
        progress_bar(f"indexing with {name_of(model)}") as advance,
    ):

        def progress(now: IndexProgress) -> None:
            advance(now.bytes_done, now.bytes_total, f"{now.chunks} passages  {Path(now.path).name}")

        report = run(
            store,
            encoder,
            paths,
            chunk_tokens=options.chunk_tokens,
            overlap=options.overlap,
            late_chunking=options.late,
            progress=progress,
        )
        if options.cache_context is not None:
            from ...rag.context_cache import cache_context as cache

            cache(store, encoder, dtype=options.cache_context.value)
    return report, time.monotonic() - began


def _engine(
    options: _Options, model: str | None, device: str | None, dtype: Dtype | None
) -> Callable[..., IndexReport]:
    from ...index.ingest import index_paths

    if options.engine is Engine.LOCAL:
        return index_paths
    from ...embedder import Encoder
    from ...index.cluster.engine import index_on_cluster, require_libraries

    require_libraries()
    return partial(
        index_on_cluster,
        load=partial(Encoder.load, model, device=device, dtype=dtype),
        workers=options.workers,
        gpus_per_worker=1 if (device or "").startswith("cuda") else 0,
    )


def _as_json(report: IndexReport) -> dict[str, object]:
    values = asdict(report)
    values["failed"] = [{"path": f.path, "reason": f.reason} for f in report.failed]
    values["ignored"] = [{"path": f.path, "reason": f.reason} for f in report.ignored]
    return values


def _print(report: IndexReport, store: Path, seconds: float) -> None:
    grid = table("added", "changed", "unchanged", "removed", "failed", "passages", "tokens", "seconds")
    for column in grid.columns:
        column.justify = "right"
    counts = (report.added, report.changed, report.unchanged, report.removed, len(report.failed))
    grid.add_row(*map(str, counts), str(report.chunks), f"{report.tokens:,}", f"{seconds:.1f}")
    results().print(grid)
    if report.truncated:
        say(f"{report.truncated} passages were cut to the model's longest input", style="yellow")
    if report.ignored:
        say(f"{len(report.ignored)} files of formats that are not read were left out (--json lists them)")
    for failure in report.failed:
        say(f"failed: {failure}", style="red")
    if report.failed:
        say(f"{len(report.failed)} failed, the rest is in {store}", style="red")

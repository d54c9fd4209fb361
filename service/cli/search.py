"""`decant search`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from .loading import load_encoder, waiting
from .options import DEFAULT_STORE, Debug, Device, DtypeOption, Json, Mode, Model, Store
from .output import print_json, results, say
from .problem import Problem, require_store
from .snippet import Snippet, snippet_of

if TYPE_CHECKING:
    from ...index.documents import Hit

NAME = "search"
SHORT_HELP = "Find the passages that answer a question."


def command(
    query: Annotated[str, typer.Argument(metavar="QUERY", help="What to look for, in plain words.")],
    store: Store = DEFAULT_STORE,
    mode: Annotated[
        Mode, typer.Option("--mode", help="By meaning (dense), by words (lexical), or both fused (hybrid).")
    ] = Mode.HYBRID,
    k: Annotated[int, typer.Option("-k", min=1, help="How many results.")] = 5,
    where: Annotated[
        str | None,
        typer.Option("--filter", metavar="SQL", help="Search only these, for example \"path LIKE '%.md'\"."),
    ] = None,
    exact: Annotated[
        bool, typer.Option("--exact", help="Compare every vector, and report what the fast search would have missed.")
    ] = False,
    model: Model = None,
    device: Device = None,
    dtype: DtypeOption = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Find the passages that answer a question.

    Results come best first: the file, the range of characters in its text, the score, and the part of the passage
    that matters most. Scores are cosines (dense), BM25 (lexical) or sums of reciprocal ranks (hybrid); they compare
    results of one search, not of two.
    """
    require_store(store)
    if not query.strip():
        raise Problem("the query is empty: say what to look for")
    encoder = load_encoder(model, device, dtype, debug=debug)
    if mode is not Mode.LEXICAL and encoder.encode([query], kind="query").truncated[0]:
        say(
            f"the query is longer than {encoder.max_tokens} tokens: only its beginning is compared by meaning", "yellow"
        )
    from ...index.searcher import Searcher
    from ...index.store import Store as IndexStore

    with waiting("searching"), IndexStore.open(store, encoder=encoder, read_only=True) as opened:
        searcher = Searcher(opened, encoder)
        began = time.perf_counter()
        hits = searcher.search(query, mode=mode.value, k=k, filter=where, exact=exact)
        milliseconds = (time.perf_counter() - began) * 1000
        missed = _missed(hits, searcher.search(query, mode=mode.value, k=k, filter=where)) if exact else None
    if as_json:
        print_json(_as_json(query, mode, hits, milliseconds, missed))
        return
    _print(query, hits)
    if missed is not None:
        say(f"the fast search misses {missed} of these {len(hits)}")


def _missed(exact: list[Hit], fast: list[Hit]) -> int:
    return len({_key(hit) for hit in exact} - {_key(hit) for hit in fast})


def _key(hit: Hit) -> tuple[str, int]:
    return hit.chunk.doc_id, hit.chunk.ordinal


def _as_json(query: str, mode: Mode, hits: list[Hit], milliseconds: float, missed: int | None) -> dict[str, object]:
    return {
        "query": query,
        "mode": mode.value,
        "milliseconds": round(milliseconds, 1),
        **({} if missed is None else {"recall_of_fast_search": 1 - missed / max(len(hits), 1)}),
        "hits": [
            {
                "rank": rank,
                "score": hit.score,
                "doc_id": hit.chunk.doc_id,
                "path": hit.path,
                "title": hit.title,
                "start_char": hit.chunk.start_char,
                "end_char": hit.chunk.end_char,
                "text": hit.chunk.text,
                "metadata": dict(hit.metadata),
                "ranks": dict(hit.ranks),
            }
            for rank, hit in enumerate(hits, start=1)
        ],
    }


def _print(query: str, hits: list[Hit]) -> None:
    console = results()
    if not hits:
        say("nothing found: try other words, another --mode, or a wider --filter")
        return
    width = min(console.width, 100)
    for rank, hit in enumerate(hits, start=1):
        console.print(_heading(rank, hit), width=width)
        if hit.title and hit.title != Path(hit.path).stem:
            console.print(Text(f"    {hit.title}", style="italic"), width=width, no_wrap=True, overflow="ellipsis")
        for line in _lines(snippet_of(hit.chunk.text, query), width - 4):
            console.print(Text("    ").append_text(line), width=width)
        console.print()


def _heading(rank: int, hit: Hit) -> Text:
    name = hit.path or hit.chunk.doc_id
    record = hit.chunk.doc_id.partition("#")[2]
    place = f"{name}#{record}" if record else name
    return Text.assemble(
        (f"{rank:>2}  ", "bold"),
        (f"{hit.score:.4f}  ", "dim"),
        (place, "cyan"),
        (f":{hit.chunk.start_char}-{hit.chunk.end_char}", "green"),
    )


def _lines(snippet: Snippet, width: int) -> list[Text]:
    text = Text(snippet.text)
    for start, end in snippet.marked:
        text.stylize("bold yellow", start, end)
    return list(text.wrap(results(), width))

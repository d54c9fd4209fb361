"""`decant search`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from .loading import waiting
from .modes import checked_modes
from .opening import open_index, open_words
from .options import DEFAULT_STORE, Debug, Device, DtypeOption, Json, Model, RouterWeight, Store
from .output import print_json, results, say
from .problem import Problem
from .snippet import Snippet, snippet_of

if TYPE_CHECKING:
    from ...embedder.encoder import Encoder
    from ...index.documents import Hit
    from ...index.fusion import Fusion
    from ...index.refine import Refine, Reranker

NAME = "search"
SHORT_HELP = "Find the passages that answer a question."


def command(
    query: Annotated[str, typer.Argument(metavar="QUERY", help="What to look for, in plain words.")],
    store: Store = DEFAULT_STORE,
    mode: Annotated[
        str,
        typer.Option(
            "--mode",
            metavar="MODE",
            help="By meaning (dense), by words (lexical), by learned terms (sparse), by all that the index holds "
            "(hybrid), or by some with + between, as in dense+sparse.",
        ),
    ] = "hybrid",
    k: Annotated[int, typer.Option("-k", min=1, help="How many results.")] = 5,
    where: Annotated[
        str | None,
        typer.Option("--filter", metavar="SQL", help="Search only these, for example \"path LIKE '%.md'\"."),
    ] = None,
    exact: Annotated[
        bool, typer.Option("--exact", help="Compare every vector, and report what the fast search would have missed.")
    ] = False,
    fusion: Annotated[
        str, typer.Option("--fusion", metavar="HOW", help="How lists are fused: zscore, minmax or rrf.")
    ] = "zscore",
    weights: Annotated[
        str, typer.Option("--weights", metavar="LIST", help="Weights of the fused lists, as in dense=2,lexical=1.")
    ] = "",
    router_weight: RouterWeight = 1.0,
    per_document: Annotated[
        int | None, typer.Option("--per-document", min=1, help="At most so many passages of one document.")
    ] = None,
    diversity: Annotated[
        float | None,
        typer.Option("--diversity", min=0, max=1, help="From 0, the most relevant, to 1, the most different passages."),
    ] = None,
    rerank: Annotated[
        str | None,
        typer.Option(
            "--rerank",
            metavar="late|FOLDER",
            help="Score the best hits again: late, by the model's own token vectors, or with a cross-encoder's folder.",
        ),
    ] = None,
    model: Model = None,
    device: Device = None,
    dtype: DtypeOption = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Find the passages that answer a question.

    Results come best first: the file, the range of characters in its text, the score, and the part of the passage
    that matters most. Scores are cosines (dense), BM25 (lexical) or sums of both, each on its own scale (hybrid); they
    compare results of one search, not of two. The model is the one that made the index; --mode lexical loads none, and
    starts in a quarter of the time.
    """
    checked_modes(mode, "--mode")
    if not query.strip():
        raise Problem("the query is empty: say what to look for")
    by_words = mode == "lexical" and model is None and rerank != "late"
    index = open_words(store) if by_words else open_index(store, model, device, dtype, debug=debug)
    with index as (opened, encoder), waiting("searching"):
        from ...index.searcher import Searcher

        if encoder is not None and mode != "lexical" and encoder.encode([query], kind="query").truncated[0]:
            most = encoder.max_tokens
            say(f"the query is longer than {most} tokens: only its beginning is compared by meaning", "yellow")
        searcher = Searcher(opened, encoder, fusion=_fusion(fusion, weights), router_weight=router_weight)
        refine = _refine(per_document, diversity, _reranker(rerank, encoder, device))
        began = time.perf_counter()
        hits = searcher.search(query, mode=mode, k=k, filter=where, exact=exact, refine=refine)
        milliseconds = (time.perf_counter() - began) * 1000
        fast = searcher.search(query, mode=mode, k=k, filter=where, refine=refine) if exact else hits
        missed = _missed(hits, fast) if exact else None
    if as_json:
        print_json(_as_json(query, mode, hits, milliseconds, missed))
        return
    _print(query, hits)
    if missed is not None:
        say(f"the fast search misses {missed} of these {len(hits)}")


def _fusion(method: str, weights: str) -> Fusion:
    from ...index.fusion import Fusion

    parsed: dict[str, float] = {}
    for part in filter(None, (piece.strip() for piece in weights.split(","))):
        name, _, value = part.partition("=")
        try:
            parsed[name.strip()] = float(value)
        except ValueError:
            raise Problem(f"--weights {part!r} is not MODE=NUMBER: write it like dense=2,lexical=1") from None
    return Fusion(method, parsed)


def _refine(per_document: int | None, diversity: float | None, reranker: Reranker | None) -> Refine:
    from ...index.refine import Refine

    return Refine(per_document, diversity, reranker)


def _reranker(rerank: str | None, encoder: Encoder | None, device: str | None) -> Reranker | None:
    if rerank is None:
        return None
    from ...index.rerank import CrossEncoderReranker, LateInteraction

    if rerank != "late":
        return CrossEncoderReranker(rerank, device=device)
    assert encoder is not None, "late interaction is never opened without"
    return LateInteraction(encoder)


def _missed(exact: list[Hit], fast: list[Hit]) -> int:
    return len({_key(hit) for hit in exact} - {_key(hit) for hit in fast})


def _key(hit: Hit) -> tuple[str, int]:
    return hit.chunk.doc_id, hit.chunk.ordinal


def _as_json(query: str, mode: str, hits: list[Hit], milliseconds: float, missed: int | None) -> dict[str, object]:
    return {
        "query": query,
        "mode": mode,
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

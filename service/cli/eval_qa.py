"""`decant eval-qa`."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .generators import DEFAULT_GENERATOR, Draft, GeneratorModel, GeneratorName, Reuse, make_answerer
from .loading import load_encoder
from .options import Debug, Device, DtypeOption, Json, Model
from .output import print_json, results, say, table
from .problem import require_paths
from .progress import progress_bar

if TYPE_CHECKING:
    from ...rag import Answerer
    from ...rag.evaluation import Example, SweepPoint

NAME = "eval-qa"
SHORT_HELP = "Measure answers on a SQuAD file: F1, citations, abstention, cost."


def command(
    squad: Annotated[Path, typer.Argument(metavar="SQUAD_JSON", help="SQuAD 1.1 or 2.0, .json or .json.gz.")],
    modes: Annotated[str, typer.Option("--modes", metavar="LIST", help="Ways to search, with commas between.")] = (
        "hybrid"
    ),
    passages: Annotated[
        str, typer.Option("--passages", metavar="LIST", help="Numbers of passages to read, with commas between.")
    ] = "8",
    questions: Annotated[int, typer.Option(min=0, help="Ask only so many, drawn at random; 0 for all.")] = 0,
    plot: Annotated[Path | None, typer.Option(metavar="PNG", help="Draw F1 over the number of passages.")] = None,
    store: Annotated[
        Path | None, typer.Option("--store", metavar="DIR", help="Keep the index here. Default: a temporary folder.")
    ] = None,
    generator: GeneratorName = DEFAULT_GENERATOR,
    generator_model: GeneratorModel = None,
    draft: Draft = None,
    kv_reuse: Reuse = None,
    model: Model = None,
    device: Device = None,
    dtype: DtypeOption = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Measure answers on a SQuAD file: F1, citations, abstention, cost.

    All passages of the file are indexed, also those whose questions are not asked, and each question is answered from
    what is found among them. EM and F1 are SQuAD's; `found` is the share of answerable questions with a right answer
    in a passage that was read, `cited` of citations that hold one, `answered` of answerable questions answered,
    `refused` of unanswerable ones not answered, `cached` of the tokens that a cache supplied. A generator that knows
    how sure it is tells what would be refused where that decides and 80 % of the answerable questions are answered.
    With several generators (commas between them), modes or numbers of passages, the setting to use is named.
    """
    require_paths([squad])
    counts = _numbers(passages)
    from ...rag.evaluation import draw_sweep, read_examples, recommended

    every = read_examples(squad)
    asked = read_examples(squad, questions)
    encoder = load_encoder(model, device, dtype, debug=debug)
    from ...index.store import Store as IndexStore
    from ...rag import AnswerRules
    from ...rag.evaluation import index_examples

    with ExitStack() as stack:
        folder = store or Path(stack.enter_context(tempfile.TemporaryDirectory())) / "store"
        opened = stack.enter_context(IndexStore.open(folder, encoder=encoder, create=True))
        index_examples(opened, encoder, every)
        answerers = [
            make_answerer(opened, encoder, AnswerRules(), who, generator_model, draft, device, kv_reuse)
            for who in generator.split(",")
        ]
        points = _sweep(answerers, asked, modes.split(","), counts)
    if plot is not None:
        draw_sweep(points, plot)
    if as_json:
        print_json({"points": [asdict(point) for point in points]})
        return
    _print(points)
    if len(points) > 1:
        best = recommended(points)
        say(f"read {best.k} passages found by {best.mode} search, answered by {best.generator}")


def _numbers(passages: str) -> list[int]:
    try:
        counts = [int(k) for k in passages.split(",")]
    except ValueError:
        counts = []
    if not counts or min(counts) < 1:
        raise typer.BadParameter(f"{passages!r} is no list of numbers of passages: write 1,4,8")
    return counts


def _sweep(
    answerers: Sequence[Answerer], asked: list[Example], modes: list[str], counts: list[int]
) -> list[SweepPoint]:
    from ...rag.evaluation import SweepPoint, evaluate_qa

    points: list[SweepPoint] = []
    settings = list(product(answerers, modes, counts))
    total = len(settings) * len(asked)
    with progress_bar("asking") as advance:
        for answerer, mode, k in settings:
            before, who = len(points) * len(asked), answerer.writer

            def told(done: int, before: int = before, doing: str = f"{who} {mode} {k}") -> None:
                advance(before + done, total, doing)

            points.append(SweepPoint(who, mode, k, evaluate_qa(answerer, asked, k=k, mode=mode, progress=told)))
    return points


def _print(points: list[SweepPoint]) -> None:
    columns = ("k", "EM", "F1", "found", "cited", "answered", "refused", "s", "cached")
    grid = table("by", "mode", *columns, right=columns)
    for point in points:
        r = point.report
        shares = (r.exact_match, r.f1, r.answer_recall, r.citation_precision, r.coverage, r.abstention)
        shown = ["-" if share is None else f"{100 * share:.1f}" for share in shares]
        grid.add_row(
            point.generator, point.mode, str(point.k), *shown, f"{r.seconds:.2f}", f"{100 * r.cached_share:.0f}"
        )
    results().print(grid)
    for point in points:
        if (share := point.report.abstention_at_80) is not None:
            say(
                f"{point.generator}, {point.mode}, {point.k}: where its confidence decides and 80 % of the answerable "
                f"questions are answered, {100 * share:.1f} % of the others are refused"
            )

"""`decant mine`."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from .loading import load_encoder
from .options import Debug, Device, DtypeOption, Model
from .output import say
from .problem import Problem, require_paths
from .progress import progress_bar

NAME = "mine"
SHORT_HELP = "Find hard negatives for training pairs, leaving out hidden positives."


class Limit(StrEnum):
    """How far below the positive a negative must score."""

    PERCENT = "percent"
    MARGIN = "margin"


class Soft(StrEnum):
    """Whether softer negatives are mixed in."""

    NONE = "none"
    BY_RANK = "by_rank"


def command(
    pairs: Annotated[Path, typer.Argument(metavar="PAIRS", help="JSON lines with query and positive, gzipped or not.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="New .jsonl file, with negatives added.")],
    model: Model = None,
    negatives: Annotated[int, typer.Option(min=1, help="Negatives for each pair.")] = 4,
    limit: Annotated[float, typer.Option(help="Share of the lowest positive's score, or margin below it.")] = 0.95,
    limit_kind: Annotated[Limit, typer.Option(help="What the limit is.")] = Limit.PERCENT,
    pool: Annotated[int, typer.Option(min=1, help="Best candidates that negatives are drawn from.")] = 10,
    depth: Annotated[int, typer.Option(min=1, help="Passages looked at for each query.")] = 100,
    soft: Annotated[Soft, typer.Option(help="by_rank: random negatives where the positive ranks low.")] = Soft.NONE,
    seed: Annotated[int, typer.Option(help="Seed of the draws.")] = 0,
    device: Device = None,
    dtype: DtypeOption = None,
    debug: Debug = False,
) -> None:
    """Find hard negatives for training pairs, leaving out hidden positives.

    Negatives are other pairs' positives that the model scores highly, but below 95 % of what the query's own lowest
    positive scores: what comes nearer is too often an answer as well.
    """
    require_paths([pairs])
    if out.exists():
        raise Problem(f"{out} exists: choose a new file")
    encoder = load_encoder(model, device, dtype, debug=debug)
    from ...embedder.training.data import read_pair_data
    from ...embedder.training.mining import MiningSettings, mine
    from ...embedder.training.training_recipe import DataSettings

    settings = MiningSettings(negatives, limit, limit_kind.value, pool, depth, soft.value, seed)
    data = read_pair_data(pairs.name, DataSettings([str(pairs)]), {})
    found = hard = without = 0
    unfinished = out.with_name(f".{out.name}.tmp")
    with progress_bar("mining") as advance, unfinished.open("w", encoding="utf-8") as file:
        for number, mined in enumerate(mine(data.pairs, encoder, settings), 1):
            record = {
                "query": mined.pair.query,
                "positive": mined.pair.positive,
                "negatives": mined.negatives,
                "positive_score": round(mined.positive_score, 4),
                "negative_scores": [round(score, 4) for score in mined.scores],
            }
            file.write(json.dumps(record, ensure_ascii=False) + "\n")
            found, hard = found + len(mined.negatives), hard + mined.hard
            without += not mined.negatives
            advance(number, len(data.pairs), "")
    unfinished.replace(out)
    say(f"{found:,} negatives for {len(data.pairs):,} pairs, {hard:,} of them hard; {without:,} pairs have none")

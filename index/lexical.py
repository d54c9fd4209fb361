"""Lexical search: BM25 from LanceDB's full-text index over the chunks' text, each under its document's title.

English stemming is on: a question rarely uses the inflection of its answer, and a stemmed index still finds exact
words. Every word is indexed, but a query's question and function words are dropped where it has others: what is
asked must not count like what is asked about. Lance could leave stop words out of the index, with a longer list that
it applies to stems; then "while loop" is a search for loops, and "to be or not to be" finds nothing. On 1,500
questions over the 18,891 paragraphs of SQuAD's training part, MRR@10 is 0.780 so, 0.773 with Lance's list, 0.764 with
neither, and 0.747 without stemming, too. Accents are folded and case is ignored.

The title goes before every chunk, as it does for the encoder: a passage from the middle of a document seldom names
what the document is about. On 1,000 questions over 5,000 of those paragraphs that is worth 0.009 nDCG@10 (0.885 to
0.894); the title as a field of its own gives nothing where the best field counts and half as much where both add up.

Rows that came after the index was last brought up to date are searched one by one by Lance; they are found, only
their scores use slightly older word counts.
"""

from __future__ import annotations

import re
from datetime import timedelta

import numpy as np
from lancedb.index import FTS
from lancedb.table import Table
from numpy.typing import NDArray

from .snapshot import Snapshot
from .topk import EMPTY, Ranked, ranked

TEXT_INDEX = "words_idx"
# Lance cuts ties at the limit anywhere; this many rows beyond it are asked for so that the cut can be ours.
TIE_ROOM = 16
_FUNCTION_WORDS = frozenset(
    "a an and are as at be but by did do does for how if in into is it no not of on or such that the their then there "
    "these they this to was what when where which who whom whose why will with".split()
)
CONFIG = FTS(base_tokenizer="simple", language="English", stem=True, remove_stop_words=False, ascii_folding=True)


def create_text_index(table: Table) -> None:
    """Make the full-text index, in place of one that is there."""
    table.create_index("words", config=CONFIG, wait_timeout=timedelta(minutes=10))


def unindexed_rows(table: Table) -> int:
    """How many rows the full-text index has not seen yet."""
    stats = table.index_stats(TEXT_INDEX)
    return stats.num_unindexed_rows if stats is not None else table.count_rows()


def content_words(query: str) -> str:
    """The query without question and function words, or all of it where nothing else is left.

    Capitals are kept: in "who leads the WHO" only the last word names what is wanted.
    """
    shouted = query.isupper()

    def keep(match: re.Match[str]) -> str:
        word = match.group()
        acronym = len(word) > 1 and word.isupper() and not shouted
        return word if acronym or word.lower() not in _FUNCTION_WORDS else ""

    kept = re.sub(r"\w+", keep, query)
    return kept if re.search(r"\w", kept) else query


def search_text(snapshot: Snapshot, query: str, k: int, where: str | None) -> Ranked:
    """The k best rows of one query; equal scores by chunk id, also where k cuts through them.

    Args:
        snapshot: where to search.
        query: plain words, no operators.
        k: how many at most.
        where: SQL from `Snapshot.filter_sql`, or None.
    """
    words = content_words(query)
    limit = min(k + TIE_ROOM, len(snapshot))
    while limit:
        positions, scores = snapshot.full_text(words, limit, where)
        cut_in_tie = len(scores) == limit and limit < len(snapshot) and _ties_at(scores, k)
        if not cut_in_tie:
            return ranked(positions, scores, snapshot.chunk_ids[positions], k)
        limit = min(4 * limit, len(snapshot))
    return EMPTY


def _ties_at(scores: NDArray[np.float32], k: int) -> bool:
    """Whether the last score found equals the k-th, so that more rows may share it."""
    return len(scores) >= k and bool(scores.min() >= np.sort(scores)[::-1][k - 1])

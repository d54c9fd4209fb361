"""The terms of sparse vectors, for people: a table per text, or a JSON line."""

from __future__ import annotations

from collections.abc import Sequence

from rich.text import Text

from ...embedder import Embeddings, Encoder
from .output import print_json, results, table


class TermWriter:
    """Prints each text's heaviest terms."""

    def __init__(self, encoder: Encoder, top: int, *, as_json: bool) -> None:
        """Show `top` terms a text, in the words of the encoder's tokenizer."""
        self._encoder, self._top, self._as_json = encoder, top, as_json

    def write(self, names: Sequence[str], part: Embeddings) -> None:
        """Print the rows: `names[i]` belongs to row i of `part`."""
        assert part.sparse is not None
        rows = self._encoder.terms(part.sparse, top=self._top)
        for name, terms in zip(names, rows, strict=True):
            if self._as_json:
                print_json({"id": name, "terms": [[term, round(weight, 4)] for term, weight in terms]})
                continue
            grid = table("text", "term", "weight", "", right=("weight",))
            heaviest = terms[0][1] if terms else 1.0
            for i, (term, weight) in enumerate(terms):
                bar = Text("\u2588" * max(1, round(20 * weight / heaviest)), "cyan")
                grid.add_row("" if i else name, Text(term), f"{weight:.3f}", bar)
            if not terms:
                grid.add_row(name, Text("no terms", "dim"), "", "")
            results().print(grid)

    def finish(self) -> None:
        """Nothing is missing after the last text."""

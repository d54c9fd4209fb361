"""Citations: numbered as they first occur, and only of text that the store holds where they point."""

from __future__ import annotations

from ..index.store import Store
from .answer import Citation
from .evidence import Evidence
from .introduced import introduced


class Citer:
    """Numbers the citations of one answer; the text of each document is read from the store once."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._texts: dict[str, str | None] = {}
        self.citations: list[Citation] = []
        self.rejected = 0

    def cite(self, evidence: Evidence, *, whole: bool = False) -> int | None:
        """Return the number of the citation for a sentence; None if the store does not hold it there any more.

        `whole` takes what the sentence introduces along, see `introduced`; what then has been cited word for word from
        elsewhere has that number.
        """
        hit = evidence.hit
        start, end = evidence.start_char, evidence.end_char
        text = self._text(hit.chunk.doc_id)
        if text is None or text[start:end] != evidence.sentence.text:
            self.rejected += 1
            return None
        if whole:
            end = introduced(text, start, end)
        for known in self.citations:
            if (known.doc_id, known.start_char, known.end_char) == (hit.chunk.doc_id, start, end):
                return known.number
            if whole and known.text == text[start:end]:
                return known.number
        number = len(self.citations) + 1
        place = (hit.chunk.doc_id, hit.path, hit.title, start, end)
        self.citations.append(Citation(number, *place, text[start:end], evidence.score))
        return number

    def _text(self, doc_id: str) -> str | None:
        if doc_id not in self._texts:
            try:
                self._texts[doc_id] = self._store.text(doc_id)
            except KeyError:
                self._texts[doc_id] = None
        return self._texts[doc_id]

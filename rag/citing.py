"""Citations: numbered as they first occur, and only of text that the store holds where they point."""

from __future__ import annotations

from ..index.store import Store
from .answer import Citation
from .evidence import Evidence


class Citer:
    """Numbers the citations of one answer; the text of each document is read from the store once."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._texts: dict[str, str | None] = {}
        self.citations: list[Citation] = []
        self.rejected = 0

    def cite(self, evidence: Evidence) -> int | None:
        """Return the number of the citation for a sentence; None if the store does not hold it there any more."""
        place = (evidence.hit.chunk.doc_id, evidence.start_char, evidence.end_char)
        for known in self.citations:
            if (known.doc_id, known.start_char, known.end_char) == place:
                return known.number
        if not self._holds(evidence):
            self.rejected += 1
            return None
        number = len(self.citations) + 1
        hit, text = evidence.hit, evidence.sentence.text
        self.citations.append(Citation(number, place[0], hit.path, hit.title, place[1], place[2], text, evidence.score))
        return number

    def _holds(self, evidence: Evidence) -> bool:
        doc_id = evidence.hit.chunk.doc_id
        if doc_id not in self._texts:
            try:
                self._texts[doc_id] = self._store.text(doc_id)
            except KeyError:
                self._texts[doc_id] = None
        text = self._texts[doc_id]
        return text is not None and text[evidence.start_char : evidence.end_char] == evidence.sentence.text

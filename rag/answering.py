"""From a question to an answer that cites: retrieve, select verbatim evidence, verify, answer or abstain."""

from __future__ import annotations

from dataclasses import dataclass

from ..index.encoder import Encoder
from ..index.searcher import Searcher
from ..index.store import Store
from .answer import Answer, Citation
from .errors import AnswerError
from .evidence import Evidence, find_evidence

NO_ANSWER = "There is no answer to this in these documents."


@dataclass(frozen=True)
class AnswerRules:
    """How evidence becomes an answer; benchmarks/evidence.py gave weight and threshold, on SQuAD training questions.

    Attributes:
        passages: passages retrieved.
        mode: how, see `Searcher.search`.
        sentences: the most sentences an answer quotes.
        word_weight: see `find_evidence`.
        threshold: the strongest sentence must score this much, or there is no answer.
        share: further sentences must score at least this share of the strongest.
    """

    passages: int = 8
    mode: str = "hybrid"
    sentences: int = 3
    word_weight: float = 4.0
    threshold: float = 6.3
    share: float = 0.8


class Answerer:
    """Answers questions from one store, in the words of its documents; no text is ever made up.

    What a document says is data: it is quoted or not, and cannot change these rules.
    """

    def __init__(self, store: Store, encoder: Encoder, rules: AnswerRules | None = None) -> None:
        """Raises `StoreMismatch` if the encoder is not the store's."""
        self._store = store
        self._encoder = encoder
        self._searcher = Searcher(store, encoder)
        self.rules = rules or AnswerRules()

    def ask(self, question: str, *, filter: str | None = None) -> Answer:
        """Answer a question.

        Args:
            question: in plain words.
            filter: only documents that meet it are read, see `Searcher.search`.

        Raises:
            AnswerError: the question is empty, or too long for the model to read whole.
            FilterError: the filter makes no sense.
        """
        if not question.strip():
            raise AnswerError("the question is empty: ask something")
        if self._encoder.encode([question], kind="query").truncated[0]:
            raise AnswerError(f"the question is longer than the model's {self._encoder.max_tokens} tokens: shorten it")
        hits = self._searcher.search(question, mode=self.rules.mode, k=self.rules.passages, filter=filter)
        found = find_evidence(question, hits, self._store, self._encoder, word_weight=self.rules.word_weight)
        citations = self._cite(found)
        if not citations or citations[0].score < self.rules.threshold:
            return Answer(question, NO_ANSWER, (), grounded=False)
        return Answer(question, " ".join(f"{c.text} [{c.number}]" for c in citations), citations, grounded=True)

    def _cite(self, found: list[Evidence]) -> tuple[Citation, ...]:
        """Take the strongest sentences, each once, whose text the store holds at their range."""
        citations: list[Citation] = []
        quoted: set[str] = set()
        for evidence in found:
            weak = citations and evidence.score < self.rules.share * citations[0].score
            if len(citations) == self.rules.sentences or weak:
                break
            text = evidence.sentence.text
            if text in quoted or not self._verified(evidence):
                continue
            quoted.add(text)
            hit = evidence.hit
            citations.append(
                Citation(
                    number=len(citations) + 1,
                    doc_id=hit.chunk.doc_id,
                    path=hit.path,
                    title=hit.title,
                    start_char=evidence.start_char,
                    end_char=evidence.end_char,
                    text=text,
                    score=evidence.score,
                )
            )
        return tuple(citations)

    def _verified(self, evidence: Evidence) -> bool:
        """Whether the document, read from the store now, holds the sentence where the citation says."""
        try:
            text = self._store.text(evidence.hit.chunk.doc_id)
        except KeyError:
            return False
        return text[evidence.start_char : evidence.end_char] == evidence.sentence.text

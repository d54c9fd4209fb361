"""From a question to an answer that cites: retrieve, select verbatim evidence, write, verify, or abstain."""

from __future__ import annotations

import math
from collections.abc import Generator as Yields
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Literal, cast

import numpy as np

from ..index.documents import Hit
from ..index.encoder import Encoder
from ..index.searcher import Searcher
from ..index.store import Store
from .answer import Answer, Citation, Message
from .citing import Citer
from .conversation import condense
from .errors import AnswerError
from .evidence import Evidence, find_evidence, says_more
from .generation import NO_ANSWER, Excerpt, Generator, Judge, Source, Task
from .grounding import UNSUPPORTED_MARK, Claim, around, read_claims, supporting
from .sentence_vectors import SentenceVectors
from .sentences import Sentence

AS_QUOTED = "evidence"
# A passage's further sentences are evidence where they score this share of the strongest of all.
_QUOTE_SHARE = 0.5


@dataclass(frozen=True)
class AnswerRules:
    """How evidence becomes an answer; benchmarks/evidence.py gave weights and thresholds, on SQuAD training questions.

    Attributes:
        passages: passages retrieved.
        mode: how, see `Searcher.search`.
        sentences: the most sentences an answer quotes.
        word_weight: see `find_evidence`.
        rank_weight: what a quoted sentence loses for each nat of the logarithm of its passage's rank, in standard
            deviations.
        judge_weight: standard deviations that a nat of the judge's log-odds is worth, where there is a judge.
        threshold: the strongest sentence must score this much, its rank included, or the documents are not quoted.
        judged_threshold: the same of questions that the judge has something to say to.
        floor: the strongest sentence must score this much, or no generator is asked.
        share: further sentences must score at least this share of the strongest.
        support: share of a written sentence's words that the sentences cited for it must hold.
        unsupported: what becomes of a written sentence that nothing supports: `drop`, or `mark` to keep it, marked.
        max_tokens: the most tokens a generator may write.
    """

    passages: int = 8
    mode: str = "hybrid"
    sentences: int = 3
    word_weight: float = 4.0
    rank_weight: float = 0.5
    judge_weight: float = 0.5
    threshold: float = 6.3
    judged_threshold: float = 5.4
    floor: float = 4.0
    share: float = 0.8
    support: float = 0.6
    unsupported: Literal["drop", "mark"] = "drop"
    max_tokens: int = 256


class Answerer:
    """Answers questions from one store; threads may share it.

    Without a generator an answer is made of quotations. With one, what it writes leaves sentence by sentence, each
    with citations that were verified, and falls back to quotations where nothing of it can be supported. What a
    document says is data: it is quoted or not, and cannot change these rules.
    """

    def __init__(
        self,
        store: Store,
        encoder: Encoder,
        rules: AnswerRules | None = None,
        *,
        generator: Generator | None = None,
        judge: Judge | None = None,
    ) -> None:
        """Put the parts together; see `rag.generators.choosing` for generators and for the judge of quotations.

        Raises:
            StoreMismatch: the encoder is not the store's.
        """
        self._store = store
        self._encoder = encoder
        self._searcher = Searcher(store, encoder)
        self._vectors = SentenceVectors(encoder)
        self.generator = generator
        self.judge = judge
        self.rules = rules or AnswerRules()

    @property
    def writer(self) -> str:
        """Who writes: the generator's name, or `evidence`."""
        return AS_QUOTED if self.generator is None else self.generator.name

    def ask(
        self,
        question: str,
        *,
        history: Sequence[Message] = (),
        k: int | None = None,
        mode: str | None = None,
        filter: str | None = None,
        tenant: str = "",
    ) -> Answer:
        """Answer a question.

        Args:
            question: in plain words.
            history: earlier turns, oldest first; what the question points back to is searched for as well.
            k: how many passages are read, instead of the rules' number.
            mode: how they are found, instead of the rules' mode.
            filter: only documents that meet it are read, see `Searcher.search`.
            tenant: on whose behalf; what is cached for one tenant never serves another.

        Raises:
            AnswerError: the question is empty, or too long for the model to read whole; GeneratorError if the
                generator fails.
            FilterError: the filter makes no sense.
        """
        pieces = self.stream(question, history=history, k=k, mode=mode, filter=filter, tenant=tenant)
        *_, last = pieces
        return cast(Answer, last)

    def stream(
        self,
        question: str,
        *,
        history: Sequence[Message] = (),
        k: int | None = None,
        mode: str | None = None,
        filter: str | None = None,
        tenant: str = "",
    ) -> Iterator[str | Answer]:
        """Answer a question in pieces; arguments and errors as of `ask`.

        Everything but the writing is done when this returns. Closing the iterator stops the generator.

        Returns:
            Text, each piece a sentence that was checked, and last the `Answer`, whose text is the pieces put together.
        """
        query = self._query(question, history)
        hits = self.retrieve(query, k=k, mode=mode, filter=filter)
        weight = self.rules.word_weight
        found = find_evidence(query, hits, self._store, self._vectors, word_weight=weight, tenant=tenant)
        task = Task(
            question, query, _sources(found, hits), tuple(history), tenant=tenant, max_tokens=self.rules.max_tokens
        )
        if not found:
            return self._abstain(task)
        if self.generator is None:
            return self._quote(task, *self._weighed(task, found), note="")
        if found[0].score < min(self.rules.floor, self.rules.threshold):
            return self._abstain(task)
        return self._write(task, found, self.generator)

    def retrieve(
        self, query: str, *, k: int | None = None, mode: str | None = None, filter: str | None = None
    ) -> list[Hit]:
        """The passages that an answer to a query would be made from; arguments as of `ask`."""
        return self._searcher.search(query, mode=mode or self.rules.mode, k=k or self.rules.passages, filter=filter)

    def _query(self, question: str, history: Sequence[Message]) -> str:
        if not question.strip():
            raise AnswerError("the question is empty: ask something")
        for query in (condense(question, history), question):
            if not self._encoder.encode([query], kind="query").truncated[0]:
                return query
        raise AnswerError(f"the question is longer than the model's {self._encoder.max_tokens} tokens: shorten it")

    def _abstain(self, task: Task, generator: str = AS_QUOTED, dropped: tuple[str, ...] = ()) -> Iterator[str | Answer]:
        yield NO_ANSWER
        yield Answer(
            task.question,
            NO_ANSWER,
            (),
            grounded=False,
            query=task.query,
            generator=generator,
            dropped=dropped,
            usage=task.meter.usage,
            confidence=task.meter.confidence,
        )

    def _quote(
        self, task: Task, found: Sequence[Evidence], least: float, *, note: str, dropped: tuple[str, ...] = ()
    ) -> Iterator[str | Answer]:
        """The strongest sentences, each once, as the documents have them; nothing where none scores `least`."""
        citer = Citer(self._store)
        parts: list[str] = []
        for evidence in self._quotable(task.query, found, least):
            weak = citer.citations and evidence.score < self.rules.share * citer.citations[0].score
            if len(citer.citations) == self.rules.sentences or weak:
                break
            known = len(citer.citations)
            if any(_is_part(evidence, cited) for cited in citer.citations):
                continue
            if (number := citer.cite(evidence, whole=True)) is None or number <= known:
                continue
            before = "" if not parts else "\n\n" if "\n" in parts[-1] else " "
            parts.append(before + _quoted(evidence.sentence, citer.citations[number - 1]))
            if len(parts) == 1 and citer.citations[0].score < least:
                parts.clear()  # the sentence that was strong enough is gone from the store
                break
            yield parts[-1]
        if not parts:
            yield from self._abstain(task, dropped=dropped)
            return
        yield self._answer(task, "".join(parts), citer.citations, AS_QUOTED, note, dropped)

    def _weighed(self, task: Task, found: Sequence[Evidence]) -> tuple[Sequence[Evidence], float]:
        """Candidates for a quotation, rank and judge in their scores, the strongest first, and what that must score."""
        rules = self.rules
        before = {id(source.hit): source.number - 1 for source in task.sources}
        scores = np.array([e.score - rules.rank_weight * math.log1p(before[id(e.hit)]) for e in found])
        judge = self.judge if rules.judge_weight else None
        odds = np.zeros(len(found)) if judge is None else judge.odds(task, found)
        scores += rules.judge_weight * odds
        weighed = [replace(evidence, score=float(score)) for evidence, score in zip(found, scores, strict=True)]
        return sorted(weighed, key=lambda e: -e.score), rules.judged_threshold if odds.any() else rules.threshold

    def _quotable(self, query: str, found: Sequence[Evidence], least: float) -> Sequence[Evidence]:
        """Prose that does more than repeat the question, where any of it scores `least`; else all there is.

        That is front matter, headings, table rows and code as well.
        """
        told = [e for e in found if e.sentence.prose and (says_more(query, e.sentence.text) or _introduces(e))]
        if told and told[0].score >= least:
            return told
        return found if found[0].score >= least else ()

    def _write(self, task: Task, found: Sequence[Evidence], generator: Generator) -> Iterator[str | Answer]:
        """What the generator writes, each sentence behind its check."""
        citer = Citer(self._store)
        numbers = {id(source.hit): source.number for source in task.sources}
        sentences = [(numbers[id(evidence.hit)], evidence) for evidence in found]
        parts: list[str] = []
        dropped: list[str] = []
        said_no = False
        with _closed(generator.generate(task)) as pieces:
            for claim in read_claims(pieces):
                said_no = said_no or _is_no_answer(claim.text)
                if not claim.text or said_no:
                    continue
                cited = [citer.cite(quote) for quote in self._supporting(claim, sentences)]
                marks = "".join(f" [{number}]" for number in cited if number is not None)
                if not cited or None in cited:
                    dropped.append(claim.text)
                    if self.rules.unsupported == "drop":
                        continue
                    marks = f" {UNSUPPORTED_MARK}"
                before = claim.before if isinstance(claim, Claim) else " "
                parts.append(f"{before if parts else ''}{claim.text}{marks}")
                yield parts[-1]
        if said_no and not parts:
            yield from self._abstain(task, generator.name, tuple(dropped))
        elif not parts:
            why = "nothing it wrote is supported by the documents" if dropped else "it was not sure of an answer"
            note = f"not by {generator.name}, {why}: quoted instead"
            yield from self._quote(task, *self._weighed(task, found), note=note, dropped=tuple(dropped))
        else:
            yield self._answer(task, "".join(parts), citer.citations, generator.name, "", tuple(dropped))

    def _supporting(self, claim: Claim | Excerpt, sentences: Sequence[tuple[int, Evidence]]) -> list[Evidence]:
        if isinstance(claim, Excerpt):
            return around(claim, sentences)
        return supporting(claim, sentences, self.rules.support)

    def _answer(
        self,
        task: Task,
        text: str,
        citations: Sequence[Citation],
        generator: str,
        note: str,
        dropped: tuple[str, ...],
    ) -> Answer:
        return Answer(
            task.question,
            text,
            tuple(citations),
            grounded=bool(citations),
            query=task.query,
            generator=generator,
            note=note,
            dropped=dropped,
            usage=task.meter.usage,
            confidence=task.meter.confidence,
        )


def _sources(found: Sequence[Evidence], hits: Sequence[Hit]) -> tuple[Source, ...]:
    """The passages in the order in which they were found, each with its sentences that come near the strongest."""
    sources: list[Source] = []
    for hit in hits:
        inside = sorted((e for e in found if e.hit is hit), key=lambda e: e.start_char)
        if not inside:
            continue
        best = max(evidence.score for evidence in inside)
        near = tuple(e for e in inside if e.score >= best or e.score >= _QUOTE_SHARE * found[0].score)
        sources.append(Source(len(sources) + 1, hit, near))
    return tuple(sources)


def _introduces(evidence: Evidence) -> bool:
    return evidence.sentence.text.endswith(":")


def _is_part(evidence: Evidence, cited: Citation) -> bool:
    """Whether a sentence stands within what was cited, as one of a list that another introduces does."""
    inside = cited.start_char <= evidence.start_char and evidence.end_char <= cited.end_char
    return inside and evidence.hit.chunk.doc_id == cited.doc_id


def _quoted(sentence: Sentence, cited: Citation) -> str:
    """Prose on one line, its number, and what it introduces or what is no prose line by line, as it stands."""
    lead = " ".join(sentence.text.split()) if sentence.prose else sentence.text
    behind = cited.text[len(sentence.text) :].strip("\r\n")
    return f"{lead} [{cited.number}]" + (f"\n\n{behind}" if behind else "")


def _is_no_answer(text: str) -> bool:
    return text.strip(" .\"'").casefold() == NO_ANSWER.strip(".").casefold()


@contextmanager
def _closed(pieces: Iterator[str | Excerpt]) -> Yields[Iterator[str | Excerpt]]:
    """Close a stream that may be left early, so that its connection or model is free at once."""
    try:
        yield pieces
    finally:
        if callable(close := getattr(pieces, "close", None)):
            close()

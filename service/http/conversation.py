"""What OpenAI's two conversational routes share: reading turns, and finding a citation's mark in the answer."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, Field

from ...embedder import InputError
from ...rag import Answer, Citation, Message
from ..asking import Question

_MARK = re.compile(r"\[(\d+)\]")


class Part(BaseModel):
    """A piece of a message; only text is read."""

    model_config = ConfigDict(extra="ignore")

    type: str = "text"
    text: str | None = None


class Turn(BaseModel):
    """A message of either convention."""

    model_config = ConfigDict(extra="ignore")

    role: str
    content: str | list[Part] | None = None

    @property
    def text(self) -> str:
        """Its text; raises InputError for a part that is none."""
        if isinstance(self.content, str):
            return self.content
        texts: list[str] = []
        for part in self.content or []:
            if part.text is None or part.type not in ("text", "input_text", "output_text"):
                raise InputError(f"a message holds {part.type[:40]!r}: this server reads text only")
            texts.append(part.text)
        return "".join(texts)


class SearchOptions(BaseModel):
    """Ours, beside the convention's fields: where and how much to read."""

    model_config = ConfigDict(extra="forbid")

    store: str = ""
    k: int | None = Field(default=None, ge=1, le=1000)
    filter: str | None = None


@dataclass(frozen=True)
class Marked:
    """A citation's mark in an answer's text: `answer.text[start:end]` is "[number]"."""

    citation: Citation
    start: int
    end: int


def question_of(turns: Sequence[Turn], options: SearchOptions) -> Question:
    """The last user message with what was said before it.

    What system and developer messages ask for cannot be honoured by an answer made of quotations; they are passed over.

    Raises:
        InputError: there is no user message at the end, or one that is not text.
    """
    said = [turn for turn in turns if turn.role in ("user", "assistant")]
    if unknown := [t.role for t in turns if t.role not in ("user", "assistant", "system", "developer")]:
        raise InputError(f"a message has the role {unknown[0][:40]!r}: choose user, assistant or system")
    if not said or said[-1].role != "user":
        raise InputError("the last message must be the user's question")
    history = tuple(Message("user" if turn.role == "user" else "assistant", turn.text) for turn in said[:-1])
    return Question(said[-1].text, history, options.k, options.filter)


def marks_in(answer: Answer) -> list[Marked]:
    """Every "[n]" of the text that belongs to a citation."""
    known = {citation.number: citation for citation in answer.citations}
    return [
        Marked(known[int(found[1])], found.start(), found.end())
        for found in _MARK.finditer(answer.text)
        if int(found[1]) in known
    ]


def source_of(citation: Citation) -> dict[str, object]:
    """The place in the document, as Anthropic's `char_location` has it; the end is exclusive."""
    return {
        "type": "char_location",
        "number": citation.number,
        "file_id": citation.doc_id,
        "filename": citation.path or citation.title or citation.doc_id,
        "document_title": citation.title,
        "start_char_index": citation.start_char,
        "end_char_index": citation.end_char,
        "cited_text": citation.text,
    }

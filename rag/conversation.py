"""A question in a conversation: made to stand by itself, so that a search can find what it means."""

from __future__ import annotations

import re
from collections.abc import Sequence

from .answer import Message
from .evidence import content_words

# Words that point back, and openings that continue; a question with neither stands by itself.
_POINTING = frozenset(
    "he her hers him his it its one ones she that their theirs them there these they this those former latter "
    "else same".split()
)
_OPENING = re.compile(r"^\W*(?:and|but|or|also|then|so|what about|how about|why(?: not)?\W*$)\b", re.IGNORECASE)
_WORD = re.compile(r"\w+")
_FEW_WORDS = 2


def condense(question: str, history: Sequence[Message]) -> str:
    """Return what to search for: the question, behind the earlier ones that it points back to.

    Questions that point back are followed to the last one that does not. Words are added and never rewritten: a
    search by meaning and by words needs the subject, not the grammar.
    """
    chain = [question]
    for message in reversed([message for message in history if message.role == "user"]):
        if not points_back(chain[0]):
            break
        chain.insert(0, message.text)
    return " ".join(text.strip() for text in chain)


def points_back(question: str) -> bool:
    """Whether a question leans on what was said before it."""
    words = _WORD.findall(question.lower())
    few = len(content_words(question)) < _FEW_WORDS
    return few or bool(_OPENING.match(question)) or not _POINTING.isdisjoint(words)

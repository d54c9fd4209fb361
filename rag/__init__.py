"""Passages to grounded answers: evidence, generators, citations, abstention."""

from .answer import Answer, Citation, Message, Usage
from .answering import Answerer, AnswerRules
from .errors import AnswerError, GeneratorError
from .generation import NO_ANSWER, Generator, Source, Task

__all__ = [
    "Answer",
    "AnswerError",
    "AnswerRules",
    "Answerer",
    "Citation",
    "Generator",
    "GeneratorError",
    "Message",
    "NO_ANSWER",
    "Source",
    "Task",
    "Usage",
]

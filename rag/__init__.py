"""Passages to grounded answers: evidence, citations, abstention."""

from .answer import Answer, Citation
from .answering import Answerer, AnswerRules
from .errors import AnswerError

__all__ = ["Answer", "AnswerError", "AnswerRules", "Answerer", "Citation"]

"""What can go wrong between a question and its answer.

DecantError
  └ AnswerError         the question cannot be answered as asked
      └ GeneratorError  whoever was to write the answer failed
"""

from ..embedder.errors import DecantError


class AnswerError(DecantError):
    """A question that cannot be answered as asked."""


class GeneratorError(AnswerError):
    """A generator that could not be loaded or reached, or stopped midway."""

"""What can go wrong between a question and its answer."""

from ..embedder.errors import DecantError


class AnswerError(DecantError):
    """A question that cannot be answered as asked."""

"""A generator double: says what it is told, in pieces of a given size; for tests of everything around generators."""

from __future__ import annotations

from collections.abc import Iterator

from .answer import Usage
from .generation import Task


class Scripted:
    """Writes the same text whatever the question.

    Attributes:
        tasks: what it was given, in order.
        closed: how many of its streams have ended or were closed.
    """

    def __init__(self, text: str, piece: int = 4, name: str = "scripted") -> None:
        self.text = text
        self.piece = piece
        self.name = name
        self.tasks: list[Task] = []
        self.closed = 0

    def generate(self, task: Task) -> Iterator[str]:
        """Yield the text in pieces of `piece` characters."""
        self.tasks.append(task)
        task.meter.usage = Usage(prompt_tokens=len(task.question.split()), completion_tokens=len(self.text.split()))
        try:
            for start in range(0, len(self.text), self.piece):
                yield self.text[start : start + self.piece]
        finally:
            self.closed += 1

"""`Template`: what stands around a text: a prompt, a suffix, a repetition."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

_SLOT = re.compile(r"\{(text|instruction|examples|query|passage)\}")


@dataclass(frozen=True)
class Template:
    """The strings around the copies of a text.

    Attributes:
        parts: what stands before the first copy, between copies, and behind the last one; two parts for a text that
            stands once, three for one that is repeated.
    """

    parts: tuple[str, ...] = ("", "")

    @property
    def copies(self) -> int:
        """How often the text stands in it."""
        return len(self.parts) - 1

    @property
    def is_prefix(self) -> bool:
        """Whether it only puts something in front of the text."""
        return self.copies == 1 and not self.parts[1]

    def wrap(self, text: str) -> str:
        """Return the text with everything around it."""
        return text.join(self.parts)

    def before(self, text: str) -> str:
        """Return what stands before the last copy of the text, earlier copies included."""
        return text.join(self.parts[:-1])


def parse(pattern: str, values: Mapping[str, str]) -> Template:
    """Fill the slots of `pattern`; each `{text}` is a copy of the text, without one it is a prefix.

    Slots are `{text}`, `{instruction}` and `{examples}`; every other brace is an ordinary character, and braces in the
    values are never slots.
    """
    parts = [""]
    end = 0
    for slot in _SLOT.finditer(pattern):
        parts[-1] += pattern[end : slot.start()]
        end = slot.end()
        if slot[1] == "text":
            parts.append("")
        else:
            parts[-1] += values.get(slot[1], slot[0])
    parts[-1] += pattern[end:]
    return Template(tuple(parts) if len(parts) > 1 else (parts[0], ""))


def fill(pattern: str, values: Mapping[str, str]) -> str:
    """Fill the slots that `values` names; slots not named stay as they are."""
    return _SLOT.sub(lambda slot: values.get(slot[1], slot[0]), pattern)

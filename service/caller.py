"""Who asks, and until when: the part of a call that every door fills in and everything behind the doors obeys."""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass, field

_ID_LENGTH = 128


@dataclass(frozen=True)
class Caller:
    """One call's origin.

    Attributes:
        tenant: whose turn in the queue it uses.
        deadline: by `time.monotonic`; None for no limit.
        request_id: names the call in answers and logs.
    """

    tenant: str = ""
    deadline: float | None = None
    request_id: str = field(default_factory=lambda: new_request_id())


def new_request_id() -> str:
    """Return a name for a call that brought none."""
    return f"req-{secrets.token_hex(8)}"


def request_id_from(sent: str | None) -> str:
    """Return the caller's own id where it is fit for a header and a log, else a new one."""
    if sent and len(sent) <= _ID_LENGTH and sent.isascii() and sent.isprintable():
        return sent
    return new_request_id()


def deadline_in(seconds: float | None, at_most: float) -> float:
    """Return the deadline for a call that allows `seconds`, or no limit of its own; never later than `at_most`."""
    return time.monotonic() + (at_most if seconds is None else min(seconds, at_most))

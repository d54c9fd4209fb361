"""API keys: stored as hashes, compared in constant time, each belonging to a tenant and good for some operations."""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Literal

from pydantic import AwareDatetime, StringConstraints

from .errors import Overloaded, PermissionDenied, Unauthenticated

Scope = Literal["embed", "search", "ask", "index", "admin"]
# What a key is good for that says nothing of it; writing and loading models must be granted by name.
SCOPES: tuple[Scope, ...] = ("embed", "search", "ask")
# Names that may become labels, folders and parts of addresses.
NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"


@dataclass(frozen=True)
class ApiKey:
    """A key as it is stored.

    Attributes:
        sha256: of the key, in hexadecimal. Keys are long and random, so a slow hash would add nothing.
        tenant: a configured name, also used as a label of metrics and a folder's name.
        scopes: what it is good for.
        expires: when it stops being valid; None for never.
    """

    sha256: str
    tenant: Annotated[str, StringConstraints(pattern=NAME)]
    scopes: tuple[Scope, ...] = SCOPES
    expires: AwareDatetime | None = None


class KeyRing:
    """All keys of a server; without any, everybody may do everything as the tenant "" ."""

    def __init__(
        self,
        keys: Sequence[ApiKey] = (),
        rates: Mapping[str, float] | None = None,
        *,
        now: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Take the keys.

        Args:
            keys: as configured.
            rates: calls per minute of the tenants that have a limit.
            now: the date, which expiry goes by.
            clock: runs evenly whatever happens to the date; rates go by it.
        """
        self._keys = tuple(keys)
        self._rates = {tenant: _Rate(per_minute, clock) for tenant, per_minute in (rates or {}).items()}
        self._now = now

    def admit(self, authorization: str | None, scope: Scope) -> str:
        """Return the tenant of an `Authorization: Bearer ...` header's value.

        Raises:
            Unauthenticated: no key, one that is not known, or one that has expired.
            PermissionDenied: the key lacks `scope`.
            Overloaded: its tenant has used up its calls.
        """
        if not self._keys:
            return ""
        kind, _, key = (authorization or "").partition(" ")
        if kind.lower() != "bearer" or not key.strip():
            raise Unauthenticated("an API key is needed: send it as 'authorization: Bearer KEY'")
        digest = hash_key(key.strip())
        found: ApiKey | None = None
        for candidate in self._keys:
            # Every key is compared, so that the time taken does not tell which one matched.
            if hmac.compare_digest(candidate.sha256.lower(), digest):
                found = candidate
        if found is None:
            raise Unauthenticated("the API key is not valid here: check it, or ask for a new one")
        if found.expires is not None and self._now() >= _seconds(found.expires):
            raise Unauthenticated("the API key has expired: ask for a new one")
        if scope not in found.scopes:
            raise PermissionDenied(f"this API key is not good for {scope}: ask for one that is")
        if found.tenant in self._rates:
            self._rates[found.tenant].take(found.tenant)
        return found.tenant


class _Rate:
    """Calls of one tenant, as a bucket that fills evenly and holds a minute's worth."""

    def __init__(self, per_minute: float, clock: Callable[[], float]) -> None:
        self._per_second = per_minute / 60
        self._most = self._left = max(per_minute, 1.0)
        self._clock = clock
        self._at = clock()

    def take(self, tenant: str) -> None:
        """Use one call up; raises Overloaded."""
        at = self._clock()
        self._left = min(self._most, self._left + (at - self._at) * self._per_second)
        self._at = at
        if self._left < 1:
            wait = (1 - self._left) / self._per_second
            raise Overloaded(f"{tenant} has used up its calls for now: try again in {wait:.1f} seconds", wait)
        self._left -= 1


def hash_key(key: str) -> str:
    """Return what `ApiKey.sha256` holds for a key."""
    return hashlib.sha256(key.encode()).hexdigest()


def _seconds(date: datetime) -> float:
    return date.timestamp()

"""API keys: stored as hashes, compared in constant time, each belonging to a tenant and good for some operations."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from .errors import PermissionDenied, Unauthenticated

Scope = Literal["embed", "search"]
SCOPES: tuple[Scope, ...] = ("embed", "search")


@dataclass(frozen=True)
class ApiKey:
    """A key as it is stored.

    Attributes:
        sha256: of the key, in hexadecimal. Keys are long and random, so a slow hash would add nothing.
        tenant: a configured name, also used as a label of metrics.
        scopes: what it is good for.
    """

    sha256: str
    tenant: str
    scopes: tuple[Scope, ...] = SCOPES


class KeyRing:
    """All keys of a server; without any, everybody may do everything as the tenant "" ."""

    def __init__(self, keys: Sequence[ApiKey] = ()) -> None:
        self._keys = tuple(keys)

    def admit(self, authorization: str | None, scope: Scope) -> str:
        """Return the tenant of an `Authorization: Bearer ...` header's value.

        Raises:
            Unauthenticated: no key, or one that is not known.
            PermissionDenied: the key lacks `scope`.
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
        if scope not in found.scopes:
            raise PermissionDenied(f"this API key is not good for {scope}: ask for one that is")
        return found.tenant


def hash_key(key: str) -> str:
    """Return what `ApiKey.sha256` holds for a key."""
    return hashlib.sha256(key.encode()).hexdigest()

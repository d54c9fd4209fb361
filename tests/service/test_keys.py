from __future__ import annotations

import pytest

from decant.service.errors import PermissionDenied, Unauthenticated
from decant.service.keys import ApiKey, KeyRing, hash_key

RING = KeyRing([ApiKey(hash_key("alpha"), "a", ("embed",)), ApiKey(hash_key("beta").upper(), "b")])


def test_a_key_brings_its_tenant() -> None:
    assert RING.admit("Bearer alpha", "embed") == "a"
    assert RING.admit("bearer  beta ", "search") == "b"


@pytest.mark.parametrize(
    "sent", [None, "", "alpha", "Bearer", "Bearer ", "Basic alpha", "Bearer wrong", f"Bearer {hash_key('alpha')}"]
)
def test_anything_else_is_turned_away(sent: str | None) -> None:
    with pytest.raises(Unauthenticated):
        RING.admit(sent, "embed")


def test_a_key_is_good_for_its_scopes_only() -> None:
    with pytest.raises(PermissionDenied):
        RING.admit("Bearer alpha", "search")


def test_without_keys_everybody_is_let_in() -> None:
    assert KeyRing().admit(None, "search") == KeyRing().admit("Bearer any", "embed") == ""

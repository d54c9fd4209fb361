from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from decant.service.errors import Overloaded, PermissionDenied, Unauthenticated
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


def test_an_expired_key_is_refused_and_says_so() -> None:
    now = datetime(2026, 6, 1, tzinfo=UTC)
    clock = [now.timestamp()]
    ring = KeyRing([ApiKey(hash_key("k"), "a", expires=now + timedelta(hours=1))], now=lambda: clock[0])
    assert ring.admit("Bearer k", "embed") == "a"
    clock[0] += 3600
    with pytest.raises(Unauthenticated, match="expired"):
        ring.admit("Bearer k", "embed")


def test_a_tenants_calls_are_evened_out_whatever_happens_to_the_date() -> None:
    date, clock = [1e9], [0.0]
    ring = KeyRing([ApiKey(hash_key("k"), "a")], {"a": 60.0}, now=lambda: date[0], clock=lambda: clock[0])
    for _ in range(60):
        ring.admit("Bearer k", "embed")
    with pytest.raises(Overloaded) as refused:
        ring.admit("Bearer k", "embed")
    assert 0 < refused.value.retry_after <= 1
    date[0] -= 1e6  # somebody sets the clock back
    clock[0] += refused.value.retry_after + 1e-6
    ring.admit("Bearer k", "embed")
    with pytest.raises(Overloaded):
        ring.admit("Bearer k", "embed")

"""The HTTP surface against its own description, by schemathesis: no 5xx, and only statuses of the convention."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings

schemathesis = pytest.importorskip("schemathesis", reason="the dev extra is not installed")

# Loading and unloading are the operator's; the health check may rightly say 503.
SKIPPED = ("/models/", "/health")


@pytest.fixture
def described(running: Any) -> Any:
    return schemathesis.openapi.from_url(f"http://127.0.0.1:{running.server.http_port}/openapi.json")


@pytest.mark.parametrize("wrong", [False, True], ids=["as described", "against the description"])
def test_no_request_of_any_shape_is_a_fault(running: Any, described: Any, wrong: bool) -> None:
    tried = 0
    for result in described.get_all_operations():
        operation = result.ok()
        if operation.path.startswith(SKIPPED) or (wrong and operation.method == "get"):
            continue
        tried += 1
        mode = schemathesis.GenerationMode.NEGATIVE if wrong else schemathesis.GenerationMode.POSITIVE

        @settings(
            max_examples=8,
            deadline=None,
            derandomize=True,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(operation.as_strategy(mode))
        def answered(case: Any) -> None:
            response = case.call(timeout=30)
            assert response.status_code < 500, (case.path, case.body, response.text)
            if wrong:
                assert response.status_code in (400, 404, 405, 422), (case.path, case.body, response.text)

        answered()
    assert tried >= 10
    assert running.http("/v1/embeddings", {"input": "fine"}).status == 200

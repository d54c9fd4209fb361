"""Error bodies and headers as each HTTP convention has them."""

from __future__ import annotations

import math
from enum import Enum

import orjson
from starlette.responses import Response

from ..failures import failure_of, message_of, retry_after


class Shape(Enum):
    """Whose convention a route follows."""

    OPENAI = "openai"
    TEI = "tei"


# TEI's own routes; everything else answers errors as OpenAI does.
_TEI = "/ /embed /embed_sparse /embed_all /rerank /predict /similarity /tokenize /decode /info /health /invocations"
TEI_PATHS = frozenset(_TEI.split())


def shape_of(path: str) -> Shape:
    """The convention of a path."""
    return Shape.TEI if path in TEI_PATHS else Shape.OPENAI


def json_response(value: object, *, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """A JSON answer; NumPy arrays are written as they are, float32 with as many digits as tell it apart."""
    body = orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)
    return Response(body, status, headers, "application/json")


def error_response(error: Exception, shape: Shape, request_id: str = "") -> Response:
    """The answer to a call that failed."""
    failure = failure_of(error)
    headers = {"x-should-retry": str(failure.retry).lower()}
    seconds = retry_after(error)
    if seconds is not None:
        headers |= {"retry-after-ms": str(round(seconds * 1000)), "retry-after": str(math.ceil(seconds))}
    message = message_of(error, request_id)
    if shape is Shape.TEI:
        if failure.tei_http == 401:
            return Response(b"", 401, headers)
        return json_response(
            {"error": message, "error_type": failure.tei_type}, status=failure.tei_http, headers=headers
        )
    return openai_error(message, failure.http, failure.kind, failure.code, headers=headers)


def openai_error(
    message: str,
    status: int,
    kind: str = "invalid_request_error",
    code: str | None = None,
    *,
    param: str | None = None,
    headers: dict[str, str] | None = None,
) -> Response:
    """An error object as OpenAI's clients parse it."""
    body = {"error": {"message": message, "type": kind, "param": param, "code": code}}
    return json_response(body, status=status, headers=headers)

"""One table: what an error is called at each door, and so whether clients try again."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from grpc import StatusCode

from ..embedder.errors import DecantError, InputError, ModelError
from ..index.errors import (
    BatchError,
    FilterError,
    QueryError,
    StoreDamaged,
    StoreError,
    StoreLocked,
    StoreMismatch,
    StoreNotFound,
    StoreVersionError,
)
from ..kernels.dispatch import KernelError
from ..rag import AnswerError, GeneratorError
from . import errors

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Failure:
    """An error in the words of every protocol.

    Attributes:
        grpc: status in decant.v1.
        http: status on OpenAI's and our own routes.
        kind: `type` of an OpenAI error object.
        code: `code` of an OpenAI error object.
        tei_grpc: status in tei.v1.
        tei_http: status on TEI's routes.
        tei_type: `error_type` on TEI's routes.
        retry: whether the same call may succeed later.
    """

    grpc: StatusCode
    http: int
    kind: str
    code: str
    tei_grpc: StatusCode
    tei_http: int
    tei_type: str
    retry: bool = False


_S = StatusCode
_INVALID = "invalid_request_error"
_BAD_INPUT = Failure(_S.INVALID_ARGUMENT, 400, _INVALID, "invalid_input", _S.INVALID_ARGUMENT, 422, "Validation")
_EMPTY = Failure(_S.INVALID_ARGUMENT, 400, _INVALID, "empty_input", _S.INVALID_ARGUMENT, 400, "Empty")
_UNKNOWN = Failure(_S.NOT_FOUND, 404, _INVALID, "not_found", _S.NOT_FOUND, 404, "Validation")
_NOT_OFFERED = Failure(_S.FAILED_PRECONDITION, 400, _INVALID, "not_offered", _S.FAILED_PRECONDITION, 424, "Backend")
_UNTRUSTED = Failure(_S.FAILED_PRECONDITION, 422, _INVALID, "untrusted_vector", _S.FAILED_PRECONDITION, 424, "Backend")
_NO_KEY = Failure(
    _S.UNAUTHENTICATED, 401, "authentication_error", "invalid_api_key", _S.UNAUTHENTICATED, 401, "Validation"
)
_FORBIDDEN = Failure(
    _S.PERMISSION_DENIED, 403, "permission_error", "permission_denied", _S.PERMISSION_DENIED, 403, "Validation"
)
_FULL = Failure(
    _S.RESOURCE_EXHAUSTED, 429, "rate_limit_error", "overloaded", _S.RESOURCE_EXHAUSTED, 429, "Overloaded", retry=True
)
_AWAY = Failure(_S.UNAVAILABLE, 503, "server_error", "unavailable", _S.UNAVAILABLE, 503, "Unhealthy", retry=True)
_LATE = Failure(_S.DEADLINE_EXCEEDED, 504, "server_error", "deadline_exceeded", _S.DEADLINE_EXCEEDED, 504, "Backend")
_FAILED = Failure(
    _S.INTERNAL, 500, "server_error", "compute_failed", _S.FAILED_PRECONDITION, 424, "Backend", retry=True
)
_BROKEN = Failure(_S.INTERNAL, 500, "server_error", "store_damaged", _S.INTERNAL, 500, "Backend")
_NO_WRITER = Failure(
    _S.UNAVAILABLE, 503, "server_error", "generator_failed", _S.UNAVAILABLE, 503, "Backend", retry=True
)
_FAULT = Failure(_S.INTERNAL, 500, "server_error", "internal_error", _S.INTERNAL, 500, "Backend")

# The first row that an error is an instance of counts.
_TABLE: tuple[tuple[type[Exception], Failure], ...] = (
    (errors.EmptyInput, _EMPTY),
    (errors.Overloaded, _FULL),
    (errors.Unavailable, _AWAY),
    (errors.DeadlineExceeded, _LATE),
    (errors.UnknownName, _UNKNOWN),
    (errors.NotOffered, _NOT_OFFERED),
    (errors.Unauthenticated, _NO_KEY),
    (errors.PermissionDenied, _FORBIDDEN),
    (errors.ComputeFailed, _FAILED),
    (errors.UntrustedVector, _UNTRUSTED),
    (InputError, _BAD_INPUT),
    (QueryError, _BAD_INPUT),
    (FilterError, _BAD_INPUT),
    (BatchError, _BAD_INPUT),
    (GeneratorError, _NO_WRITER),
    (AnswerError, _BAD_INPUT),
    (StoreLocked, _AWAY),
    (StoreNotFound, _UNKNOWN),
    (StoreMismatch, _UNTRUSTED),
    (StoreDamaged, _BROKEN),
    (StoreVersionError, _BROKEN),
    (ModelError, _UNTRUSTED),
    (DecantError, _FAILED),
    (KernelError, _FAILED),
)

_TELL = "try again, or tell who runs this server"
# Errors whose own line names folders, addresses or what a library said: the log gets that, and clients get this.
_INSTEAD: tuple[tuple[type[Exception], str], ...] = (
    (GeneratorError, f"whoever writes the answers failed: {_TELL}"),
    (errors.ComputeFailed, f"the model failed: {_TELL}"),
    (KernelError, f"the model failed: {_TELL}"),
    (StoreLocked, "another process is writing to this store: try again later"),
    (StoreNotFound, "this store is not there: tell who runs this server"),
    (StoreMismatch, "this store was made by another model than the one that is served: tell who runs this server"),
    (StoreError, "this store cannot be used: tell who runs this server"),
)
# Errors whose own line is about what the client sent.
_TOLD = (errors.ServiceError, InputError, QueryError, FilterError, BatchError, AnswerError)


def failure_of(error: Exception) -> Failure:
    """Classify an error."""
    return next((failure for kind, failure in _TABLE if isinstance(error, kind)), _FAULT)


def message_of(error: Exception, request_id: str = "") -> str:
    """The line a client gets; what is not meant for clients is logged, under the request's id."""
    line = next((text for kind, text in _INSTEAD if isinstance(error, kind)), "")
    if not line and isinstance(error, _TOLD):
        return _one_line(error)
    where = f" (request {request_id})" if request_id else ""
    if not line and not isinstance(error, DecantError):
        return f"a fault in Decant{where}: see the server's log"
    _log.error("not told to the client: %s", _one_line(error), extra={"request_id": request_id})
    return (line or f"the server could not do this: {_TELL}") + where


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def retry_after(error: Exception) -> float | None:
    """Seconds after which to try again, where the server knows."""
    if isinstance(error, errors.Overloaded):
        return error.retry_after
    return 1.0 if isinstance(error, errors.Unavailable | StoreLocked) else None

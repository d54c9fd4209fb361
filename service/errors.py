"""What the service refuses or fails, beside the errors of the floors below; each door maps them to its own codes.

ServiceError
├── Overloaded        the queue is full: come back after `retry_after` seconds
├── Unavailable       starting or shutting down: another process may serve it
├── DeadlineExceeded  the caller's time was over before the work began or ended
├── UnknownName       a model or a store that is not served here
├── NotOffered        the model or this server does not do that
├── Unauthenticated   no key, or a wrong one
├── PermissionDenied  the key is right but not for this
├── UntrustedVector   the model gave a vector that nobody should use
└── ComputeFailed     the model failed on one text
EmptyInput            an InputError: there is nothing to encode
"""

from __future__ import annotations

from ..embedder.errors import DecantError, InputError


class ServiceError(DecantError):
    """A request that was not served."""


class Overloaded(ServiceError):
    """The queue is full; nothing of the request was computed.

    Attributes:
        retry_after: seconds after which there should be room.
    """

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Unavailable(ServiceError):
    """The server takes no work at this moment."""


class DeadlineExceeded(ServiceError):
    """The time given for the request is over."""


class UnknownName(ServiceError):
    """There is no such model, store or document here."""


class NotOffered(ServiceError):
    """A representation or operation that this model or server does not have."""


class Unauthenticated(ServiceError):
    """The request carries no valid key."""


class PermissionDenied(ServiceError):
    """The key does not cover this operation."""


class ComputeFailed(ServiceError):
    """The model failed on one text; the others of its batch are unharmed."""


class UntrustedVector(ServiceError):
    """A vector with NaN or infinity; it is not handed out."""


class EmptyInput(InputError):
    """No text, or a text without characters."""

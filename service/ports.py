"""Ports that are known to be free before a model is loaded for them."""

from __future__ import annotations

import socket
from collections.abc import Generator
from contextlib import contextmanager

from .config import Settings
from .errors import ServiceError

PORTS = ("grpc_port", "http_port")


@contextmanager
def held(settings: Settings, name: str, *, shared: bool) -> Generator[int]:
    """Choose a port if none is set, and keep it from others; bound and not listening, it gets no connections.

    Args:
        settings: where to listen.
        name: one of `PORTS`.
        shared: whether other processes that say so may have it, too.

    Raises:
        ServiceError: somebody else has it, or the address is not ours.
    """
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    with socket.socket(family) as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        try:
            holder.bind((settings.host, getattr(settings, name)))
        except OSError as error:
            flag = name.replace("_", "-")
            raise ServiceError(f"cannot listen on {settings.host}: {error.strerror}; choose another --{flag}") from None
        yield int(holder.getsockname()[1])


def check_free(settings: Settings) -> None:
    """Raise ServiceError where the server could not listen."""
    for name in PORTS:
        with held(settings, name, shared=settings.reuse_port):
            pass

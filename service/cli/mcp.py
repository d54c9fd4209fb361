"""`decant mcp`."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from .loading import load_encoder
from .options import DEFAULT_STORE, Debug, Device, DtypeOption, Model, Store
from .problem import require_store

NAME = "mcp"
SHORT_HELP = "Offer an index to assistants as an MCP server."


class Transport(StrEnum):
    """How the assistant talks to it."""

    STDIO = "stdio"
    HTTP = "http"


def command(
    store: Store = DEFAULT_STORE,
    model: Model = None,
    transport: Annotated[
        Transport, typer.Option("--transport", help="stdio, as a child process; or streamable HTTP at /mcp.")
    ] = Transport.STDIO,
    host: Annotated[str, typer.Option("--host", help="Address to listen on, for HTTP.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=1, max=65535, help="For HTTP.")] = 8090,
    device: Device = None,
    dtype: DtypeOption = None,
    debug: Debug = False,
) -> None:
    """Offer an index to assistants as an MCP server with two tools, search and get; they read and change nothing.

    An assistant that starts programs is told: command "decant", arguments "mcp", "--store", "/path/to/index".
    """
    require_store(store)
    encoder = load_encoder(model, device, dtype, debug=debug)
    from ...index.store import Store as IndexStore
    from ..mcp import make_mcp

    with IndexStore.open(store, encoder=encoder, read_only=True) as opened:
        server = make_mcp(opened, encoder)
        if transport is Transport.STDIO:
            server.run("stdio")
        else:
            server.run("streamable-http", host=host, port=port)

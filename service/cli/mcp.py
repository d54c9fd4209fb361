"""`decant mcp`."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from .opening import open_index
from .options import DEFAULT_STORE, Debug, Device, DtypeOption, Model, Store

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
    with open_index(store, model, device, dtype, debug=debug) as (opened, encoder):
        from ..mcp import make_mcp

        server = make_mcp(opened, encoder)
        if transport is Transport.STDIO:
            server.run("stdio")
        else:
            server.run("streamable-http", host=host, port=port)

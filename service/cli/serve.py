"""`decant serve`."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .generators import Reuse
from .loading import load_encoder
from .logs import log_as_json
from .options import DEFAULT_STORE, Debug, Device, DtypeOption, Model
from .output import print_json, say

if TYPE_CHECKING:
    from ..server import Server

NAME = "serve"
SHORT_HELP = "Serve vectors, search and answers over gRPC and HTTP."


def command(
    config: Annotated[
        Path | None, typer.Option("--config", metavar="FILE", help="Settings in a .toml or .json file.")
    ] = None,
    model: Model = None,
    store: Annotated[
        Path | None,
        typer.Option(
            "--store", metavar="DIR", help=f"Folder of the index to search. Default: {DEFAULT_STORE} if it is there."
        ),
    ] = None,
    generator: Annotated[
        str | None,
        typer.Option("--generator", metavar="WHO", help="Who writes answers, as of decant ask. Default: evidence."),
    ] = None,
    generator_model: Annotated[
        str | None,
        typer.Option("--generator-model", metavar="NAME", help="What the endpoint that writes calls its model."),
    ] = None,
    kv_reuse: Reuse = None,
    host: Annotated[
        str | None, typer.Option("--host", help="Address to listen on. Default: 127.0.0.1, this machine only.")
    ] = None,
    grpc_port: Annotated[int | None, typer.Option("--grpc-port", help="Default: 50051; 0 for a free one.")] = None,
    http_port: Annotated[int | None, typer.Option("--http-port", help="Default: 8080; 0 for a free one.")] = None,
    workers: Annotated[
        int | None, typer.Option("--workers", min=1, help="Processes that share the ports, each with its own models.")
    ] = None,
    device: Device = None,
    dtype: DtypeOption = None,
    print_config: Annotated[
        bool, typer.Option("--print-config", help="Print every setting as JSON, as it would be used, and stop.")
    ] = False,
    debug: Debug = False,
) -> None:
    """Serve vectors, search and answers over gRPC (decant.v1, tei.v1) and HTTP (OpenAI's and TEI's routes, our own).

    All doors share one process and one queue. Settings come from flags, then DECANT_* variables, then the file;
    --print-config shows all of them. On SIGTERM the server reports NOT_SERVING, finishes what it has accepted, and
    exits with 0. Ports and logs go to stderr, one JSON object per line; no line holds a text.
    """
    from ..config import Settings

    flags = {"model": model, "store": store, "host": host, "grpc_port": grpc_port, "http_port": http_port}
    writer = {"generator": generator, "generator_model": generator_model, "kv_reuse": kv_reuse}
    number = dtype.value if dtype else None
    settings = Settings.load(config, **flags, **writer, workers=workers, device=device, dtype=number)
    if settings.store is None and DEFAULT_STORE.is_dir():
        settings = settings.model_copy(update={"store": DEFAULT_STORE})
    if print_config:
        print_json(settings.shown())
        return
    with log_as_json(settings.log_level):
        if settings.workers > 1:
            from ..workers import supervise

            raise typer.Exit(supervise(settings))
        from ..ports import check_free

        check_free(settings)
        from ..server import run
        from ..threads import apart

        encoder = apart(lambda: load_encoder(settings.model, settings.device, settings.dtype, debug=debug))
        run(settings, encoder, _announce)


def _announce(server: Server) -> None:
    ports = {"grpc_port": server.grpc_port, "http_port": server.http_port}
    page = server.settings.page(server.http_port)
    logging.getLogger(__name__).info("ready", extra={"model": server.model.name, **ports, "page": page})
    if server.settings.store is None:
        say("no store to search: index documents with decant index, or name a store with --store")

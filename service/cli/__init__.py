"""The `decant` command: one module per subcommand, each importing the machinery it needs only when it runs."""

from .app import app, main

__all__ = ["app", "main"]

"""Libraries' own warnings and progress bars, kept off the user's screen."""

from __future__ import annotations

import os
import warnings


def quiet_libraries() -> None:
    """Silence what libraries say on import and while loading; must run before they are imported."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("LANCEDB_LOG", "error")  # LanceDB's own logger, also for the Lance inside it
    os.environ.setdefault("LANCE_LOG", "error")  # the separate Lance that Ray's workers write with
    warnings.simplefilter("ignore")


def quiet_transformers() -> None:
    """Switch off transformers' loading bars, which no environment variable does."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()

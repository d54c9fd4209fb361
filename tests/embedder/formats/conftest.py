"""The published formats' cases, loaded once: their folder is no package."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

_FOLDER = Path(__file__).with_name("official")

if "official" not in sys.modules:
    _spec = importlib.util.spec_from_file_location(
        "official", _FOLDER / "cases.py", submodule_search_locations=[str(_FOLDER)]
    )
    assert _spec and _spec.loader
    _module = importlib.util.module_from_spec(_spec)
    sys.modules["official"] = _module
    _spec.loader.exec_module(_module)
    _module.load_formats()

"""Print, for every official format, how far Decant's vectors are from a plain statement of the method.

The checkpoints are tiny, random and built on the spot, in exactly the layout the makers publish. Exits non-zero if a
difference is above the bound.
"""

from __future__ import annotations

import importlib.util
import logging
import sys
import tempfile
from pathlib import Path
from types import ModuleType

import transformers

from decant.embedder import Encoder
from decant.embedder.verify import verify_encoder

OFFICIAL = Path(__file__).parents[1] / "tests" / "embedder" / "formats" / "official"
BOUND = 1e-5


def load_cases() -> ModuleType:
    """Import the checkpoints and statements that the tests use."""
    spec = importlib.util.spec_from_file_location(
        "official", OFFICIAL / "cases.py", submodule_search_locations=[str(OFFICIAL)]
    )
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["official"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    module.load_formats()
    return module


def main() -> int:
    """Print the table; 0 where every format is within the bound, loaded and saved again."""
    logging.disable(logging.WARNING)
    transformers.utils.logging.disable_progress_bar()
    cases = load_cases().CASES
    failed = 0
    print(f"{'format':44} {'max abs diff':>12}  {'saved again':>11}  verify")
    for name, build in cases.items():
        with tempfile.TemporaryDirectory() as folder:
            built = build(Path(folder) / "model")
            encoder = Encoder.load(built.path, dtype="float32", **built.load)
            encoder.save(Path(folder) / "saved")
            again = Encoder.load(Path(folder) / "saved", dtype="float32")
            worst = [max(call.difference(one) for call in built.calls) for one in (encoder, again)]
            broken = [m.name for m in verify_encoder(encoder) if not m.passed]
            print(f"{name:44} {worst[0]:12.1e}  {worst[1]:11.1e}  {', '.join(broken) or 'passes'}")
            failed += max(worst) > BOUND or bool(broken)
    print(f"bound {BOUND:.0e}, float32: {'all within' if not failed else f'{failed} formats fail'}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

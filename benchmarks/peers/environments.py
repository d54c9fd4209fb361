"""Environments of peers that cannot share this one: each a folder `.env-NAME` of the project, made at the first call.

What a peer pins excludes the transformers (5.2 and newer) that can run a bidirectional decoder, or each other. So each
is installed without its requirements, from `NAME.txt`, and takes every other library, torch among them, from here.
"""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


def python_of(name: str) -> str:
    """Return the interpreter of a peer's environment; building llama.cpp takes minutes.

    Raises:
        CalledProcessError: if it cannot be installed.
    """
    folder = ROOT / f".env-{name}"
    python = folder / "bin" / "python"
    if not (folder / "complete").exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
        (packages_of(name) / "zz-shared.pth").write_text(sysconfig.get_path("purelib") + "\n")
        install = [str(python), "-m", "pip", "install", "--quiet", "--no-deps", "-r", str(HERE / f"{name}.txt")]
        subprocess.run(install, check=True)
        (folder / "complete").touch()
    return str(python)


def packages_of(name: str) -> Path:
    """Return the folder that holds what only this peer has."""
    [packages] = (ROOT / f".env-{name}").glob("lib/python*/site-packages")
    return packages

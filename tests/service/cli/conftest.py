"""Runs the command line in this process: same parsing, same exit codes, no new interpreter."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from decant.service.cli import app


@dataclass(frozen=True)
class Outcome:
    """What a command did."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Stdout, which must be one JSON value and nothing else."""
        return json.loads(self.out)

    @property
    def error(self) -> str:
        """The message of a command that failed, which must be one line on stderr, with nothing on stdout."""
        assert self.out == ""
        (line,) = self.err.splitlines()
        assert line.startswith("error: "), line
        assert "Traceback" not in line
        return line.removeprefix("error: ")


@pytest.fixture
def decant(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Outcome]:
    """`decant("search", "a question")` in an empty folder, with a tiny random model as the default."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DECANT_MODEL", str(tiny_model))
    monkeypatch.delenv("DECANT_STORE", raising=False)

    def run(*args: str | Path, stdin: str | bytes = b"") -> Outcome:
        result = CliRunner().invoke(app, [str(arg) for arg in args], input=stdin, prog_name="decant")
        return Outcome(result.exit_code, result.stdout, result.stderr)

    return run


@pytest.fixture
def docs(tmp_path: Path) -> Path:
    """Three small documents."""
    folder = tmp_path / "docs"
    (folder / "deep").mkdir(parents=True)
    (folder / "rivers.md").write_text("# Rivers\n\nRivers carry water from the mountains to the sea.\n", "utf-8")
    (folder / "budget.txt").write_text("The committee discussed the budget for three hours.\n", "utf-8")
    (folder / "deep" / "add.py").write_text("def add(a, b):\n    return a + b\n", "utf-8")
    return folder

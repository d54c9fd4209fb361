"""`decant convert` and `decant verify` on every published format, and the way back to plain sentence-transformers."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import official
import pytest
from sentence_transformers import SentenceTransformer, SparseEncoder
from typer.testing import CliRunner

from decant.embedder import Encoder
from decant.service.cli.app import app

BOUND = 1e-5


def decant(*args: str | Path) -> Any:
    return CliRunner().invoke(app, [str(arg) for arg in args], prog_name="decant")


def verified(folder: Path) -> bool:
    done = decant("verify", folder, "--dtype", "float32", "--json")
    found = json.loads(done.stdout)
    assert done.exit_code == 0, [m for m in found["measurements"] if not m["passed"]]
    return found["passed"]


def options(load: dict[str, Any]) -> list[str]:
    """What a case gives to `Encoder.load`, as a user types it."""
    typed = [part for adapter in load.get("adapters", ()) for part in ("--adapter", str(adapter))]
    typed += ["--rule", load["rule"]] if "rule" in load else []
    if "spec" in load:  # MoEE's
        typed += ["--rule", "prompt-eol", "--router", "last", "--max-tokens", str(load["spec"].max_tokens)]
    return typed


def asked(call: Any) -> Any:
    """The same call of what the command line makes: its router vectors have unit length."""
    if call.output != "router":
        return call
    return replace(call, expected=call.expected / np.linalg.norm(call.expected, axis=1, keepdims=True))


@pytest.mark.parametrize("name", official.CASES)
def test_converted_and_back(name: str, tmp_path: Path) -> None:
    case = official.CASES[name](tmp_path / "model")
    done = decant("convert", case.path, tmp_path / "made", *options(case.load))
    assert done.exit_code == 0, done.stderr + done.stdout
    assert verified(tmp_path / "made")
    encoder = Encoder.load(tmp_path / "made", dtype="float32")
    for call in case.calls:
        assert asked(call).difference(encoder) <= BOUND
    if not (case.plain_again or encoder.outputs == ("sparse",)):
        return
    library = SparseEncoder if encoder.outputs == ("sparse",) else SentenceTransformer
    exact = {"dtype": "float32"}
    library(str(tmp_path / "made"), device="cpu", model_kwargs=exact).save(str(tmp_path / "plain"))
    assert not (tmp_path / "plain" / "decant.json").exists()
    assert verified(tmp_path / "plain")
    plain = Encoder.load(tmp_path / "plain", dtype="float32")
    # A plain folder's prompts are fixed texts.
    for call in (call for call in case.calls if "instruction" not in call.arguments):
        assert call.difference(plain) <= BOUND

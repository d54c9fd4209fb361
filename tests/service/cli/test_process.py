"""The command as a process of its own: start-up, signals, pipes, and nothing but results on stdout."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from decant.embedder import Encoder
from decant.index import Store

# More than a process indexes before a signal reaches it.
DOCUMENTS = 1000
COMMAND = [sys.executable, "-m", "decant.service.cli"]


@pytest.fixture
def environment(tiny_model: Path) -> dict[str, str]:
    return os.environ | {"DECANT_MODEL": str(tiny_model), "OMP_NUM_THREADS": "1"}


def test_help_is_there_before_torch():
    code = (
        "import sys; from decant.service.cli import app; app(['--help'], standalone_mode=False);"
        "heavy = {'torch', 'transformers', 'numpy', 'pyarrow', 'lancedb'} & set(sys.modules); assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Exit codes:" in done.stdout


def test_only_results_reach_the_screen(environment, docs, tmp_path):
    """From a fresh process, where libraries would print bars and warnings if they were let."""
    done = subprocess.run(
        [*COMMAND, "index", docs, "--json"], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["added"] == 3


def test_the_console_script_is_installed(environment, tmp_path):
    script = Path(sys.executable).with_name("decant")
    done = subprocess.run([script, "info"], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "error: there is no store at .decant: make one with decant index PATH --store .decant\n"


@pytest.fixture
def many_docs(tmp_path: Path) -> Path:
    folder = tmp_path / "many"
    folder.mkdir()
    for number in range(DOCUMENTS):
        (folder / f"{number:04}.txt").write_text(f"Document {number} is about water. " * 8, "utf-8")
    return folder


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_indexing_cleanly(environment, tiny_model, many_docs, tmp_path, sent, code):
    # A test run started in the background ignores SIGINT, and so would what it starts.
    command = ["env", f"--default-signal={sent.name.removeprefix('SIG')}", *COMMAND, "index", many_docs]
    with subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        _wait_for(tmp_path / ".decant" / "store.json", process)
        process.send_signal(sent)
        out, err = process.communicate(timeout=120)
    assert (process.returncode, out) == (code, b"")
    assert err.decode().splitlines() == ["interrupted"] * (sent == signal.SIGINT)
    with Store.open(tmp_path / ".decant", encoder=Encoder.load(tiny_model)) as store, store.writer():
        assert len(store.documents()) < DOCUMENTS


def _wait_for(path: Path, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 120
    while not path.exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_closed_pipe_ends_embedding_quietly(environment, tmp_path):
    lines = tmp_path / "lines.txt"
    lines.write_text("a line of text\n" * 20_000, "utf-8")
    with subprocess.Popen(
        [*COMMAND, "embed", lines], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        first = process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 141
    assert json.loads(first)["id"] == "1"

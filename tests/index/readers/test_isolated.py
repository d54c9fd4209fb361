"""A file is read apart, and costs nobody else."""

from __future__ import annotations

from pathlib import Path

import pytest

from decant.index.readers.formats import Format
from decant.index.readers.isolated import Isolated
from decant.index.readers.parsed import ReadError


@pytest.fixture
def hostile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "hostile.py").write_text(
        "import os, time, re\n"
        "def hang(content): re.match('(a+)+$', 'a' * 60 + 'b')\n"
        "def crash(content): os.kill(os.getpid(), 11)\n"
        "def bloat(content): return bytearray(64 << 30)\n"
        "def noise(content): os.write(1, b'noise'); print('noise'); raise ValueError('two\\nlines')\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return "hostile"


def test_a_parser_that_hangs_crashes_or_bloats_costs_its_file_only(hostile: str) -> None:
    with Isolated(seconds=1.0) as worker:
        reasons = []
        for name in ("hang", "crash", "bloat", "noise"):
            with pytest.raises(ReadError) as caught:
                worker.read(Format("", f"{hostile}:{name}"), b"content")
            reasons.append(str(caught.value))
        assert worker.read(Format("", ".plain:read_plain"), b"still alive").text == "still alive"
    assert reasons == [
        "parsing took longer than 1 s",
        "the parser crashed (exit status -11)",
        "parsing needs too much memory",
        "the parser failed: ValueError: two lines",
    ]


def test_megabytes_pass_to_the_worker_and_back(isolated: Isolated) -> None:
    text = "line ☃\n" * 400_000
    assert isolated.read(Format("", ".plain:read_plain"), text.encode()).text == text

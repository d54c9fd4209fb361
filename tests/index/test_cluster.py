"""Workers on a cluster store what the local engine stores, whoever is killed on the way."""

import contextlib
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import pytest

from decant.index import Searcher, Store
from decant.index.cluster.engine import require_libraries
from decant.index.cluster.shards import shards_of
from decant.index.errors import ClusterError
from decant.index.ingest import index_paths
from decant.index.testing import HashEncoder
from decant.index.walk import Findings, walk

ENCODER = HashEncoder()
DRIVER = Path(__file__).with_name("cluster_driver.py")
needs_ray = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("ray", "lance")),
    reason="Ray is not installed: pip install 'decant[ray]'",
)


def write_edition(folder, number):
    folder.mkdir(exist_ok=True)
    for i in range(24):
        edition = number if i % 3 else 1
        words = "poison " if (i, number) == (8, 2) else ""
        (folder / f"f{i:02}.txt").write_text(f"{words}file {i} edition {edition}. " * 9)
    if number == 2:
        (folder / "f05.txt").unlink()
    records = [{"_id": f"r{i}", "text": f"record {i} edition {number if i > 40 else 1}"} for i in range(number, 120)]
    records += [{"_id": "r7", "text": "its id is taken"}, {"_id": "broken"}]
    (folder / "records.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))


def run(store, documents, log, *options):
    """Run the driver to its end; returns its process and the report, or None where it was killed."""
    command = [sys.executable, str(DRIVER), str(store), str(documents), str(log), *options]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=240)
    if done.returncode == -signal.SIGKILL:
        return None
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def ray_processes():
    """Ids of Ray's processes that are children of this one or of nobody any more."""
    found = set()
    for folder in Path("/proc").iterdir():
        try:
            command = (folder / "cmdline").read_bytes().replace(b"\0", b" ") if folder.name.isdigit() else b""
        except OSError:
            continue
        if b"raylet" in command or b"gcs_server" in command or command.startswith(b"ray::"):
            found.add(int(folder.name))
    return found


@needs_ray
@pytest.mark.timeout(600)
def test_a_worker_and_then_the_driver_are_killed_and_the_content_is_the_local_engine_s(tmp_path):
    documents, base, local, log = tmp_path / "docs", tmp_path / "base", tmp_path / "local", tmp_path / "log"
    before = ray_processes()
    write_edition(documents, 1)
    with Store.open(base, encoder=ENCODER, create=True) as store:
        index_paths(store, ENCODER, [documents], chunk_tokens=24)
        old = store.digest()
    shutil.copytree(base, local)
    write_edition(documents, 2)
    with Store.open(local, encoder=ENCODER) as store:
        wanted = asdict(index_paths(store, ENCODER, [documents], chunk_tokens=24))
        new = store.digest()

    assert run(base, documents, log, "--die-after", "4") is None
    for process in ray_processes() - before:
        # Of a driver that was killed Ray leaves two agents for a minute; nobody here waits for them.
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
    with Store.open(base, encoder=ENCODER, read_only=True) as store:
        assert store.digest() == old, "nothing is visible before the commit"
        version = store.snapshot().version
    done = [json.loads(file.read_text()) for file in base.glob("cluster/*/*.json")]
    finished = {name for one in done for name in one.get("encoded", ())}
    assert finished, "some shards were done"

    again = tmp_path / "again"
    report = run(base, documents, again)
    with Store.open(base, encoder=ENCODER) as store:
        assert store.digest() == new
        assert store.snapshot().version > version
        hits = Searcher(store, ENCODER).search("poison file 8 edition 2", mode="lexical", k=1)
        assert hits[0].chunk.doc_id == "docs/f08.txt"
        encoded_again = again.read_text()
        texts = [store.text(name)[:20] for name in finished]
    assert [text for text in texts if text in encoded_again] == [], "finished work is not done again"
    assert (tmp_path / "log.poisoned").exists() or (tmp_path / "again.poisoned").exists(), "a worker was killed"
    for name in ("added", "changed", "unchanged", "removed", "chunks", "tokens", "truncated"):
        assert report[name] == wanted[name], name
    assert len(report["failed"]) == len(wanted["failed"]) == 2
    assert not list(base.glob("cluster/*/*.json"))
    end = time.monotonic() + 30
    while (left := ray_processes() - before) and time.monotonic() < end:
        time.sleep(0.2)
    assert not left, "no process of Ray's is left"


def test_shards_cover_every_file_once_and_long_jsonl_in_stretches(tmp_path):
    write_edition(tmp_path / "docs", 1)
    findings = Findings()
    walk(tmp_path / "docs", "docs", findings, leave_out=())
    shards = shards_of(findings.files, 600)
    pieces = [piece for shard in shards for piece in shard.pieces]
    assert list(dict.fromkeys(piece.file.doc_id for piece in pieces)) == [file.doc_id for file in findings.files]
    lines = [piece for piece in pieces if piece.file.doc_id.endswith("jsonl")]
    content = (tmp_path / "docs" / "records.jsonl").read_bytes()
    assert len(lines) > 5 and b"".join(content[p.stretch.begin : p.stretch.end] for p in lines) == content
    assert [p.stretch.first for p in lines] == [content[: p.stretch.begin].count(b"\n") + 1 for p in lines]
    assert all(shard.bytes <= 600 for shard in shards)
    assert [shard.name for shard in shards_of(findings.files, 600)] == [shard.name for shard in shards]
    (tmp_path / "docs" / "f00.txt").write_text("changed")
    again = Findings()
    walk(tmp_path / "docs", "docs", again, leave_out=())
    changed = {shard.name for shard in shards_of(again.files, 600)} ^ {shard.name for shard in shards}
    assert changed


def test_without_ray_one_line_names_the_extra(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(
        ClusterError, match=r"^--engine ray needs ray, which is not installed: pip install 'decant\[ray\]'$"
    ):
        require_libraries()

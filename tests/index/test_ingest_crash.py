"""SIGKILL at random moments of `index_paths`: only whole documents are there, and the next run completes them."""

import contextlib
import importlib.util
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from decant.index import Store

WORKER = Path(__file__).with_name("ingest_crash_worker.py")
KILLS = 20
ATTEMPTS = 60


def _load():
    spec = importlib.util.spec_from_file_location("ingest_crash_worker", WORKER)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


work = _load()


@pytest.fixture(scope="module")
def begin():
    """A function that starts indexing and returns the child's process id and a function that waits for its status."""
    process = subprocess.Popen([sys.executable, str(WORKER)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def start(store, documents):
        process.stdin.write(f"{store} {documents}\n")
        process.stdin.flush()
        return int(process.stdout.readline()), lambda: int(process.stdout.readline())

    yield start
    process.stdin.close()
    process.wait()
    process.stdout.close()


def write_edition(folder: Path, number: int) -> dict[str, str]:
    """Write files of both editions' kinds; returns the text of each document."""
    folder.mkdir(exist_ok=True)
    texts = {}
    for i in range(10) if number == 1 else range(3, 13):
        edition = 1 if 3 <= i < 5 else number
        texts[f"docs/f{i}.txt"] = f"file {i} edition {edition}. " * (6 + i % 4 * 5)
        (folder / f"f{i}.txt").write_text(texts[f"docs/f{i}.txt"])
    for gone in {f"f{i}.txt" for i in range(13)} - {Path(name).name for name in texts}:
        (folder / gone).unlink(missing_ok=True)
    records = {f"r{i}": f"record {i} edition {1 if i < 3 else number}" for i in range(number, number + 12)}
    (folder / "records.jsonl").write_text("".join(json.dumps({"_id": k, "text": v}) + "\n" for k, v in records.items()))
    page = f"edition {number} of the page"
    (folder / "page.md").write_text(page)
    return texts | {f"docs/records.jsonl#{key}": text for key, text in records.items()} | {"docs/page.md": page}


@pytest.mark.timeout(900)
def test_killed_at_twenty_random_moments_and_run_again_the_content_is_the_same(begin, tmp_path):
    documents, base = tmp_path / "docs", tmp_path / "base"
    old = write_edition(documents, 1)
    work.index(base, documents)
    new = write_edition(documents, 2)
    undisturbed = tmp_path / "undisturbed"
    shutil.copytree(base, undisturbed)
    _, ended = begin(undisturbed, documents)
    began = time.perf_counter()
    assert ended() == 0
    seconds = time.perf_counter() - began
    with Store.open(undisturbed) as store:
        wanted = store.digest()
        assert {name: store.text(name).strip() for name in store.documents()} == {n: t.strip() for n, t in new.items()}
    moments, landed = random.Random(4), 0
    for attempt in range(ATTEMPTS):
        root = tmp_path / f"killed-{attempt}"
        shutil.copytree(base, root)
        landed += kill_at(moments.uniform(0, 0.8 * seconds), *begin(root, documents))
        check_whole(root, old, new)
        work.index(root, documents)
        with Store.open(root) as store:
            assert store.digest() == wanted
        shutil.rmtree(root)
        if landed == KILLS:
            break
    assert landed == KILLS


def kill_at(seconds, pid, ended):
    """Kill a child after some time; returns whether it was still at work."""

    def kill():
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)

    timer = threading.Timer(seconds, kill)
    timer.start()
    status = ended()
    timer.cancel()
    timer.join()
    assert os.WIFSIGNALED(status) or status == 0, "indexing failed by itself"
    return os.WIFSIGNALED(status)


def check_whole(root, old, new):
    with Store.open(root, read_only=True) as store:
        states = store.documents()
        assert states.keys() >= old.keys() & new.keys()
        for name, state in states.items():
            text = store.text(name)
            assert text.strip() in (old.get(name, "").strip(), new.get(name, "").strip())
            chunks = store.chunks(name)
            assert len(chunks) == state.n_chunks
            assert all(text[c.start_char : c.end_char] == c.text for c in chunks)
            assert text.strip().startswith(chunks[0].text) and text.strip().endswith(chunks[-1].text)

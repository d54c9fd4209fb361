"""SIGKILL at random moments of an update: only whole documents are seen, and finishing it gives the same content."""

import contextlib
import importlib.util
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

from decant.index import Searcher, Store

WORKER = Path(__file__).with_name("crash_worker.py")
# A child that is killed after its work has ended shows nothing, so such a moment is drawn again.
ATTEMPTS_PER_KILL = 3


def _load():
    spec = importlib.util.spec_from_file_location("crash_worker", WORKER)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


work = _load()


class Worker:
    """The worker process; one update at a time."""

    def __init__(self):
        self._process = subprocess.Popen(
            [sys.executable, str(WORKER)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def begin(self, root):
        """Start an update; returns the child's process id once its work has begun."""
        self._process.stdin.write(f"{root}\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def ended(self):
        """Wait for the child; returns the signal that killed it, 0 if none."""
        status = int(self._process.stdout.readline().split()[1])
        assert os.WIFSIGNALED(status) or status == 0, "the update failed by itself"
        return os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0

    def close(self):
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()


@pytest.fixture(scope="module")
def worker():
    opened = Worker()
    yield opened
    opened.close()


@pytest.fixture
def base(tmp_path):
    """A store of the first edition."""
    with Store.open(tmp_path / "base", encoder=work.ENCODER, create=True) as store:
        work.update(store, work.edition(1))
    return tmp_path / "base"


def check_whole(root):
    """Every document is there as a whole, in one edition or the other, and can be found."""
    old, new = work.edition(1), work.edition(2)
    with Store.open(root, encoder=work.ENCODER, read_only=True) as store:
        states = store.documents()
        assert states.keys() >= old.keys() & new.keys()
        for name, state in states.items():
            text = store.text(name)
            assert text in (old.get(name), new.get(name))
            chunks = store.chunks(name)
            assert len(chunks) == state.n_chunks == text.count("\n")
            assert all(text[c.start_char : c.end_char] == c.text for c in chunks)
        assert len(store.snapshot()) == sum(state.n_chunks for state in states.values())
        for mode in ("dense", "lexical", "hybrid"):
            assert Searcher(store, work.ENCODER).search("d10 edition line", mode=mode)
        assert "not used" not in store.info()["dense"]["reason"]


def kill_after(seconds, pid):
    """A timer that kills a child, should it still live."""

    def kill():
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)

    timer = threading.Timer(seconds, kill)
    timer.start()
    return timer


@pytest.mark.parametrize("kills", [20, pytest.param(200, marks=[pytest.mark.slow, pytest.mark.timeout(3600)])])
def test_killed_at_random_moments_and_finished_the_content_is_the_same(kills, base, worker, tmp_path):
    undisturbed = tmp_path / "undisturbed"
    shutil.copytree(base, undisturbed)
    worker.begin(undisturbed)
    began = time.perf_counter()
    assert worker.ended() == 0
    seconds = time.perf_counter() - began
    with Store.open(undisturbed) as store:
        wanted = store.digest()
    moments = random.Random(kills)
    landed = 0
    for attempt in range(ATTEMPTS_PER_KILL * kills):
        root = tmp_path / f"killed-{attempt}"
        shutil.copytree(base, root)
        pid = worker.begin(root)
        timer = kill_after(moments.uniform(0, seconds), pid)
        killed = worker.ended()
        timer.cancel()
        timer.join()
        check_whole(root)
        with Store.open(root, encoder=work.ENCODER) as store:
            work.update(store, work.edition(2))
            assert store.digest() == wanted
            assert len(list(store.dense_folder.glob("g-*"))) <= 1
        shutil.rmtree(root)
        landed += killed == signal.SIGKILL
        if landed == kills:
            break
    assert landed == kills


def test_killed_while_a_new_store_is_made_it_can_be_made_again(worker, tmp_path):
    moments = random.Random(5)
    for attempt in range(4):
        root = tmp_path / f"new-{attempt}"
        pid = worker.begin(root)
        timer = kill_after(moments.uniform(0, 0.1), pid)
        worker.ended()
        timer.cancel()
        timer.join()
        with Store.open(root, encoder=work.ENCODER, create=True) as store:
            work.update(store, work.edition(2))
            assert {name: store.text(name) for name in store.documents()} == work.edition(2)

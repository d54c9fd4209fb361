"""One writer at a time, whoever holds the lock and however it ends."""

import os
import signal
import subprocess
import sys

import pytest

from decant.index import Store
from decant.index.errors import StoreLocked
from decant.index.lock import WriterLock
from decant.index.testing import HashEncoder, indexed

ENCODER = HashEncoder()
# The lock file alone needs no Decant, so that the child starts at once.
HOLDER = """
import fcntl, os, sys
descriptor = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
fcntl.flock(descriptor, fcntl.LOCK_EX)
os.ftruncate(descriptor, 0)
os.write(descriptor, b'{"pid": %d, "host": "elsewhere", "since": 0}' % os.getpid())
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the lock of `tmp_path`/s."""
    with Store.open(tmp_path / "s", encoder=ENCODER, create=True):
        pass
    command = [sys.executable, "-S", "-c", HOLDER, str(tmp_path / "s" / "lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"held\n"
        yield process
        process.kill()


def test_a_living_owner_is_named_and_waited_for(tmp_path, holder):
    with Store.open(tmp_path / "s", encoder=ENCODER) as store:
        for write in (lambda: store.replace([indexed("a", "x\n", ENCODER)]), store.optimize):
            with pytest.raises(StoreLocked) as caught:
                write()
            assert f"process {holder.pid} on elsewhere" in str(caught.value)
        assert dict(store.documents()) == {}  # reading needs no lock


def test_a_dead_owners_lock_is_taken_over(tmp_path, holder):
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with Store.open(tmp_path / "s", encoder=ENCODER) as store, store.writer():
        store.replace([indexed("a", "x\n", ENCODER)])
    assert WriterLock(tmp_path / "s" / "lock").owner().pid == os.getpid()


def test_two_handles_in_one_process_exclude_each_other(tmp_path):
    with Store.open(tmp_path / "s", encoder=ENCODER, create=True) as first, Store.open(tmp_path / "s") as second:
        with first.writer():
            with pytest.raises(StoreLocked) as caught:
                second.delete(["a"])
            assert f"process {os.getpid()}" in str(caught.value)
            with first.writer():  # the same handle may nest
                first.replace([indexed("a", "x\n", ENCODER)])
        assert second.delete(["a"]) == 1


def test_the_lock_is_given_back_after_an_error(tmp_path):
    with Store.open(tmp_path / "s", encoder=ENCODER, create=True) as store:
        with pytest.raises(ZeroDivisionError), store.writer():
            raise ZeroDivisionError
        with Store.open(tmp_path / "s") as other, other.writer():
            pass


def test_an_unreadable_note_still_locks(tmp_path):
    first, second = WriterLock(tmp_path / "lock"), WriterLock(tmp_path / "lock")
    first.acquire()
    (tmp_path / "lock").write_bytes(b"\xff{")
    with pytest.raises(StoreLocked, match="another process"):
        second.acquire()
    first.release()
    second.acquire()
    second.release()


def test_a_forked_child_does_not_keep_its_dead_parents_lock(tmp_path):
    ready, says_ready = os.pipe()
    until_closed, held_open = os.pipe()
    parent = os.fork()
    if parent == 0:
        WriterLock(tmp_path / "lock").acquire()
        if os.fork() == 0:
            os.close(held_open)
            os.write(says_ready, b"x")
            os.read(until_closed, 1)
            os._exit(0)
        os._exit(0)
    os.read(ready, 1)
    os.waitpid(parent, 0)
    lock = WriterLock(tmp_path / "lock")
    lock.acquire()  # the grandchild still lives
    lock.release()
    os.close(held_open)

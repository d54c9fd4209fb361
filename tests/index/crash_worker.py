"""What the crash test kills: an update of a store, run in a child that is forked so that it starts at once.

Reads store paths from standard input, one a line; for each it forks a child that updates that store, and prints the
child's process id when the work begins and its exit status when it has ended.
"""

import os
import sys
import warnings

from decant.index import Store
from decant.index.testing import HashEncoder, indexed

ENCODER = HashEncoder()
BATCH = 3


def text_of(name: str, edition: int) -> str:
    """Several chunks, all naming their edition."""
    number = int(name[1:])
    return "".join(f"{name} edition {edition} line {i} {'word ' * number}\n" for i in range(2 + (number + edition) % 3))


def edition(number: int) -> dict[str, str]:
    """The documents of the first edition, or of the second, in which some are changed, some gone, some new."""
    names = range(24) if number == 1 else range(8, 36)
    return {f"d{i}": text_of(f"d{i}", 1 if number == 2 and 8 <= i < 12 else number) for i in names}


def update(store: Store, texts: dict[str, str]) -> None:
    """Bring a store to hold exactly these texts, as an ingestion does: unchanged ones are left alone."""
    with store.writer():
        states = store.documents()
        entries = [indexed(name, text, ENCODER, metadata={"length": len(text)}) for name, text in texts.items()]
        todo = [e for e in entries if _changed(e, states)]
        store.delete(sorted(states.keys() - texts.keys())[:4])
        for start in range(0, len(todo), BATCH):
            store.replace(todo[start : start + BATCH])
            if start == 4 * BATCH:
                store.optimize()
                store.build_accelerator("hnsw")
        store.delete(states.keys() - texts.keys())
    store.optimize()


def _changed(entry, states) -> bool:
    state = states.get(entry.document.doc_id)
    return state is None or state.content_hash != entry.content_hash


def _child(path: str) -> None:
    _tell(str(os.getpid()))
    with Store.open(path, encoder=ENCODER, create=True) as store:
        update(store, edition(2))


def _tell(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main() -> None:
    """Serve until standard input ends."""
    warnings.simplefilter("ignore")  # lancedb calls forking experimental; a child that hangs is killed by the test
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            _child(line.strip())
            os._exit(0)
        _tell(f"ended {os.waitpid(child, 0)[1]}")


if __name__ == "__main__":
    main()

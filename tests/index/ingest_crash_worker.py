"""What the ingestion crash test kills: `index_paths`, run in a child that is forked so that it starts at once.

Reads `<store> <folder>` from standard input, one pair a line; for each it forks a child that indexes the folder into
the store, and prints the child's process id when it begins and its exit status when it has ended.
"""

import os
import sys
import warnings
from pathlib import Path

from decant.index import Store
from decant.index.ingest import index_paths
from decant.index.testing import HashEncoder

ENCODER = HashEncoder()


def index(store_folder: Path, documents: Path) -> None:
    """Index with batches so small that there are many commits to die between."""
    with Store.open(store_folder, encoder=ENCODER, create=True) as store:
        index_paths(store, ENCODER, [documents], chunk_tokens=24, batch_chunks=6)


def _tell(number: int) -> None:
    sys.stdout.write(f"{number}\n")
    sys.stdout.flush()


def main() -> None:
    """Serve until standard input ends."""
    warnings.simplefilter("ignore")  # lancedb calls forking experimental; a child that hangs is killed by the test
    for line in sys.stdin:
        store_folder, documents = map(Path, line.split())
        child = os.fork()
        if child == 0:
            _tell(os.getpid())
            index(store_folder, documents)
            os._exit(0)
        _tell(os.waitpid(child, 0)[1])


if __name__ == "__main__":
    main()

"""What the cluster test runs and kills: `index_on_cluster` with two workers, in a process of its own.

    cluster_driver.py STORE DOCUMENTS LOG [--die-after SHARDS]

Every text that is encoded is appended to LOG. The first worker that meets the word `poison` kills itself, once; the
driver kills itself after so many shards.
"""

import argparse
import json
import os
import signal
import sys
from dataclasses import asdict
from functools import partial
from pathlib import Path

from decant.index import Store
from decant.index.cluster.engine import index_on_cluster
from decant.index.testing import HashEncoder


class TellingEncoder(HashEncoder):
    """Writes down what it encodes, and dies of poison once."""

    def __init__(self, log):
        super().__init__()
        self.log = log

    def encode(self, texts, **options):
        if any("poison" in text for text in texts):
            try:
                os.close(os.open(f"{self.log}.poisoned", os.O_CREAT | os.O_EXCL))
            except FileExistsError:
                pass
            else:
                os.kill(os.getpid(), signal.SIGKILL)
        with open(self.log, "a", encoding="utf-8") as log:
            log.write("".join(json.dumps(text) + "\n" for text in texts))
        return super().encode(texts, **options)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("store")
    parser.add_argument("documents", type=Path)
    parser.add_argument("log")
    parser.add_argument("--die-after", type=int)
    options = parser.parse_args()
    shards = []

    def progress(now):
        shards.append(now)
        if len(shards) == options.die_after:
            os.kill(os.getpid(), signal.SIGKILL)

    with Store.open(options.store, encoder=HashEncoder(), create=True) as store:
        report = index_on_cluster(
            store,
            HashEncoder(),
            [options.documents],
            load=partial(TellingEncoder, options.log),
            workers=2,
            chunk_tokens=24,
            progress=progress,
        )
    sys.stdout.write(json.dumps(asdict(report)) + "\n")


if __name__ == "__main__":
    main()

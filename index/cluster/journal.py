"""What a run on a cluster has finished, so that the next one goes on where this one was killed.

Fragments that a worker has written are files of the table that no version names. The journal says which shard they
hold. It is kept in the store, under the version of the table that the run began with: a store that was written since
gets a new one, because the documents that were passed over then may have changed.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict

from ..place import LANCE, Place
from ..schema import TABLE
from .shards import Shard
from .worker import Finished, Job

FOLDER = "cluster"
_PLAN = "plan.json"
_DATA = f"{LANCE}/{TABLE}.lance/data"


class Journal:
    """The finished shards of one run.

    Args:
        place: the store's.
        job: what the run does; another model, other settings or another version make another journal.
        version: of the table, before the run.
    """

    def __init__(self, place: Place, job: Job, version: int) -> None:
        mark = json.dumps([job.meta.fingerprint, asdict(job.settings), version])
        self._place = place
        self._folder = f"{FOLDER}/{hashlib.blake2b(mark.encode(), digest_size=12).hexdigest()}"

    def limit(self, wanted: int) -> int:
        """The size of shards that the run began with, or else `wanted`, which is kept; other runs are forgotten."""
        others = [name for name in self._place.names(FOLDER) if not name.startswith(self._folder)]
        self._place.remove(others)
        plan = self._place.read(f"{self._folder}/{_PLAN}")
        if plan is not None:
            return int(json.loads(plan)["limit"])
        self._place.write(f"{self._folder}/{_PLAN}", json.dumps({"limit": wanted}))
        return wanted

    def finished(self) -> dict[str, Finished]:
        """Finished shards by name, those whose fragments are still there."""
        held = {name.removeprefix(f"{_DATA}/") for name in self._place.names(_DATA)}
        done: dict[str, Finished] = {}
        for name in self._place.names(self._folder):
            raw = json.loads(self._place.read(name) or "{}")
            if "fragments" in raw:
                files = [file["path"] for text in raw["fragments"] for file in json.loads(text)["files"]]
                if held.issuperset(files):
                    failed = tuple(tuple(one) for one in raw.pop("failed"))
                    lists = {key: tuple(raw.pop(key)) for key in ("fragments", "encoded", "unchanged")}
                    done[name.rpartition("/")[2].removesuffix(".json")] = Finished(**lists, failed=failed, **raw)
        return done

    def keep(self, shard: Shard, finished: Finished) -> None:
        """Note durably that a shard is done."""
        self._place.write(f"{self._folder}/{shard.name}.json", json.dumps(asdict(finished)))

    def forget(self) -> None:
        """Remove the journal, once everything is committed."""
        self._place.remove(self._place.names(FOLDER))

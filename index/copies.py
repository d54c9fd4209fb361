"""Accelerators of a store in a bucket: built here, kept there, copied to whoever searches, never trusted unchecked.

Files go up before the manifest that names them, and come down into a folder that nothing names before its checksums
are right, so that a reader has the old generation or the new one.
"""

from __future__ import annotations

import logging
import shutil
import tempfile
from pathlib import Path

from .errors import StoreError
from .files import write_atomic
from .generations import MANIFEST, UnusableGeneration, read_manifest, sweep, verified
from .place import Place, storage_errors

_log = logging.getLogger(__name__)


def push(place: Place, folder: Path) -> None:
    """Make the bucket hold the generation in use below `folder`, or none; the writer's lease must be held."""
    name = folder.relative_to(place.folder).as_posix()
    old = place.names(name)
    manifest = read_manifest(folder)
    kept = [f"{name}/{MANIFEST}"]
    if manifest is not None:
        import obstore

        for file in manifest.files:
            kept.append(f"{name}/{manifest.generation}/{file}")
            if kept[-1] not in old:
                with storage_errors(place.name):
                    obstore.put(place.objects, kept[-1], folder / manifest.generation / file)
        place.write(kept[0], (folder / MANIFEST).read_text(encoding="utf-8"))
    place.remove([one for one in old if manifest is None or one not in kept])


def pull(place: Place, folder: Path) -> None:
    """Make `folder` hold what the bucket has in use; where that fails what was there stays, and the log says why."""
    name = folder.relative_to(place.folder).as_posix()
    wanted = place.read(f"{name}/{MANIFEST}")
    mine = folder / MANIFEST
    if wanted == (mine.read_text(encoding="utf-8") if mine.exists() else None):
        return
    if wanted is None:
        mine.unlink(missing_ok=True)
        return
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(dir=folder, prefix="new-") as scratch:
            _fetch(place, name, Path(scratch), wanted)
            manifest = read_manifest(Path(scratch))
            assert manifest is not None, "written just now"
            target = folder / manifest.generation
            if not target.exists():
                shutil.move(Path(scratch) / manifest.generation, target)
        write_atomic(mine, wanted)
    except (UnusableGeneration, StoreError, OSError) as error:
        _log.warning("%s: the accelerator could not be copied from the bucket: %s", place, error)
        return
    sweep(folder)


def _fetch(place: Place, name: str, scratch: Path, wanted: str) -> None:
    """Copy a generation and check it."""
    import obstore

    write_atomic(scratch / MANIFEST, wanted)
    manifest = read_manifest(scratch)
    assert manifest is not None, "written just now"
    (scratch / manifest.generation).mkdir()
    for file in manifest.files:
        # Nothing of the name is trusted but its last part.
        target = scratch / manifest.generation / Path(file).name
        with storage_errors(place.name), target.open("wb") as out:
            for part in obstore.get(place.objects, f"{name}/{manifest.generation}/{target.name}"):
                out.write(part)
    verified(scratch, manifest, manifest.fingerprint)

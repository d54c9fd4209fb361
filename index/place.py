"""Where a store is: a folder, or a prefix of a bucket on S3-compatible object storage.

A bucket's store keeps its tables and its small files there, and a folder on this machine for what only a disk can
hold: copies of accelerators, which are rebuilt or fetched again when they are lost. The address of the service and
the keys are taken from the environment (`AWS_ENDPOINT_URL`, `AWS_REGION`, `AWS_ACCESS_KEY_ID`, ...), by Lance and by
`obstore` alike, which are built on the same library.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

from .errors import StoreError, StoreNotFound
from .files import write_atomic

LANCE = "lance"
# A Path folds the two slashes of an address into one; both spellings name the bucket.
_ADDRESS = re.compile(r"(?P<scheme>[a-z][a-z0-9]+):/{1,2}(?P<bucket>[^/]+)/?(?P<prefix>.*)")
# A person waits: what does not come back within seconds is told.
_RETRY = {"max_retries": 3, "retry_timeout": timedelta(seconds=20)}
_ENDPOINTS = ("AWS_ENDPOINT_URL", "AWS_ENDPOINT")


@dataclass(frozen=True)
class Place:
    """A store's place, and its small files by name.

    Attributes:
        name: what a user calls it: the folder's path, or `s3://bucket/prefix`.
        folder: the store's folder, or the one on this machine that holds copies of a bucket's accelerators.
        objects: obstore's handle on the prefix; None for a folder.
    """

    name: str
    folder: Path
    objects: Any = None

    def __str__(self) -> str:
        return self.name

    @property
    def remote(self) -> bool:
        """Whether this is object storage."""
        return self.objects is not None

    @property
    def tables(self) -> str:
        """What LanceDB connects to."""
        return f"{self.name}/{LANCE}" if self.remote else str(self.folder / LANCE)

    def read(self, name: str) -> str | None:
        """A small text file, or None where there is none; OSError where it cannot be read."""
        if not self.remote:
            try:
                return (self.folder / name).read_text(encoding="utf-8")
            except (FileNotFoundError, NotADirectoryError):
                return None
        import obstore

        try:
            with storage_errors(self.name):
                return bytes(obstore.get(self.objects, name).bytes()).decode("utf-8")
        except FileNotFoundError:
            return None

    def write(self, name: str, text: str) -> None:
        """Replace a small text file at once and durably."""
        if not self.remote:
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(path, text)
            return
        import obstore

        with storage_errors(self.name):
            obstore.put(self.objects, name, text.encode("utf-8"))

    def names(self, prefix: str) -> list[str]:
        """The names of the files in a folder of this place and below it, in order."""
        if not self.remote:
            found = (path for path in (self.folder / prefix).rglob("*") if path.is_file())
            return sorted(path.relative_to(self.folder).as_posix() for path in found)
        import obstore

        with storage_errors(self.name):
            return sorted(one["path"] for one in obstore.list(self.objects, prefix=prefix).collect())

    def size(self) -> int:
        """Bytes of all objects here; of object storage only."""
        import obstore

        with storage_errors(self.name):
            return sum(one["size"] for one in obstore.list(self.objects).collect())

    def remove(self, names: list[str]) -> None:
        """Remove files; those that are not there are passed over."""
        if not self.remote:
            for name in names:
                (self.folder / name).unlink(missing_ok=True)
            return
        import obstore

        with storage_errors(self.name):
            for name in names:
                try:
                    obstore.delete(self.objects, name)
                except FileNotFoundError:
                    continue


def place_of(path: str | Path) -> Place:
    """What a path or an address names; nothing is opened or made yet.

    Raises:
        StoreError: an address of a kind that is not known to work, or `obstore` is not installed.
    """
    found = _ADDRESS.fullmatch(str(path))
    if found is None:
        return Place(str(path), Path(path))
    if found["scheme"] != "s3":
        raise StoreError(f"{path} is not on S3-compatible storage: give a folder or s3://bucket/prefix")
    if importlib.util.find_spec("obstore") is None:
        raise StoreError("a store on object storage needs obstore: pip install 'decant[s3]'")
    from obstore.store import S3Store

    prefix = found["prefix"].strip("/")
    name = "/".join(filter(None, ("s3:/", found["bucket"], prefix)))
    endpoint = next((os.environ[key] for key in _ENDPOINTS if os.environ.get(key)), "")
    options: dict[str, Any] = {"client_options": {"allow_http": endpoint.startswith("http://")}, "retry_config": _RETRY}
    if endpoint:
        options["endpoint"] = endpoint
    with storage_errors(name):
        objects: Any = cast(Any, S3Store)(found["bucket"], prefix=prefix or None, **options)
    return Place(name, _cache() / hashlib.blake2b(f"{endpoint} {name}".encode(), digest_size=8).hexdigest(), objects)


def is_address(path: str | Path) -> bool:
    """Whether a path is an address and no folder's."""
    return _ADDRESS.fullmatch(str(path)) is not None


@contextmanager
def storage_errors(name: str) -> Generator[None]:
    """Turn an object storage's errors into one line that says what to do.

    Raises:
        StoreNotFound: the bucket is not there.
        StoreError: it cannot be reached, or does not let us in.
    """
    try:
        yield
    except StoreError:
        raise
    except Exception as error:
        # obstore's classes derive from Exception; anything else that it raises is no less a failure of the storage.
        text = " ".join(str(error).split())
        if "NoSuchBucket" in text:
            raise StoreNotFound(f"there is no bucket for {name}: make it first, or check the address") from error
        if isinstance(error, FileNotFoundError):
            raise
        raise StoreError(
            f"{name} cannot be reached or does not allow this ({text[:160]}): check AWS_ENDPOINT_URL, AWS_REGION and "
            "the keys"
        ) from error


def _cache() -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(home) / "decant" / "stores"

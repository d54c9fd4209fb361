"""The files of a folder that are worth reading, in an order that is the same on every machine."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from .readers.formats import Format, format_of

# What tools make and nobody wrote; hidden entries (.git, .venv, a .decant store) are left out anyway.
_JUNK_FOLDERS = frozenset({"__pycache__", "node_modules", "site-packages"})
_JUNK_MARKERS = ("pyvenv.cfg", "CACHEDIR.TAG")


@dataclass(frozen=True)
class Failure:
    """Something that should have been indexed and was not, and why."""

    path: str
    reason: str

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


@dataclass(frozen=True)
class FoundFile:
    """A regular file of a known format.

    Attributes:
        doc_id: identity of the file's document, or the part before `#` of its records'.
        path: how to open it, and what is shown: as given, joined with the path below.
    """

    doc_id: str
    path: Path
    format: Format
    size: int


@dataclass
class Findings:
    """What one or more walks found.

    Attributes:
        failed: by doc_id (of a file, or of a folder whose whole content is then unknown).
        ignored: files of formats that are not read, links to folders; by path with the reason.
    """

    files: list[FoundFile] = field(default_factory=list["FoundFile"])
    failed: dict[str, Failure] = field(default_factory=dict[str, Failure])
    ignored: list[Failure] = field(default_factory=list[Failure])


def walk(path: Path, doc_id: str, findings: Findings, *, leave_out: Collection[Path]) -> None:
    """Add what lies at `path`, a folder or a file, to `findings`.

    Hidden entries, caches, virtual environments and links to folders are left out: a link's target is indexed where
    it really is, or as a root of its own.

    Args:
        path: as given by the user.
        doc_id: what ids begin with: the file's whole id, or the folder's part of it without a slash at its end.
        findings: is added to.
        leave_out: absolute, resolved folders that are not entered.
    """
    if not os.path.isdir(path):
        _add_file(path, doc_id, findings, named=True)
        return
    pending = [(path, doc_id)]
    while pending:
        folder, prefix = pending.pop()
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError as error:
            _fail(findings, folder, prefix, _reason(error))
            continue
        folders = [_enter(entry, f"{prefix}/{entry.name}", findings, leave_out) for entry in _wanted(entries)]
        pending.extend(found for found in reversed(folders) if found is not None)


def _wanted(entries: list[os.DirEntry[str]]) -> Iterator[os.DirEntry[str]]:
    if any(entry.name in _JUNK_MARKERS for entry in entries):
        return
    for entry in entries:
        if not entry.name.startswith(".") and entry.name not in _JUNK_FOLDERS:
            yield entry


def _enter(
    entry: os.DirEntry[str], doc_id: str, findings: Findings, leave_out: Collection[Path]
) -> tuple[Path, str] | None:
    path = Path(entry.path)
    if not is_text(entry.name):
        _fail(findings, path, doc_id, "a file name that is not UTF-8: rename it")
    elif entry.is_symlink() and os.path.isdir(path):
        findings.ignored.append(Failure(str(path), "a link to a folder"))
    elif entry.is_dir(follow_symlinks=False):
        if not leave_out or path.resolve() not in leave_out:
            return path, doc_id
    else:
        _add_file(path, doc_id, findings, named=False)
    return None


def _add_file(path: Path, doc_id: str, findings: Findings, *, named: bool) -> None:
    format_ = format_of(path)
    if format_ is None:
        if named:
            _fail(findings, path, doc_id, "a file type that is not read")
        else:
            findings.ignored.append(Failure(str(path), f"not read: {path.suffix or 'no suffix'}"))
        return
    try:
        status = path.stat()
    except OSError as error:
        _fail(findings, path, doc_id, _reason(error))
        return
    if stat.S_ISREG(status.st_mode):
        findings.files.append(FoundFile(doc_id, path, format_, status.st_size))
    else:
        _fail(findings, path, doc_id, "not a regular file (a pipe, socket or device)")


def _fail(findings: Findings, path: Path, doc_id: str, reason: str) -> None:
    findings.failed[doc_id] = Failure(os.fsencode(path).decode("utf-8", "replace"), reason)


def _reason(error: OSError) -> str:
    if error.errno == errno.ELOOP:
        return "a symbolic link that leads to itself"
    if error.errno == errno.ENOENT:
        return "a link to nothing"
    return (error.strerror or type(error).__name__).lower()


def is_text(name: str) -> bool:
    """Return whether a file name is Unicode; others reach Python with lone surrogates and cannot be stored."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True

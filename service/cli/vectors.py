"""Writers of vectors: row by row into `.parquet`, `.npy` or `.jsonl`, whole at the end or not there at all."""

from __future__ import annotations

import json
import os
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ...embedder import Embeddings
from ...embedder.errors import InputError
from .output import write_line

FORMATS = (".parquet", ".npy", ".jsonl")


class Writer(Protocol):
    """Takes embeddings with the names of their rows; `finish` makes the file complete."""

    def write(self, names: Sequence[str], part: Embeddings) -> None:
        """Append rows: `names[i]` belongs to row i of `part`."""
        ...

    def finish(self) -> None:
        """Write what can only be known at the end."""
        ...


@contextmanager
def writer_to(out: Path | None) -> Generator[Writer]:
    """Open the writer for a file by its suffix; JSON lines on stdout for None.

    The file appears under its name when the block ends without an error, in place of an older one.

    Raises:
        InputError: a suffix nobody asked for, or a folder that cannot be written.
    """
    if out is None:
        yield _JsonLines(None)
        return
    if out.suffix not in FORMATS:
        raise InputError(f"cannot tell the format of {out}: end its name in {', '.join(FORMATS)}")
    draft = out.with_name(f".{out.name}.{os.getpid()}")
    try:
        with draft.open("w+b") as stream:
            writer = _WRITERS[out.suffix](stream)
            yield writer
            writer.finish()
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(draft, out)
    except OSError as error:
        raise InputError(f"cannot write {out}: {(error.strerror or str(error)).lower()}") from error
    finally:
        draft.unlink(missing_ok=True)


class _JsonLines:
    """An object per line: id, tokens, truncated, and of vector, sparse and router what was asked for."""

    def __init__(self, stream: BinaryIO | None) -> None:
        self._stream = stream

    def write(self, names: Sequence[str], part: Embeddings) -> None:
        for i, name in enumerate(names):
            cut = bool(part.truncated[i])
            head = json.dumps({"id": name, "tokens": int(part.tokens[i]), "truncated": cut}, ensure_ascii=False)
            made = [f', "{key}": [{_numbers(rows[i])}]' for key, rows in _matrices(part)]
            if part.sparse is not None:
                begin, end = part.sparse.indptr[i : i + 2]
                terms, weights = (_numbers(values[begin:end]) for values in (part.sparse.indices, part.sparse.data))
                made.append(f', "sparse": {{"terms": [{terms}], "weights": [{weights}]}}')
            line = f"{head[:-1]}{''.join(made)}}}"
            if self._stream is None:
                write_line(line)
            else:
                self._stream.write(line.encode() + b"\n")

    def finish(self) -> None:
        """Nothing is missing after the last line."""


class _Numpy:
    """One float32 array (N, D), of dense or of router vectors.

    The header is written again when N is known, and NumPy keeps room for that.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._rows = self._width = 0

    def write(self, names: Sequence[str], part: Embeddings) -> None:
        matrices = _matrices(part)
        if part.sparse is not None or len(matrices) != 1:
            raise InputError("a .npy holds one dense array: write more, or sparse vectors, to .parquet or .jsonl")
        dense = np.ascontiguousarray(matrices[0][1], "<f4")
        if self._rows == 0:
            self._width = dense.shape[1]
            self._header()
        self._stream.write(dense.tobytes())
        self._rows += len(dense)

    def finish(self) -> None:
        self._stream.seek(0)
        self._header()

    def _header(self) -> None:
        header = {"descr": "<f4", "fortran_order": False, "shape": (self._rows, self._width)}
        np.lib.format.write_array_header_1_0(self._stream, header)


class _Parquet:
    """Columns id, tokens, truncated, and of the rest what was asked for; a row group per part.

    vector, router: fixed-size lists of float32; sparse_terms: list of int32, sparse_weights: list of float32.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._writer: pq.ParquetWriter | None = None

    def write(self, names: Sequence[str], part: Embeddings) -> None:
        columns: dict[str, pa.Array[Any]] = {"id": pa.array(names, pa.string())}
        for key, rows in _matrices(part):
            columns[key] = pa.FixedSizeListArray.from_arrays(pa.array(rows.reshape(-1)), rows.shape[1])
        if part.sparse is not None:
            ends = pa.array(np.asarray(part.sparse.indptr, np.int32))
            columns["sparse_terms"] = pa.ListArray.from_arrays(
                ends, pa.array(np.asarray(part.sparse.indices, np.int32))
            )
            columns["sparse_weights"] = pa.ListArray.from_arrays(ends, pa.array(np.asarray(part.sparse.data)))
        columns |= {"tokens": pa.array(part.tokens), "truncated": pa.array(part.truncated)}
        group = pa.table(columns)
        if self._writer is None:
            self._writer = pq.ParquetWriter(self._stream, group.schema)
        self._writer.write_table(group)

    def finish(self) -> None:
        if self._writer is not None:
            self._writer.close()


_WRITERS = {".parquet": _Parquet, ".npy": _Numpy, ".jsonl": _JsonLines}


def _matrices(part: Embeddings) -> list[tuple[str, NDArray[np.float32]]]:
    given = (("vector", part.dense), ("router", part.router))
    return [(key, rows) for key, rows in given if rows is not None]


def _numbers(values: NDArray[Any]) -> str:
    # float32's shortest text that reads back as the same number; a float64 would print noise digits.
    return ", ".join(str(value) for value in values)

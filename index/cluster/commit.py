"""All fragments of a run, and all deletions that go with them, in one commit of the store's table.

This is Lance's own interface (`pylance`), because LanceDB's writes only what passes through one process. Both must be
of one Lance release, or the one may not read what the other has written.
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from typing import Any

from ..filters import quoted


def commit(table: str, version: int, fragments: Sequence[str], gone: Set[str]) -> None:
    """Make fragments visible and documents disappear, together.

    Args:
        table: the table's address.
        version: the newest, which the writer's lock keeps so.
        fragments: Lance's descriptions, as JSON.
        gone: ids whose rows of before go, replaced or vanished.
    """
    import lance
    from lance.fragment import FragmentMetadata

    library: Any = lance
    dataset: Any = library.dataset(table, version=version)
    new = [FragmentMetadata.from_json(text) for text in fragments]
    removed, updated = _without(dataset, gone) if gone else ([], [])
    if removed or updated:
        operation = library.LanceOperation.Update(
            removed_fragment_ids=removed, updated_fragments=updated, new_fragments=new, fields_modified=[]
        )
    else:
        operation = library.LanceOperation.Append(new)
    library.LanceDataset.commit(table, operation, read_version=version)


def _without(dataset: Any, gone: Set[str]) -> tuple[list[int], list[Any]]:
    """The fragments that lose all their rows, and the new state of those that lose some."""
    removed: list[int] = []
    updated: list[Any] = []
    for fragment in dataset.get_fragments():
        held = set(fragment.to_table(columns=["doc_id"])["doc_id"].to_pylist())
        if mine := held & gone:
            left = fragment.delete(f"doc_id IN ({', '.join(map(quoted, sorted(mine)))})")
            if left is None:
                removed.append(fragment.fragment_id)
            else:
                updated.append(left)
    return removed, updated

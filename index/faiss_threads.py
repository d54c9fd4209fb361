"""How many threads a search of vectors takes: one, unless there are many queries.

faiss and the BLAS of numpy wake a thread for each processor, even for one query, and each of them then waits for more
work in a loop that burns a processor for milliseconds: at 50 searches a second that was three times the processor time
of the searches themselves, taken from whoever writes or encodes beside them.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

import faiss

# So many at once are an evaluation, not a user: there is something to share. The number was not measured.
MANY = 16


@contextmanager
def threads_for(queries: int) -> Generator[None]:
    """Let faiss have one thread for few queries, all for many; the number belongs to the calling thread."""
    before = faiss.omp_get_max_threads()
    if queries >= MANY or before == 1:
        yield
        return
    faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)

"""Memory that one batch has freed is kept for the next, where glibc manages it.

It gives large blocks back to the system, up to which size by a rule of its own; every page of the next batch is then
mapped and cleared anew, a tenth of the time on long texts. Blocks below 32 MiB stay in the process here, as by that
rule once a block of this size has been freed, and at most 128 MiB at the end of each heap.
"""

from __future__ import annotations

import ctypes
import logging
import os
import platform
from functools import cache

log = logging.getLogger(__name__)

# The names of mallopt(3).
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_KEPT, _LARGE = 128 << 20, 32 << 20


@cache
def keep_freed_memory() -> bool:
    """Tell glibc so, once a process, and return whether it was told.

    It is not where the environment sets these (MALLOC_TRIM_THRESHOLD_, MALLOC_MMAP_THRESHOLD_, GLIBC_TUNABLES).
    """
    tuned = {"MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_"} & os.environ.keys()
    if platform.libc_ver()[0] != "glibc" or tuned or "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", ""):
        return False
    mallopt = ctypes.CDLL(None).mallopt
    told = bool(mallopt(_M_MMAP_THRESHOLD, _LARGE) and mallopt(_M_TRIM_THRESHOLD, _KEPT))
    log.info("freed memory is kept for the next batch: %s", told)
    return told

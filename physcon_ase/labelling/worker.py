"""What a worker process does before anything else; this module imports nothing heavy, so that it comes in time."""

import ctypes
import multiprocessing
import os
import signal
import threading
from multiprocessing.connection import wait
from typing import Final

THREAD_VARIABLES: Final = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS",
)
"""What numerical libraries read once, when they are loaded."""


_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_MAX: Final = -4
_LARGEST_INT: Final = 2**31 - 1


def prepare_worker() -> None:
    """One thread for each library, no reaction to Ctrl-C (the parent ends us), and no life after the parent."""
    os.environ.update(dict.fromkeys(THREAD_VARIABLES, "1"))
    keep_freed_memory()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def keep_freed_memory() -> None:
    """Lets the allocator of glibc keep freed memory: page faults take a quarter of the time of a network else.

    It changes the whole process, so it is for worker processes and commands, not for a library call. Without glibc
    nothing happens.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if mallopt is not None:
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, _LARGEST_INT)


def _end_with_parent() -> None:
    # A parent that was killed closes no queue: its workers would wait for work for ever.
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)

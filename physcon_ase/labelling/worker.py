"""What a worker process does before anything else; this module imports nothing heavy, so that it comes in time."""

import multiprocessing
import os
import signal
import threading
from multiprocessing.connection import wait
from typing import Final

from physcon_ase.memory import keep_freed_memory

THREAD_VARIABLES: Final = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS",
)
"""What numerical libraries read once, when they are loaded."""


def prepare_worker() -> None:
    """One thread for each library, no reaction to Ctrl-C (the parent ends us), and no life after the parent."""
    os.environ.update(dict.fromkeys(THREAD_VARIABLES, "1"))
    keep_freed_memory()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    # A parent that was killed closes no queue: its workers would wait for work for ever.
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)

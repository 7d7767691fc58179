"""Initialisation of worker processes; imports no numerical library, since it must run before they are loaded."""

import multiprocessing
import os
import signal
import threading
from multiprocessing.connection import Connection, wait
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
"""Environment variables with the number of threads, read by numerical libraries on loading."""


def prepare_worker(stop: Connection) -> None:
    """Initialises a worker: single-threaded libraries, SIGINT ignored, exit with the parent process or at its request.

    Args:
        stop: connection whose other end the parent closes to stop its workers at once.
    """
    os.environ.update(dict.fromkeys(THREAD_VARIABLES, "1"))
    keep_freed_memory()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, args=(stop,), daemon=True).start()


def _end_with_parent(stop: Connection) -> None:
    # A killed parent does not close its queues, and the workers would wait forever.
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel, stop])
        os._exit(1)

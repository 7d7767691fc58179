"""The allocator of the process."""

import ctypes
import os
from typing import Final

_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_MAX: Final = -4
_LARGEST_INT: Final = 2**31 - 1


def keep_freed_memory() -> None:
    """Lets the allocator of glibc keep freed memory: page faults take a quarter of the time of a network else.

    It changes the whole process, so it is for worker processes and commands, not for a library call. Without glibc
    nothing happens.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if mallopt is not None:
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, _LARGEST_INT)

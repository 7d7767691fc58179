"""Interruption with Ctrl-C (SIGINT)."""

import _thread
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

_POLL_SECONDS: Final = 0.05
"""Interval [s] at which the end of a guarded block is noticed."""


@contextmanager
def interruptible() -> Iterator[None]:
    """Context manager and decorator: SIGINT raises KeyboardInterrupt although a library replaces its handler.

    RDKit does so during embeddings and substructure searches, whose results are then incomplete, and takes most
    interruptions for itself. The signal is therefore blocked here, so that no handler sees it, and a thread waits for
    it. No effect outside the main thread, and on systems without `sigtimedwait`.
    """
    if not hasattr(signal, "sigtimedwait") or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    if signal.SIGINT in before:  # blocked by an outer block, or for good
        yield
        return
    ended = threading.Event()
    threading.Thread(target=_interrupt_main, args=(ended,), daemon=True).start()
    try:
        yield
    finally:
        ended.set()
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _interrupt_main(ended: threading.Event) -> None:
    while not ended.is_set():
        if signal.sigtimedwait({signal.SIGINT}, _POLL_SECONDS) is not None:
            _thread.interrupt_main()


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Context manager: delays SIGINT. Processes started inside never receive it, not even before their first line."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)

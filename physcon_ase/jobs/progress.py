"""Progress bars on terminals."""

import sys
import threading
from types import TracebackType
from typing import Final

from tqdm import tqdm

_FORMAT: Final = "{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_noinv_fmt}{postfix}]"
"""Layout of the bar. The rate is always a number per second, whereas tqdm inverts small ones."""

_TICK_SECONDS: Final = 0.5
"""Interval [s] at which the elapsed time is updated while no result arrives."""


class Progress:
    """Progress bar of a long run; nothing is shown if standard error is not a terminal."""

    def __init__(self, total: int, *, initial: int = 0, unit: str = "molecule", show: bool = True):
        """Opens the bar.

        Args:
            total: number of all units.
            initial: number of those that were finished before.
            unit: name of a unit.
            show: whether to show a bar at all.
        """
        self.count = initial
        """Number of finished units."""
        # smoothing 0: the rate is that of the whole run, since results arrive in groups
        self._bar = tqdm(
            total=total,
            initial=initial,
            unit=f" {unit}s",
            bar_format=_FORMAT,
            smoothing=0,
            miniters=0,
            disable=not show or not is_terminal(),
        )
        self._is_closed = threading.Event()
        if not self._bar.disable:
            threading.Thread(target=self._tick, daemon=True).start()

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self._is_closed.set()
        self._bar.close()

    def advance(self, count: int, note: str = "") -> None:
        """Counts finished units; `note` is shown after the rate."""
        self.count += count
        if note:
            self._bar.set_postfix_str(note, refresh=False)
        self._bar.update(count)

    def _tick(self) -> None:
        while not self._is_closed.wait(_TICK_SECONDS):
            self._bar.refresh()


def is_terminal() -> bool:
    """Whether standard error is a terminal, on which progress is shown."""
    return bool(getattr(sys.stderr, "isatty", lambda: False)())

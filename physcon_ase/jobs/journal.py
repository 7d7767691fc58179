"""Journal of a long run: one line of JSON per result, appended as soon as it is known.

The first line contains the fingerprint of the run. An incomplete last line, left by a crash, is removed. Arrays are
base64-encoded and little-endian.
"""

import base64
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from time import monotonic
from types import TracebackType
from typing import Any, Final

import numpy as np
from filelock import FileLock, Timeout

from physcon_ase.errors import StoreError

_START: Final = b'{"journal": '
"""First bytes of a journal."""

_SYNC_SECONDS: Final = 1.0
"""Interval [s] of fsync calls: at most this time is lost in a power failure; a killed process loses nothing."""


class Journal:
    """Open journal file."""

    def __init__(self, path: Path, fingerprint: str, *, program: str, depends_on: str):
        """Creates a journal, or opens that of an interrupted run.

        Args:
            path: the file.
            fingerprint: fingerprint of the run, see `fingerprint`.
            program: name of the program, e.g. "physcon label".
            depends_on: what the fingerprint covers, for the error message.

        Raises:
            StoreError: the file belongs to a different run, or is not a journal.
        """
        self.path = path
        self.resumed: list[dict[str, Any]] = []
        """Entries of the interrupted run."""
        n_bytes = self._read(fingerprint, program, depends_on) if path.exists() else 0
        self._file = path.open("ab")
        self._file.truncate(n_bytes)
        self._synced = monotonic()
        if n_bytes == 0:
            self.append([json_line(journal=program, fingerprint=fingerprint)])

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        os.fsync(self._file.fileno())
        self._file.close()

    def append(self, lines: Iterable[str]) -> None:
        """Appends lines made by `json_line`."""
        self._file.write("".join(lines).encode())
        self._file.flush()
        if monotonic() - self._synced > _SYNC_SECONDS:
            os.fsync(self._file.fileno())
            self._synced = monotonic()

    def _read(self, fingerprint: str, program: str, depends_on: str) -> int:
        """Reads all complete lines and returns their length in bytes."""
        content = self.path.read_bytes()
        n_bytes = content.rfind(b"\n") + 1
        lines = content[:n_bytes].split(b"\n")[:-1]
        try:
            entries = [json.loads(line) for line in lines]
            if not content.startswith(_START[: len(content)]):  # any other file, which must not be overwritten
                raise ValueError("its first line is another")
        except ValueError as error:
            raise StoreError(
                f"{self.path} is not a journal of {program} ({error}); choose another file, or delete it to start again"
            ) from error
        if entries and entries[0].get("fingerprint") != fingerprint:
            raise StoreError(
                f"{self.path} belongs to a run with different {depends_on}; choose another output, or delete it to "
                "start again"
            )
        self.resumed = entries[1:]
        return n_bytes


def fingerprint(
    description: dict[str, Any], molecules: Iterable[bytes], *, name_of: Callable[[object], str] = str
) -> str:
    """SHA-256 of settings and molecules; `name_of` names a setting that cannot be serialised to JSON."""
    digest = hashlib.sha256(json.dumps(description, sort_keys=True, default=name_of).encode())
    for molecule in molecules:
        digest.update(b"\n" + molecule)
    return digest.hexdigest()


def json_line(**values: Any) -> str:
    """One line of JSON."""
    return json.dumps(values, ensure_ascii=False) + "\n"


def packed(array: np.ndarray, dtype: str) -> str:
    """Array as text; `dtype` is a little-endian dtype of numpy such as "<f4"."""
    return base64.b64encode(np.ascontiguousarray(array, dtype=dtype).tobytes()).decode()


def unpacked(text: str, dtype: str, shape: tuple[int, ...]) -> np.ndarray:
    """Inverse of `packed`."""
    return np.frombuffer(base64.b64decode(text), dtype=dtype).reshape(shape)


@contextmanager
def output_lock(output: Path, verb: str) -> Iterator[None]:
    """Context manager: locks an output against other runs on this machine; the lock of a killed run is released.

    Args:
        output: the output.
        verb: what the other run does to the output, for the error message.

    Raises:
        StoreError: another process holds the lock.
    """
    lock = FileLock(output.with_name(f"{output.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise StoreError(
            f"another process is currently {verb} {output}; wait until it has finished, or choose another output"
        ) from None
    try:
        yield
    finally:
        # before the release: afterwards the file may be the lock of another process, which a third one would not see
        with suppress(OSError):  # Windows removes no open file
            Path(lock.lock_file).unlink()
        lock.release()

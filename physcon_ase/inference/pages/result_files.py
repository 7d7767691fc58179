"""Reading of the result files of `physcon optimize`, `ensemble`, `scan`, `strain`, `vibrations` and `interaction`."""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from physcon_ase.errors import StoreError
from physcon_ase.inference.formats.table import suffix_of
from physcon_ase.inference.formats.text import decoded
from physcon_ase.inference.pages.entry import Entry
from physcon_ase.inference.pages.kinds import KINDS, entry_of
from physcon_ase.inference.results import STATUSES
from physcon_ase.units import ATOMIC_NUMBERS

LINES, ONE = ".jsonl", ".json"
"""Suffixes of result files with one molecule per line, and with one molecule."""

WRITTEN_BY: Final = "give files (.jsonl, .json) of physcon optimize, ensemble, scan, strain, vibrations or interaction"
"""Remedy of errors of files."""


def read_entries(inputs: Iterable[str | Path]) -> list[Entry]:
    """Entries of all molecules of result files, failures included, in the order of the inputs.

    Args:
        inputs: result files, and folders of which all files with the suffixes .json and .jsonl are read by name; any of
            them may end in .gz.

    Raises:
        StoreError: a file or folder is missing, is not a result file, is damaged or has no molecules.
    """
    return [entry for path in result_files(inputs) for entry in _entries_of_file(path)]


def result_files(inputs: Iterable[str | Path]) -> list[Path]:
    """Each result file of files and folders, once. Args and Raises: see `read_entries`."""
    found: dict[Path, Path] = {}
    for path in map(Path, inputs):
        if not path.exists():
            raise StoreError(f"there is no file or folder {path}; {WRITTEN_BY}")
        paths = sorted(own for own in path.iterdir() if _is_result_file(own)) if path.is_dir() else [path]
        if not paths:
            raise StoreError(f"the folder {path} has no result files (.jsonl, .json); {WRITTEN_BY}")
        for own in paths:
            if not _is_result_file(own):
                raise StoreError(f"{own} is not a result file (.jsonl, .json); {WRITTEN_BY}")
            found.setdefault(own.resolve(), own)
    if not found:
        raise StoreError(f"there are no inputs; {WRITTEN_BY}")
    return list(found.values())


def _is_result_file(path: Path) -> bool:
    return suffix_of(path) in (LINES, ONE) and path.is_file()


def _entries_of_file(path: Path) -> list[Entry]:
    entries = [_entry(content, where, path) for where, content in _contents(path)]
    if not entries:
        raise StoreError(f"{path} contains no molecules; {WRITTEN_BY}")
    return entries


def _contents(path: Path) -> Iterator[tuple[str, Any]]:
    """Each JSON value of a file with its place."""
    text = decoded(path.read_bytes(), str(path))
    parts = [(str(path), text)]
    if suffix_of(path) == LINES:
        parts = [(f"{path}, line {number}", line) for number, line in enumerate(text.split("\n"), start=1)]
    for where, part in parts:
        if part.strip():
            try:
                yield where, json.loads(part, parse_constant=lambda _: None)  # NaN
            except json.JSONDecodeError as error:
                raise StoreError(f"{where} is damaged: {error}; write it again") from error


def _entry(content: Any, where: str, path: Path) -> Entry:
    if not isinstance(content, Mapping) or content.get("kind") not in KINDS:
        raise StoreError(f"{where} is not a result of physcon; {WRITTEN_BY}")
    is_row = suffix_of(path) == LINES and content["kind"] == "relaxation"
    try:
        entry = entry_of(_from_line(content) if is_row else content)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise StoreError(
            f"{where} is incomplete or damaged ({type(error).__name__}: {error}); write it again"
        ) from error
    if entry.status not in STATUSES:
        raise StoreError(f"{where} has an unknown status {entry.status!r}; write it again")
    source = f"{content['source']}, row {content['row']}" if is_row and content.get("source") else path.name
    return replace(entry, source=source)


def _from_line(line: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of `Result.to_dict`, with name, status and reason, from a line of JSON."""
    found = dict(line)
    found["atomic_numbers"] = [ATOMIC_NUMBERS[symbol] for symbol in line.get("symbols", ())]
    found["undefined_stereo"] = [part for part in (line.get("undefined_stereo") or "").split("; ") if part]
    return found

"""Text of input files, and files that are either complete or absent."""

import gzip
import json
import os
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, TextIO

from physcon_ase.errors import StoreError
from physcon_ase.inference.formats.table import GZIP_SUFFIX

_GZIP_START: Final = b"\x1f\x8b"


def decoded(data: bytes, source: str) -> str:
    """Text of a file, which may be compressed with gzip, in UTF-8 or UTF-16 with a byte order mark, or in Latin-1.

    Args:
        data: content of the file.
        source: name of the file, for the error message.

    Raises:
        StoreError: the file is damaged or is not a text.
    """
    if data.startswith(_GZIP_START):
        try:
            data = gzip.decompress(data)
        except (OSError, EOFError, zlib.error) as error:
            raise StoreError(f"{source} is a damaged gzip file ({error}); copy it again") from error
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return _with_newlines(data.decode("utf-16", errors="replace"))
    if b"\0" in data:
        raise StoreError(f"{source} is not a text file; give one of the formats of chemistry")
    try:
        return _with_newlines(data.decode("utf-8-sig"))
    except UnicodeDecodeError:
        return _with_newlines(data.decode("latin-1"))


def _with_newlines(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")


@contextmanager
def replacing(path: Path) -> Iterator[TextIO]:
    """Context manager: a file open for writing that replaces `path` at the end, so that it is never half-written."""
    with replaced(path) as part:
        if path.name.lower().endswith(GZIP_SUFFIX):
            with gzip.open(part, "wt", encoding="utf-8", newline="\n") as file:
                yield file
        else:
            with part.open("w", encoding="utf-8", newline="\n") as file:
                yield file


def write_json(content: Mapping[str, Any], path: Path) -> None:
    """Writes a dictionary of numbers, texts and lists; the file is never half-written."""
    with replacing(path) as file:
        file.write(json.dumps(content, indent=1) + "\n")


@contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """Context manager: a temporary path next to `path` that is renamed to it at the end, or deleted after an error."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield part
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)

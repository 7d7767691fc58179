"""Blocks of code in Markdown files, and how the tests run those in Python."""

import re
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]

_BLOCK = re.compile(
    r"^(?:<!-- needs: (?P<needs>[\w, ]+) -->\n)?```(?P<language>\w+)\n(?P<code>.*?)^```$",
    flags=re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True)
class CodeBlock:
    """One block between fences."""

    path: Path
    """The file."""
    line: int
    """Line of the file in which the code begins."""
    code: str
    """The code."""
    needs: tuple[str, ...]
    """Packages without which it cannot run, from a comment `<!-- needs: pyscf -->` above it."""


def code_blocks(path: Path, language: str) -> list[CodeBlock]:
    """The blocks of a file that are marked with this language."""
    text = path.read_text(encoding="utf-8")
    return [
        CodeBlock(
            path=path,
            line=text.count("\n", 0, match.start("code")) + 1,
            code=match["code"],
            needs=tuple((match["needs"] or "").replace(",", " ").split()),
        )
        for match in _BLOCK.finditer(text)
        if match["language"] == language
    ]


def run_python(block: CodeBlock, namespace: dict[str, Any]) -> None:
    """Runs a block, unless a package that it needs is missing; errors name the line of the file."""
    if all(find_spec(package) is not None for package in block.needs):
        exec(compile("\n" * (block.line - 1) + block.code, str(block.path), "exec"), namespace)

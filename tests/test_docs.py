"""The pages of docs/: their Python runs, their recipes can be read, their links lead somewhere, and the site builds."""

import os
import re
import shlex
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from physcon_ase.cli import main
from physcon_ase.training.recipe_files import parse_recipe
from physcon_ase.training.staged_recipe import is_staged, read_staged_recipe
from tests.code_blocks import ROOT, CodeBlock, code_blocks, run_python

DOCS = ROOT / "docs"

SLOW = ("guides/own-level.md", "labelling.md")
"""Pages whose code labels molecules or trains a model."""

JOBS = "guides/jobs.md"
"""Page whose code and commands run in one folder, in their order."""

PAGES = [
    pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name
    for name in sorted(path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md") if code_blocks(path, "python"))
    if name != JOBS
]

RECIPES = [block for path in sorted(DOCS.rglob("*.md")) for block in code_blocks(path, "toml")]

LINKED = [
    path
    for pattern in ("*.md", "docs/**/*.md", "studies/*/*.md", "recipes/**/*.md", "data/*/*.md", "checkpoints/**/*.md")
    for path in sorted(ROOT.glob(pattern))
]
"""Files of the repository whose links are checked."""


@pytest.mark.parametrize("name", PAGES)
def test_python_of_a_page_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, Any] = {"__name__": "page"}
    for block in code_blocks(DOCS / name, "python"):
        run_python(block, namespace)


@pytest.mark.slow
def test_the_jobs_run_in_their_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, Any] = {"__name__": "page"}
    blocks = [(block, language) for language in ("python", "shell") for block in code_blocks(DOCS / JOBS, language)]
    for block, language in sorted(blocks, key=lambda entry: entry[0].line):
        if language == "python":
            run_python(block, namespace)
            continue
        for line in block.code.splitlines():
            command, _, comment = line.partition("  # exit code ")
            name, *arguments = shlex.split(command)
            assert name == "physcon"
            assert main(arguments) == int(comment or 0), line


def test_the_jobs_are_thirty() -> None:
    numbers = re.findall(r"^\*\*(\d+)\.\*\*", (DOCS / JOBS).read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert numbers == [str(number) for number in range(1, 31)]


def test_every_slow_page_is_there() -> None:
    assert all((DOCS / name).is_file() for name in SLOW)


@pytest.mark.parametrize("block", RECIPES, ids=lambda block: f"{block.path.stem}-{block.line}")
def test_a_recipe_of_a_page_can_be_read(block: CodeBlock, tmp_path: Path) -> None:
    """Parts of a recipe are completed with what every recipe has."""
    text, path = block.code, tmp_path / "recipe.toml"
    path.write_text(text, encoding="utf-8")
    if is_staged(path):
        assert len(read_staged_recipe(path, "tiny").stages) == 2
        return
    if "[[levels]]" not in text:
        text += "".join(f'\n[[levels]]\nname = "{name}"\ndescription = ""\n' for name in ("gfn2", "b3lyp"))
    if "[optim]" not in text:
        text += "\n[optim]\nsteps = 1\n"
    if not re.search(r"^name = ", text.partition("[")[0], flags=re.MULTILINE):
        text = f'name = "page"\n{text}'
    if "[[data]]" not in text:
        text += '\n[[data]]\nstore = "labels.h5"\nlevels = ["gfn2"]\n'
    assert parse_recipe(text, f"{block.path.name}, line {block.line}").data


def test_every_link_between_files_of_the_repository_leads_somewhere() -> None:
    link = re.compile(r"\[[^\]\n]*\]\((?P<path>[^)\s#:]+\.[^)\s#:]+)(?:#[^)\s]*)?\)")  # a dot: SMILES have (N)
    targets = [(path, match["path"]) for path in LINKED for match in link.finditer(path.read_text(encoding="utf-8"))]
    assert len(targets) > 50
    assert [f"{path}: {target}" for path, target in targets if not (path.parent / target).exists()] == []


@pytest.mark.slow
@pytest.mark.skipif(find_spec("mkdocs") is None, reason="needs mkdocs: pip install 'physcon-ase[docs]'")
def test_the_site_builds_without_warnings_and_loads_nothing_from_the_network(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    pages = [*(tmp_path / "site").rglob("*.html")]
    assert len(pages) > 30
    for page in pages:
        text = page.read_text(encoding="utf-8")
        loaded = re.findall(
            r"<(?:script|img|iframe)[^>]* src=\"https?:[^\"]*|<link[^>]*stylesheet[^>]*https?:[^>]*", text
        )
        assert loaded == [], page

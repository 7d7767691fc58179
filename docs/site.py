"""Hooks of mkdocs: files outside docs/ as pages, links between files of the repository, help texts of the command.

Links in Markdown files are relative to the file, so that they work in a clone. In the site they lead to the page made
from the target; links to files that are not part of the site, such as scripts, become plain text.
"""

import contextlib
import io
import os
import posixpath
import re
import sys
from pathlib import Path
from typing import Final

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.plugins import event_priority
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from mkdocs_autorefs import AutorefsExtension

ROOT: Final = Path(__file__).resolve().parents[1]

OUTSIDE: Final = (
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "checkpoints/README.md",
    "checkpoints/*/README.md",
    "data/*/README.md",
    "recipes/HISTORY.md",
    "recipes/physcon-2/families/README.md",
    "studies/*/README.md",
    "studies/*/*.png",
)
"""Files of the repository that are part of the site under their own path."""

_LINK: Final = re.compile(r"(?P<text>!?\[[^\]\n]*\])\((?P<path>[^)\s#:]+)(?P<anchor>#[^)\s]*)?\)")
_HELP: Final = re.compile(r"^<!-- help:(?P<command>[a-z ]*)-->$", flags=re.MULTILINE)


@event_priority(-100)  # after the plugin that adds the extension
def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Takes brackets as they are: ``[atoms, 3] [Å]`` and SMILES such as ``[S+][O-]`` are no cross-references."""
    extensions = config.markdown_extensions  # changed in place: mkdocstrings has this list already
    extensions[:] = [extension for extension in extensions if not isinstance(extension, AutorefsExtension)]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the files of `OUTSIDE`."""
    for pattern in OUTSIDE:
        for path in sorted(ROOT.glob(pattern)):
            files.append(File.generated(config, path.relative_to(ROOT).as_posix(), abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Converts the links of a page, and inserts help texts at `<!-- help: COMMAND -->`."""
    assert page.file.abs_src_path is not None
    folder = Path(page.file.abs_src_path).resolve().relative_to(ROOT).parent.as_posix()

    def link(match: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(folder, match["path"]))
        place = target.removeprefix("docs/")
        if files.get_file_from_path(place) is not None:
            relative = posixpath.relpath(place, posixpath.dirname(page.file.src_uri))
            return f"{match['text']}({relative}{match['anchor'] or ''})"
        if (ROOT / target).exists() and not match["text"].startswith("!"):
            return match["text"][1:-1]
        return match[0]  # mkdocs reports it

    return _HELP.sub(lambda match: _help(match["command"].split()), _LINK.sub(link, markdown))


def _help(command: list[str]) -> str:
    """Help text of a command of `physcon` as a block of code."""
    os.environ["COLUMNS"] = "100"
    if str(ROOT) not in sys.path:
        sys.path.insert(0, str(ROOT))
    from physcon_ase.cli import main

    text = io.StringIO()
    with contextlib.redirect_stdout(text), contextlib.suppress(SystemExit):
        main([*command, "--help"])
    return f"```text\n{text.getvalue().rstrip()}\n```"

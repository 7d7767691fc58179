"""Report: one HTML page with the results of many molecules, which needs no network."""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any, Final

from physcon_ase.errors import MissingPackageError
from physcon_ase.inference.files import check_output
from physcon_ase.inference.formats.text import replacing
from physcon_ase.inference.pages import plots
from physcon_ase.inference.pages.detail import detail_of, figures_of, status_of
from physcon_ase.inference.pages.entry import Entry
from physcon_ase.inference.pages.result_files import read_entries, result_files
from physcon_ase.inference.results import STATUSES
from physcon_ase.plurals import counted

SUFFIXES: Final = (".html", ".htm")
"""Suffixes of pages."""

_COLUMNS: Final = {
    "Molecule": "text",
    "Calculation": "text",
    "Status": "text",
    "Formula": "text",
    "Energy [eV]": "number",
    "± [eV]": "number",
    "Force [eV/Å]": "number",
    "Steps": "number",
    "Result": "text",
}
"""Column headers of the table of all molecules, with the type of the values."""


def write_report(inputs: Iterable[str | Path], path: str | Path, *, title: str = "physcon report") -> tuple[Entry, ...]:
    """Writes a page with a table of all molecules of result files, their structures, plots and failures.

    The page is one file without links to others; the same inputs give the same bytes.

    Args:
        inputs: result files and folders, see `result_files.read_entries`.
        path: output file (.html), which is replaced.
        title: title of the page.

    Returns:
        The molecules of the page.

    Raises:
        StoreError: see `result_files.read_entries`.
        MissingPackageError: plotly is not installed.
        PhysConError: see `files.check_output`.
    """
    paths = result_files(inputs)
    path = check_output(path, paths, kinds=SUFFIXES)
    plotly = plotly_script()
    entries = read_entries(paths)
    with replacing(path) as file:
        file.write(page_of(entries, title=title, plotly=plotly))
    return tuple(entries)


def page_of(entries: Sequence[Entry], *, title: str, plotly: str) -> str:
    """HTML of a page with these molecules; `plotly` is the script that draws."""
    return Template(asset("page.html")).substitute(
        title=escape(title),
        style=asset("detail.css") + asset("page.css"),
        origin=_origin(entries),
        counts=_counts(entries),
        head="".join(f'<th data-kind="{kind}" tabindex="0">{escape(name)}</th>' for name, kind in _COLUMNS.items()),
        rows="\n".join(_row(entry, number) for number, entry in enumerate(entries)),
        entries=as_json([{"html": detail_of(entry), **figures_of(entry)} for entry in entries]),
        histograms=as_json(_histograms(entries)),
        plotly=plotly,
        figures=asset("figures.js"),
        script=asset("page.js"),
    )


def plotly_script() -> str:
    """The script of plotly.

    Raises:
        MissingPackageError: plotly is not installed.
    """
    try:
        from plotly.offline import get_plotlyjs
    except ImportError as error:
        raise MissingPackageError("reports require plotly; install it: pip install 'physcon-ase[report]'") from error
    return get_plotlyjs()


def asset(name: str) -> str:
    """Content of a file of the folder `assets`."""
    return (files("physcon_ase.inference.pages") / "assets" / name).read_text(encoding="utf-8")


def as_json(value: Any) -> str:
    """JSON for a script element, in which no text can end the element."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _origin(entries: Sequence[Entry]) -> str:
    """Models and levels with the number of molecules."""
    found = Counter((entry.model, entry.level, entry.revision) for entry in entries if entry.model)
    lines = [
        f"<li>{escape(model)}, level {escape(level)}, revision <code>{escape(revision)}</code>: "
        f"{counted(number, 'molecule')}</li>"
        for (model, level, revision), number in sorted(found.items())
    ]
    return "".join(lines) or "<li>no model: all molecules failed</li>"


def _counts(entries: Sequence[Entry]) -> str:
    counts = Counter(entry.status for entry in entries)
    first = {entry.status: entry for entry in entries}
    shown = [f"<span>{counts[status]} {status_of(first[status])}</span>" for status in STATUSES if counts[status]]
    return f"<span>{counted(len(entries), 'molecule')}</span>{''.join(shown)}"


def _row(entry: Entry, number: int) -> str:
    smiles = "" if entry.smiles == entry.name else f"<small>{escape(entry.smiles)}</small>"
    cells = (
        f'<td class="molecule">{escape(entry.name)}{smiles}</td>',
        f"<td>{escape(entry.kind)}</td>",
        f"<td>{status_of(entry)}</td>",
        f"<td>{escape(entry.formula)}</td>",
        _number(entry.energy, ".4f"),
        _number(entry.energy_uncertainty, ".3f"),
        _number(entry.fmax, ".4f"),
        _number(entry.steps, "d"),
        f'<td class="result">{escape(entry.reason or entry.summary)}</td>',
    )
    return f'<tr data-entry="{number}" tabindex="0">{"".join(cells)}</tr>'


def _number(value: float | int | None, form: str) -> str:
    return "<td></td>" if value is None else f'<td class="number" data-value="{value!r}">{value:{form}}</td>'


def _histograms(entries: Sequence[Entry]) -> list[dict[str, Any]]:
    uncertainties = [entry.energy_uncertainty for entry in entries if entry.energy_uncertainty is not None]
    strains = [strain for entry in entries for strain in entry.strains]
    found = []
    if uncertainties:
        name = "Uncertainty of the energy"
        found.append(plots.histogram(name, uncertainties, "standard deviation of the energy [eV]", "molecules"))
    if strains:
        name = "Relative energies of the conformers"
        found.append(plots.histogram(name, strains, "energy above the lowest conformer [kcal/mol]", "conformers"))
    return found

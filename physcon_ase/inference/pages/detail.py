"""Numbers, drawing and tables of one molecule as HTML, for pages and notebooks."""

from html import escape
from typing import Any

from physcon_ase.chem.draw import depict_svg
from physcon_ase.errors import InvalidSmilesError
from physcon_ase.inference.pages.entry import Entry, Table
from physcon_ase.inference.pages.structure import view_of


def detail_of(entry: Entry) -> str:
    """HTML of an entry, with empty elements where `figures.js` draws structure and plots; all texts are escaped."""
    structure = ""
    if entry.structures is not None:
        structure = f'<div class="view">{_choice(entry.structures.labels)}<div class="structure"></div></div>'
    plots = "".join(
        f'<figure><figcaption>{escape(plot["title"])}</figcaption><div class="plot"></div></figure>'
        for plot in entry.plots
    )
    return (
        f'<div class="detail"><h3>{escape(entry.name)} {status_of(entry)}</h3>{_lines(entry)}'
        f'<div class="columns">{structure}<div class="facts">{_drawing(entry.smiles)}{_numbers(entry)}</div></div>'
        f'<div class="plots">{plots}</div>{"".join(map(_table, entry.tables))}</div>'
    )


def figures_of(entry: Entry) -> dict[str, Any]:
    """Structures and plots of an entry as `figures.js` draws them."""
    return {
        "structures": None if entry.structures is None else view_of(entry.structures),
        "plots": [{name: plot[name] for name in ("data", "layout", "height")} for plot in entry.plots],
    }


def status_of(entry: Entry) -> str:
    """Status of an entry as a text with its colour."""
    return f'<span class="status {escape(entry.status.replace(" ", "-"))}">{escape(entry.status)}</span>'


def _lines(entry: Entry) -> str:
    texts = {
        "smiles": entry.smiles if entry.smiles != entry.name else "",
        "reason": entry.reason,
        "source": " from ".join(part for part in (entry.kind, entry.source) if part),
    }
    return "".join(f'<p class="{name}">{escape(text)}</p>' for name, text in texts.items() if text)


def _choice(labels: tuple[str, ...]) -> str:
    if len(labels) == 1:
        return ""
    options = "".join(f'<option value="{number}">{escape(label)}</option>' for number, label in enumerate(labels))
    return f'<select class="choice" aria-label="geometry">{options}</select>'


def _drawing(smiles: str) -> str:
    try:
        return f'<div class="drawing">{depict_svg(smiles)}</div>'
    except InvalidSmilesError:
        return ""


def _numbers(entry: Entry) -> str:
    if not entry.numbers:
        return ""
    rows = "".join(f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>" for name, value in entry.numbers)
    return f'<table class="numbers"><tbody>{rows}</tbody></table>'


def _table(table: Table) -> str:
    if not table.rows:
        return ""
    head = "".join(f"<th>{escape(column)}</th>" for column in table.columns)
    rows = []
    for number, row in enumerate(table.rows):
        link = f' data-structure="{number}" tabindex="0"' if table.selects else ""
        rows.append(f"<tr{link}>{''.join(f'<td>{escape(text)}</td>' for text in row)}</tr>")
    return (
        f'<h4>{escape(table.title)}</h4><div class="scroll"><table class="rows"><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )

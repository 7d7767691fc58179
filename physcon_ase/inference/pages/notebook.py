"""View of a result in a notebook: numbers and drawing, and with plotly the structure and plots."""

from dataclasses import replace
from itertools import count
from secrets import token_hex

from physcon_ase.errors import MissingPackageError
from physcon_ase.inference.pages.detail import detail_of, figures_of
from physcon_ase.inference.pages.entry import Entry
from physcon_ase.inference.pages.kinds import entry_of
from physcon_ase.inference.pages.page import as_json, asset, plotly_script
from physcon_ase.inference.pages.view import NotebookView
from physcon_ase.inference.results import Result, record_of

_views = count()
"""Numbers of the views of this process; the first one contains plotly."""


def html_of(found: NotebookView) -> str:
    """HTML of a result for a notebook; without plotly, numbers, drawing and tables only."""
    if isinstance(found, Result):
        record = record_of(found)
        fields = {"name": record.name, "status": record.status, "reason": record.reason}
        return _html(entry_of(found.to_dict() | fields))
    return _html(entry_of(found.to_dict()))


def _html(entry: Entry) -> str:
    style = f"<style>{asset('detail.css')}</style>"
    try:
        plotly = plotly_script()
    except MissingPackageError:
        return style + detail_of(replace(entry, structures=None, plots=()))
    scripts = ""
    if next(_views) == 0:
        # classic notebooks have a global `define`, to which plotly would attach instead of the window
        scripts = (
            f"<script>(function (define, module, exports) {{{plotly}}}).call(window);</script>"
            f"<script>{asset('figures.js')}</script>"
        )
    name = f"physcon-{token_hex(6)}"  # unique among the cells of other processes, too
    view = f'<div id="{name}" style="padding: .6em; background: #fff">{style}{detail_of(entry)}</div>'
    return (
        f"{view}{scripts}<script>(function draw(tries) {{"
        f'const view = document.getElementById("{name}");'
        f"if (view && window.Plotly && window.physcon) window.physcon.drawFigures(view, {as_json(figures_of(entry))});"
        "else if (tries > 0) setTimeout(() => draw(tries - 1), 100);"
        "})(300);</script>"
    )

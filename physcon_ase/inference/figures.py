"""Figures of matplotlib, which is an optional dependency."""

from typing import Any

from physcon_ase.errors import PhysConError


def new_figure(width: float, height: float) -> Any:
    """Empty figure of a size in inches, to be saved with `savefig`.

    Raises:
        PhysConError: matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise PhysConError("plots require matplotlib; install it with pip install 'physcon-ase[plot]'") from error
    # pyplot is avoided because it selects a back-end for the whole process.
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure

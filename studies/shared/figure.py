"""Empty figure, without a display."""

from typing import Any

from physcon_ase.errors import PhysConError


def figure() -> Any:
    """Empty figure for `savefig`.

    Raises:
        PhysConError: matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise PhysConError("a plot needs matplotlib; install it with pip install 'physcon-ase[plot]'") from error
    drawing = Figure(figsize=(6, 4), layout="constrained")
    FigureCanvasAgg(drawing)
    return drawing

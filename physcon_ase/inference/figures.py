"""Figures with matplotlib, which is optional."""

from typing import TYPE_CHECKING

from physcon_ase.errors import MissingPackageError

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def new_figure(width: float, height: float) -> "Figure":
    """Empty figure of this size [inches] that can be saved to a file.

    Raises:
        MissingPackageError: matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingPackageError("plots require matplotlib; install it: pip install 'physcon-ase[plot]'") from error
    # pyplot is avoided because it selects a back-end for the whole process.
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure

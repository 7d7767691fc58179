"""Figures with matplotlib, which is optional."""

from importlib.util import find_spec
from typing import TYPE_CHECKING

from physcon_ase.errors import MissingPackageError

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def new_figure(width: float, height: float) -> "Figure":
    """Empty figure of this size [inches] that can be saved to a file.

    Raises:
        MissingPackageError: matplotlib is not installed.
    """
    check_matplotlib()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # pyplot is avoided because it selects a back-end for the whole process.
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def check_matplotlib() -> None:
    """Checks that figures can be made.

    Raises:
        MissingPackageError: matplotlib is not installed.
    """
    if find_spec("matplotlib") is None:
        raise MissingPackageError("plots require matplotlib; install it: pip install 'physcon-ase[plot]'")

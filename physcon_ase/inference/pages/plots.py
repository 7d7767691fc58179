"""Plots as plain dictionaries in the form of plotly: data and layout, with title and height [pixels].

`customdata` of a point is the index of its geometry, which a click on the point displays.
"""

import math
from collections.abc import Sequence
from html import escape
from typing import Any, Final

import numpy as np
from jaxtyping import Float

BLUE, ORANGE, GREY, RED = "#1f5fa8", "#c8641e", "#999999", "#b02a2a"

FONT: Final = {"family": "system-ui, sans-serif", "size": 12, "color": "#222222"}

_LIGHT: Final = "#e4e4e4"


def convergence(energies: Sequence[float], fmax_history: Sequence[float], optimizer: str) -> dict[str, Any]:
    """Energy above the lowest one [eV] and largest force [eV/Å] against the step, on a logarithmic axis."""
    above = np.array(energies, dtype=float)
    above -= np.nanmin(above)
    steps = list(range(len(above)))
    force = _line(steps, _rounded(fmax_history), "largest force [eV/Å]", BLUE)
    # zero has no place on a logarithmic axis
    energy = _line(steps, [value or None for value in _rounded(above)], "energy above the lowest [eV]", ORANGE)
    y = _axis("eV/Å, eV") | {"type": "log", "dtick": 1, "exponentformat": "none"}
    return _plot("Convergence", [force, energy], _axis(f"step of {escape(optimizer)}") | {"rangemode": "tozero"}, y)


def profile(angles: Sequence[float], energies: Sequence[float | None], name: str) -> dict[str, Any]:
    """Relative energies [kcal/mol] against a dihedral angle [degrees]; None where there is no geometry."""
    indices = _indices(energies)
    order = [*range(len(angles)), 0]  # closed at 180 degrees
    trace = _line(
        [*angles, angles[0] + 360.0], _rounded([energies[place] for place in order]), "relative energy", BLUE
    ) | {"customdata": [indices[place] for place in order]}
    return _plot(
        "Energy profile (a click on a point shows its geometry)",
        [trace],
        _degrees(name),
        _axis("relative energy [kcal/mol]"),
    )


def energy_map(
    angles: Sequence[float], energies: Sequence[float | None], minima: Sequence[Sequence[float]], names: Sequence[str]
) -> dict[str, Any]:
    """Relative energies [kcal/mol] of a grid of two dihedral angles [degrees], the second one running fastest."""
    n = len(angles)
    closed = [*range(n), 0]
    ends = [*angles, angles[0] + 360.0]
    values = _rounded(energies)
    contour = {
        "type": "contour",
        "x": ends,
        "y": ends,
        "z": [[values[first * n + second] for first in closed] for second in closed],
        "colorscale": "Viridis",
        "ncontours": 24,
        "line": {"width": 0.4, "color": "white"},
        "colorbar": {
            "title": {"text": "relative energy [kcal/mol]", "side": "right"},
            "thickness": 12,
            "outlinewidth": 0,
        },
        "hoverinfo": "skip",
    }
    grid = {
        "type": "scatter",
        "mode": "markers",
        "x": [angles[place // n] for place in range(n * n)],
        "y": [angles[place % n] for place in range(n * n)],
        "text": [("no geometry" if value is None else f"{value:g} kcal/mol") for value in values],
        "hovertemplate": "%{x:g}°, %{y:g}°: %{text}<extra></extra>",
        "customdata": _indices(energies),
        "marker": {"size": 6, "color": "white", "opacity": 0.35},
        "showlegend": False,
    }
    lowest = {
        "type": "scatter",
        "mode": "markers",
        "x": [angle for angle, _ in minima],
        "y": [angle for _, angle in minima],
        "marker": {"size": 8, "color": RED, "line": {"color": "white", "width": 1}},
        "hoverinfo": "skip",
        "showlegend": False,
    }
    plot = _plot(
        "Energy map, minima in red (a click on a point shows its geometry)",
        [contour, lowest, grid],
        _degrees(names[0]),
        _degrees(names[1]),
    )
    return plot | {"height": 420}


def infrared(
    wavenumbers: Float[np.ndarray, " points"],
    absorption: Float[np.ndarray, " points"],
    frequencies: Sequence[float],
    intensities: Sequence[float],
    width: float,
) -> dict[str, Any]:
    """Broadened infrared spectrum [km/mol per 1/cm] with the intensities [km/mol] of the modes [1/cm]."""
    band = {
        "type": "scatter",
        "mode": "lines",
        "x0": float(wavenumbers[0]),
        "dx": float(wavenumbers[1] - wavenumbers[0]),
        "y": _rounded(absorption, 3),
        "name": f"bands of width {width:g} 1/cm",
        "line": {"color": BLUE, "width": 1.3},
        "hoverinfo": "skip",
    }
    real = [(place, height) for place, height in zip(frequencies, intensities, strict=True) if place > 0]
    stick = {
        "type": "bar",
        "x": _rounded([place for place, _ in real], 5),
        "y": _rounded([height for _, height in real]),
        "width": 3,
        "yaxis": "y2",
        "name": "modes (right axis)",
        "marker": {"color": GREY},
        "hovertemplate": "%{x} 1/cm, %{y} km/mol<extra></extra>",
    }
    x = _axis("wavenumber [1/cm]") | {"range": [float(wavenumbers[-1]), 0.0]}
    y = _axis("absorption [km/mol per 1/cm]") | {"rangemode": "tozero"}
    right = _axis("intensity of a mode [km/mol]") | {
        "overlaying": "y",
        "side": "right",
        "showgrid": False,
        "tickmode": "auto",
    }
    return _plot("Infrared spectrum", [stick, band], x, y, yaxis2=right | {"rangemode": "tozero"})


def distance_curve(distances: Sequence[float], energies: Sequence[float | None], line: str) -> dict[str, Any]:
    """Interaction energy [kcal/mol] against the distance [Å] of two molecules."""
    known = [energy for energy in energies if energy is not None]
    depth = max(-min(known, default=0.0), 1.0)
    y = _axis("interaction energy [kcal/mol]") | {"range": [-1.2 * depth, 1.5 * depth], "zeroline": True}
    trace = _line(_rounded(distances, 5), _rounded(energies), "interaction energy", BLUE)
    return _plot("Interaction along the distance", [trace], _axis(f"{line} [Å]"), y)


def histogram(title: str, values: Sequence[float], quantity: str, count: str) -> dict[str, Any]:
    """Histogram of a quantity, which is named with its unit."""
    trace = {
        "type": "histogram",
        "x": _rounded(values),
        "nbinsx": 30,
        "marker": {"color": BLUE, "line": {"color": "white", "width": 1}},
        "hovertemplate": "%{x}: %{y}<extra></extra>",
    }
    return _plot(title, [trace], _axis(quantity), _axis(f"number of {count}"))


def _plot(title: str, data: list[dict[str, Any]], x: dict, y: dict, **further: dict) -> dict[str, Any]:
    layout = {
        "font": FONT,
        "margin": {"l": 64, "r": 16, "t": 12, "b": 48},
        "paper_bgcolor": "white",
        "plot_bgcolor": "white",
        "xaxis": x,
        "yaxis": y,
        "showlegend": sum(trace.get("showlegend", True) for trace in data) > 1 and data[0]["type"] != "contour",
        "legend": {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"},
        "hovermode": "closest",
        **further,
    }
    return {"title": title, "data": data, "layout": layout, "height": 300}


def _line(x: Sequence, y: Sequence, name: str, colour: str) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "x": list(x),
        "y": list(y),
        "name": name,
        "line": {"color": colour, "width": 1.6},
        "marker": {"size": 5},
    }


def _axis(title: str) -> dict[str, Any]:
    return {
        "title": {"text": title},
        "automargin": True,
        "gridcolor": _LIGHT,
        "linecolor": GREY,
        "ticks": "outside",
        "tickcolor": GREY,
        "zeroline": False,
        "zerolinecolor": GREY,
    }


def _degrees(name: str) -> dict[str, Any]:
    return _axis(f"{name} [degrees]") | {"range": [-180, 180], "tickvals": list(range(-180, 181, 60))}


def _indices(energies: Sequence[float | None]) -> list[int | None]:
    """Index of the geometry of each point; None without one."""
    number, found = 0, []
    for energy in energies:
        found.append(None if energy is None else number)
        number += energy is not None
    return found


def _rounded(values: Sequence[float | None] | np.ndarray, digits: int = 4) -> list[float | None]:
    """Values with this number of significant digits, which keeps pages small; NaN becomes None."""
    numbers = [math.nan if value is None else float(value) for value in values]
    return [float(f"{number:.{digits}g}") if math.isfinite(number) else None for number in numbers]

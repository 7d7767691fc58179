"""Learning curves: errors against the number of labels, as tables and as a picture."""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Final

import numpy as np

from studies.levels.study import ROWS, SCRATCH
from studies.shared.figure import figure

_REFERENCE_COUNT: Final = 150
"""Number of labels at which rows are compared with training from scratch, if it is among those of the study."""


def format_curves(records: Sequence[dict]) -> str:
    """Force errors of each row and number of labels at both levels, and how many labels the best row is worth."""
    tables = [_table(records, level) for level in ("accurate", "cheap")]
    return "\n\n".join([part for part in (*tables, _worth(records)) if part])


def plot_curves(records: Sequence[dict], path: Path) -> None:
    """Draws the force errors at the accurate level against the number of labels, with the range of seeds, as PNG file.

    Raises:
        PhysConError: matplotlib is not installed.
    """
    drawing = figure()
    axes = drawing.subplots()
    counts = _counts(records)
    place_of_none = min(count for count in counts if count) / 3
    for name in _rows(records):
        errors = _errors(records, name, "accurate")
        middle = np.array([np.mean(values) for values in errors.values()])
        # Equal values differ from their mean by rounding.
        below = np.maximum(0, middle - [min(values) for values in errors.values()])
        above = np.maximum(0, [max(values) for values in errors.values()] - middle)
        places = [count or place_of_none for count in errors]
        style = {"linestyle": "-" if len(errors) > 1 else "none", "marker": "o", "markersize": 3, "capsize": 2}
        axes.errorbar(places, middle, [below, above], linewidth=1, label=name, **style)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xticks([count or place_of_none for count in counts], [str(count) for count in counts])
    axes.minorticks_off()
    axes.yaxis.set_major_formatter("{x:.0f}")
    ends = [1000 * record["accurate"]["force_mae"] for record in records]
    ticks = [tick for tick in (10, 20, 30, 50, 70, 100, 150, 200, 300, 500, 1000) if min(ends) < tick < max(ends)]
    axes.set_yticks(ticks)
    axes.set_xlabel(f"geometries with labels of {records[0]['accurate']['level']}")
    axes.set_ylabel("force error on unseen molecules [meV/Å]")
    drawing.legend(fontsize=6, ncols=2, loc="outside lower center")
    drawing.savefig(path, dpi=150)


def labels_needed(curve: Mapping[int, float], error: float) -> float:
    """Number of labels at which a learning curve reaches an error, interpolated in the logarithms of both.

    Args:
        curve: error by number of labels, more than 0.
        error: what is to be reached.

    Returns:
        The number; the smallest of the curve if that is already enough, infinity if the largest is not.
    """
    points = sorted(curve.items())
    if points[0][1] <= error:
        return float(points[0][0])
    for (n, high), (m, low) in pairwise(points):
        if low <= error:
            part = math.log(high / error) / math.log(high / low)
            return math.exp(math.log(n) + part * math.log(m / n))
    return math.inf


def _worth(records: Sequence[dict]) -> str:
    names, counts = _rows(records), [count for count in _counts(records) if count]
    if SCRATCH not in names or len(names) == 1:
        return ""
    at = _REFERENCE_COUNT if _REFERENCE_COUNT in counts else counts[0]
    means = {name: _means(records, name) for name in names}
    reached = {name: curve[at] for name, curve in means.items() if at in curve and name != SCRATCH}
    if not reached:
        return ""
    best = min(reached, key=lambda name: reached[name])
    needed, most = labels_needed(means[SCRATCH], reached[best]), max(means[SCRATCH])
    told = f"more than all {most}" if math.isinf(needed) else f"about {needed:.0f}"
    return f'With {at} labels "{best}" reaches {reached[best]:.0f} meV/Å; "{SCRATCH}" needs {told}.'


def _table(records: Sequence[dict], level: str) -> str:
    counts, seeds = _counts(records), sorted({record["seed"] for record in records})
    of = records[0]["accurate"]["level"]
    asked = next((record[level] for record in records if record[level]), None)
    if asked is None:
        return ""
    largest = max(record["n_labelled"] for record in records)
    heads = [f"{count} (all)" if count == largest else str(count) for count in counts]
    lines = [
        f"Force MAE [meV/Å] at level **{asked['level']}**, {asked['n_forces']} components, against the number of "
        f"geometries with labels of {of}; mean and range of seeds {', '.join(map(str, seeds))}",
        "",
        "| row | " + " | ".join(heads) + " |",
        "| --- |" + " ---: |" * len(counts),
    ]
    for name in _rows(records):
        errors = _errors(records, name, level)
        if errors:
            lines.append(f"| {name} | " + " | ".join(_cell(errors.get(count, [])) for count in counts) + " |")
    return "\n".join(lines)


def _cell(errors: Sequence[float]) -> str:
    if not errors:
        return "-"
    return f"{np.mean(errors):.0f}" + (f" ({min(errors):.0f}-{max(errors):.0f})" if len(errors) > 1 else "")


def _rows(records: Sequence[dict]) -> list[str]:
    found = {record["row"] for record in records}
    return [name for name in ROWS if name in found]


def _counts(records: Sequence[dict]) -> list[int]:
    return sorted({record["labels"] for record in records})


def _errors(records: Sequence[dict], name: str, level: str) -> dict[int, list[float]]:
    """Errors [meV/Å] of a row by number of labels, one for each seed; none where the model does not have the level."""
    own = [record for record in records if record["row"] == name and record[level]]
    return {
        count: [1000 * record[level]["force_mae"] for record in own if record["labels"] == count]
        for count in sorted({record["labels"] for record in own})
    }


def _means(records: Sequence[dict], name: str) -> dict[int, float]:
    errors = _errors(records, name, "accurate")
    return {count: float(np.mean(values)) for count, values in errors.items() if count}

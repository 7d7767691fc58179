"""Arguments, statistics and tables of the benchmarks: Markdown on stdout, JSON in a file."""

import argparse
import json
import math
import os
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from physcon_ase import __version__
from physcon_ase.model.physcon import DEFAULT_CHECKPOINT, LoadedModel, load_model

Row = Mapping[str, Any]
"""One line of a table: values by column, in the order of the columns."""


@dataclass(frozen=True)
class Table:
    """Results that belong together."""

    title: str
    """What is compared, with the size of the sample."""
    rows: Sequence[Row]
    """The lines."""
    note: str = ""
    """Meaning of the columns, as far as it does not follow from their names."""


@dataclass(frozen=True)
class Clock:
    """When a benchmark began."""

    wall: float
    """[s]"""
    processor: float
    """[s]"""

    @classmethod
    def now(cls) -> "Clock":
        """Both clocks; also sets the number of threads to one, with which all results are measured."""
        torch.set_num_threads(1)
        # for libraries that are loaded later, such as tblite
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        return cls(time.perf_counter(), time.process_time())


def make_parser(
    description: str | None, *, limit: int | None = None, what: str = "molecules", checkpoint: bool = True
) -> argparse.ArgumentParser:
    """The arguments that benchmarks share.

    Args:
        description: of the benchmark.
        limit: default number of molecules; None leaves the argument out.
        what: what is limited.
        checkpoint: whether a checkpoint can be chosen.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    if checkpoint:
        parser.add_argument("--checkpoint", default=DEFAULT_CHECKPOINT, help="name or folder (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="chooses molecules and noise (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="also write the results to this file")
    if limit is not None:
        parser.add_argument("--limit", type=int, default=limit, help=f"{what} at most (default: %(default)s)")
    return parser


def add_stores(parser: argparse.ArgumentParser) -> None:
    """The argument for the folder of the stores."""
    parser.add_argument("--stores", type=Path, required=True, help="folder of the stores made by `physcon data import`")


def start(arguments: argparse.Namespace) -> tuple[LoadedModel, Clock]:
    """The model, and the clocks as of before it was loaded."""
    clock = Clock.now()
    return load_model(arguments.checkpoint), clock


def finish(
    benchmark: str,
    arguments: argparse.Namespace,
    clock: Clock,
    tables: Sequence[Table],
    loaded: LoadedModel | None = None,
) -> None:
    """Prints the tables, and writes them to a JSON file if one was given."""
    facts = {
        "benchmark": benchmark,
        "checkpoint": None if loaded is None else loaded.name,
        "revision": None if loaded is None else loaded.revision,
        "settings": {key: value for key, value in vars(arguments).items() if not isinstance(value, Path)},
        "seconds": time.perf_counter() - clock.wall,
        "processor_seconds": time.process_time() - clock.processor,
        "machine": f"{_processor()}, {os.cpu_count()} processors, load {os.getloadavg()[0]:.1f}",
        "threads": torch.get_num_threads(),
        "versions": {"physcon_ase": __version__, "torch": torch.__version__, "python": platform.python_version()},
    }
    for table in tables:
        print(f"\n**{table.title}**\n\n{markdown(table.rows)}")
        if table.note:
            print(f"\n{table.note}")
    origin = "" if loaded is None else f" · {loaded.name} {loaded.revision[:12]}"
    print(
        f"\n{benchmark}{origin} · seed {arguments.seed} · {facts['seconds']:.0f} s wall, "
        f"{facts['processor_seconds']:.0f} s processor, {facts['threads']} thread · {facts['machine']}"
    )
    if arguments.json is not None:
        facts["tables"] = [{"title": t.title, "note": t.note, "rows": [dict(row) for row in t.rows]} for t in tables]
        arguments.json.write_text(json.dumps(_plain(facts), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def markdown(rows: Sequence[Row]) -> str:
    """Lines of equal columns as a Markdown table."""
    if not rows:
        return "(no molecules)"
    lines = [list(rows[0]), *([_cell(value) for value in row.values()] for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    is_text = [isinstance(value, str) for value in rows[0].values()]
    padded = [
        [cell.ljust(size) if text else cell.rjust(size) for cell, size, text in zip(line, widths, is_text, strict=True)]
        for line in lines
    ]
    rule = ["-" * width if text else "-" * (width - 1) + ":" for width, text in zip(widths, is_text, strict=True)]
    return "\n".join("| " + " | ".join(line) + " |" for line in [padded[0], rule, *padded[1:]])


def statistics(
    values: Sequence[float] | np.ndarray, name: str, unit: str = "", *, scale: float = 1.0
) -> dict[str, float]:
    """Median, mean and 90 % quantile as columns; values that are NaN (a molecule without angles) are left out.

    Args:
        values: one per molecule.
        name: of the quantity.
        unit: shown in brackets, if there is one.
        scale: factor from the values to that unit.
    """
    known = np.asarray(values, dtype=float)
    known = scale * known[~np.isnan(known)]
    if len(known) == 0:
        known = np.array([math.nan])
    shown = f" [{unit}]" if unit else ""
    return {
        f"{name}, median{shown}": float(np.median(known)),
        f"{name}, mean": float(known.mean()),
        f"{name}, 90 %": float(np.quantile(known, 0.9)),
    }


def mean_of_known(values: Sequence[float]) -> float:
    """Mean of the values that are not NaN; NaN if there are none."""
    known = [value for value in values if not np.isnan(value)]
    return float(np.mean(known)) if known else float("nan")


def percent(part: int, whole: int) -> str:
    """A share as text."""
    return f"{part} ({100 * part / whole:.1f} %)" if whole else "0"


def _cell(value: Any) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "-"
    if isinstance(value, float | np.floating):
        return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return str(value)


def _plain(value: Any) -> Any:
    """The same for JSON, which has neither NaN nor NumPy types."""
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()

"""Results of commands that are killed or interrupted at random times and started again.

    python benchmarks/interruptions.py [--moments 10] [--commands optimize ensemble scan ...]

Each command runs once without interruption. Then it is stopped after a random part of that time, by SIGKILL or SIGINT
(Ctrl-C), and the same command is given again until it ends by itself. Results are compared without the times in them;
"still running" counts processes that are alive 10 s after the signal.
"""

import argparse
import csv
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from reporting import Clock, Row, Table, finish, make_parser

MOLECULES = ("CCO", "CC(=O)NC", "OCC=O", "NCCO", "CCOC", "foo", "C1CCCC1", "CC#N", "COC=O", "CNC", "OCCO", "CC(C)O")
RECIPE = """
name = "small"

[[levels]]
name = "gfn2"
description = "GFN2-xTB"

[[data]]
store = "labels.h5"
levels = ["gfn2"]
assign_to = "train"

[optim]
steps = 300
"""
PATIENCE = 10.0
"""Seconds until a process that was stopped counts as still running."""

TIMES = ("seconds", "steps_per_second")
"""Fields that differ from run to run."""


@dataclass(frozen=True)
class Case:
    """A command and what it makes."""

    arguments: tuple[str, ...]
    """Arguments of `physcon`."""
    output: str
    """File or folder of the result."""
    read: Callable[[Path], Any]
    """The result without times."""


def main(argv: Sequence[str] | None = None) -> None:
    parser = make_parser(__doc__, checkpoint=False)
    parser.add_argument("--moments", type=int, default=10, help="interruptions per signal (default: %(default)s)")
    parser.add_argument("--commands", nargs="+", choices=sorted(CASES), default=sorted(CASES), help="(default: all)")
    arguments = parser.parse_args(argv)
    clock, generator = Clock.now(), np.random.default_rng(arguments.seed)
    rows = [
        row(name, sign, arguments, generator) for name in arguments.commands for sign in (signal.SIGKILL, signal.SIGINT)
    ]
    finish("interruptions", arguments, clock, [Table("Commands stopped at random moments", rows)])


def row(name: str, sign: signal.Signals, arguments: argparse.Namespace, generator: np.random.Generator) -> Row:
    """Counts for one command and signal."""
    case = CASES[name]
    with tempfile.TemporaryDirectory() as folder:
        whole = prepared(Path(folder) / "whole", name)
        began = time.perf_counter()
        start(case, whole).wait()
        seconds, expected = time.perf_counter() - began, case.read(whole / case.output)
        n_stopped = n_running = n_equal = 0
        for number in range(arguments.moments):
            place = prepared(Path(folder) / str(number), name)
            process = start(case, place)
            time.sleep(generator.uniform(0, seconds))
            is_stopped = process.poll() is None
            process.send_signal(sign)
            try:
                process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                n_running += 1
                process.kill()
                process.wait()
            n_stopped += is_stopped
            start(case, place).wait()
            n_equal += equal(case.read(place / case.output), expected)
    return {
        "command": name,
        "signal": sign.name,
        "uninterrupted [s]": seconds,
        "moments": arguments.moments,
        "stopped before the end": n_stopped,
        "still running": n_running,
        "same result": n_equal,
    }


def prepared(folder: Path, name: str) -> Path:
    """Folder with the input files."""
    folder.mkdir()
    (folder / "list.smi").write_text("\n".join(MOLECULES))
    (folder / "recipe.toml").write_text(RECIPE)
    if name == "train":
        start(CASES["label"], folder).wait()
    return folder


def start(case: Case, folder: Path) -> subprocess.Popen[bytes]:
    """Starts a command in a folder."""
    command = [sys.executable, "-m", "physcon_ase.cli", *case.arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[1])}
    return subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def equal(first: Any, second: Any) -> bool:
    """Whether two results are the same."""
    try:
        np.testing.assert_equal(first, second)
    except AssertionError:
        return False
    return True


def _read_lines(path: Path) -> list[dict[str, Any]]:
    return [_without_times(json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]


def _read_table(path: Path) -> list[dict[str, Any]]:
    with open(path, newline="", encoding="utf-8") as file:
        return [_without_times(row) for row in csv.DictReader(file)]


def _without_times(entry: dict[str, Any]) -> dict[str, Any]:
    return {
        key: _without_times(value) if isinstance(value, dict) else value
        for key, value in entry.items()
        if not any(name in key for name in TIMES)
    }


def _read_store(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    with h5py.File(path) as file:
        file.visititems(lambda name, item: found.update({name: item[()]}) if isinstance(item, h5py.Dataset) else None)
    return found


CASES = {
    "optimize": Case(("optimize", "list.smi", "-o", "out.jsonl", "--jobs", "1"), "out.jsonl", _read_lines),
    "ensemble": Case(("ensemble", "list.smi", "-n", "10", "-o", "out.jsonl", "--jobs", "1"), "out.jsonl", _read_lines),
    "scan": Case(
        ("scan", "list.smi", "--smarts", "[H:1][OX2:2][CX4:3][*:4]", "--step", "60", "-n", "2", "-o", "out.jsonl"),
        "out.jsonl",
        _read_lines,
    ),
    "vibrations": Case(("vibrations", "list.smi", "-o", "out.jsonl"), "out.jsonl", _read_lines),
    "label": Case(
        ("label", "list.smi", "--engine", "gfn2", "--geometries", "start,thermal:4", "--jobs", "1", "-o", "labels.h5"),
        "labels.h5",
        _read_store,
    ),
    "train": Case(
        ("train", "recipe.toml", "--folder", "run", "--save-minutes", "0.02"),
        "run/small/model.safetensors",
        Path.read_bytes,
    ),
}


if __name__ == "__main__":
    main()

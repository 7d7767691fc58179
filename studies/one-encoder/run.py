"""Study of the encoder: one for all levels of theory, with an embedding and a head for each, or one for each level.

    python studies/one-encoder/run.py --stores stores --folder one-encoder [--rows "one encoder"]

The network, its data and its optimiser are those of studies/sizes. All rows have the same number of steps in total.
Finished trainings in the folder are not repeated, and interrupted ones continue. One core is used.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the clone: studies are no part of the package

from physcon_ase.cli import exit_code
from physcon_ase.training.recipe import Recipe
from physcon_ase.training.recipe_files import read_recipe
from physcon_ase.training.trainer import RunOptions
from studies.shared.rows import check_rows
from studies.shared.trained import log_of, trained

RECIPE: Final = Path(__file__).parents[1] / "sizes" / "recipe.toml"
N_STEPS: Final = 3600
"""Steps of each row, about ten minutes."""


@dataclass(frozen=True)
class Training:
    """One training of a row."""

    levels: tuple[str, ...]
    """Levels of theory that it is for."""
    start: str = ""
    """Training that it starts from, at whose single level its own level begins; empty for random weights."""


ROWS: Final[dict[str, dict[str, Training]]] = {
    "one encoder": {"all": Training(("b3lyp-d3", "wb97m", "b3lyp"))},
    "an encoder for each level": {level: Training((level,)) for level in ("b3lyp-d3", "wb97m", "b3lyp")},
    "the same, initialised with that of wb97m": {
        "wb97m": Training(("wb97m",)),
        "b3lyp-d3-after-wb97m": Training(("b3lyp-d3",), "wb97m"),
        "b3lyp-after-wb97m": Training(("b3lyp",), "wb97m"),
    },
}
"""Trainings of each row by their name; those of equal name are the same."""


def training_recipe(base: Recipe, name: str, training: Training, n_steps: int, folder: Path) -> Recipe:
    """The recipe of a training.

    Args:
        base: network, data and optimiser for all levels.
        name: name of the training.
        training: levels and initial weights.
        n_steps: number of steps.
        folder: folder of the trainings.
    """
    levels = {level.name: level for level in base.levels}
    own = [levels[level] for level in training.levels]
    start = ()
    if training.start:
        own = [levels[training.start], *(replace(level, like=training.start) for level in own)]
        start = (str(folder / f"{base.name}-{training.start}" / f"{base.name}-{training.start}"),)
    data = tuple(data for data in base.data if data.levels[0] in training.levels)
    has_charges = any("charges" in entry.labels for entry in data)
    return replace(
        base,
        name=f"{base.name}-{name}",
        levels=tuple(own),
        data=data,
        loss=base.loss if has_charges else replace(base.loss, charges=0.0),
        optim=replace(base.optim, steps=n_steps),
        start_from=start,
    )


def validations(row: str, stores: Path, folder: Path, n_steps: int) -> dict[str, dict[str, Any]]:
    """Validation at the end of the trainings of a row, by level."""
    base, last = read_recipe(RECIPE), {}
    for name, training in ROWS[row].items():
        recipe = training_recipe(base, name, training, n_steps // len(ROWS[row]), folder)
        options = RunOptions(validate_steps=recipe.optim.steps, validation_molecules=100)
        log = log_of(trained(recipe, folder, stores, options=options))
        last.update({line["validation"]: line for line in log if line.get("validation") in training.levels})
    return last


def table(rows: dict[str, dict[str, dict[str, Any]]], levels: Sequence[str]) -> str:
    """Processor time and force errors of each row."""
    lines = [f"| row | processor time [s] | {' | '.join(levels)} |", f"| --- |{' ---: |' * (1 + len(levels))}"]
    for row, last in rows.items():
        seconds = sum(last[training.levels[0]]["cpu_seconds"] for training in ROWS[row].values())
        errors = " | ".join(f"{1000 * last[level]['force_mae']:.1f}" for level in levels)
        lines.append(f"| {row} | {seconds:.0f} | {errors} |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the study and returns the exit code of `physcon_ase.cli`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stores", type=Path, default=Path(), help="folder of the stores (default: here)")
    parser.add_argument("--folder", type=Path, default=Path("runs", "one-encoder"), help="default: %(default)s")
    parser.add_argument("--rows", nargs="+", default=list(ROWS), metavar="ROW", help="default: all")
    parser.add_argument("--steps", type=int, default=N_STEPS, help="steps of each row (default: %(default)s)")
    options = parser.parse_args(arguments)

    def run() -> int:
        check_rows(options.rows, list(ROWS))
        levels = [level.name for level in read_recipe(RECIPE).levels]
        rows = {row: validations(row, options.stores, options.folder, options.steps) for row in options.rows}
        print(table(rows, levels))
        return 0

    return exit_code("run.py", run)


if __name__ == "__main__":
    sys.exit(main())

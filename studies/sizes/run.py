"""Study of sizes: trains energy networks of several sizes for about the same time and prints their errors.

    python studies/sizes/run.py --stores stores --folder sizes [--sizes base small]

Finished trainings in the folder are not repeated, and interrupted ones continue. One core is used.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the clone: studies are no part of the package

from physcon_ase.cli import exit_code
from physcon_ase.training.recipe_files import read_recipe
from physcon_ase.training.trainer import RunOptions
from studies.shared.rows import check_rows
from studies.shared.trained import log_of, trained


@dataclass(frozen=True)
class Size:
    """One training."""

    steps: int
    """Steps that take about ten minutes."""
    encoder: dict[str, Any] = field(default_factory=dict)
    """What differs from the encoder of recipe.toml."""


SIZES = {
    "base": Size(4000),
    "small": Size(5300, {"channels": 96, "mixed_channels": 48, "hidden": 160}),
    "large": Size(
        2300, {"mixed_channels": 128, "source_scalars": 16, "source_vectors": 8, "hidden": 256, "n_radial": 10}
    ),
    "three layers": Size(2800, {"n_layers": 3}),
    "wide hidden": Size(3500, {"hidden": 384}),
    "cutoff 6": Size(3900, {"cutoff": 6.0}),
    "no long range": Size(4200, {"long_range": False}),
}


def validations(name: str, stores: Path, folder: Path) -> list[dict[str, Any]]:
    """The validations of a training, one for each level and step."""
    size, recipe = SIZES[name], read_recipe(Path(__file__).with_name("recipe.toml"))
    recipe = replace(
        recipe,
        name=name.replace(" ", "-"),
        encoder=replace(recipe.encoder, **size.encoder),
        optim=replace(recipe.optim, steps=size.steps),
    )
    options = RunOptions(validate_steps=1000, validation_molecules=100)
    return [line for line in log_of(trained(recipe, folder, stores, options=options)) if "validation" in line]


def table(validations: dict[str, list[dict[str, Any]]]) -> str:
    """Force errors of each size at the end of its training."""
    levels = list(dict.fromkeys(line["validation"] for own in validations.values() for line in own))
    rows = [f"| size | steps | processor time [s] | {' | '.join(levels)} |", f"| --- |{' ---: |' * (2 + len(levels))}"]
    for name, own in validations.items():
        last = own[-len(levels) :]
        errors = " | ".join(f"{1000 * line['force_mae']:.1f}" for line in last)
        rows.append(f"| {name} | {last[0]['step']} | {last[0]['cpu_seconds']:.0f} | {errors} |")
    return "\n".join(rows)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the study and returns the exit code of `physcon_ase.cli`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stores", type=Path, default=Path(), help="folder of the stores (default: here)")
    parser.add_argument("--folder", type=Path, default=Path("runs", "sizes"), help="default: %(default)s")
    parser.add_argument("--sizes", nargs="+", default=list(SIZES), metavar="SIZE", help="default: all")
    options = parser.parse_args(arguments)

    def run() -> int:
        check_rows(options.sizes, list(SIZES))
        print(table({name: validations(name, options.stores, options.folder) for name in options.sizes}))
        return 0

    return exit_code("run.py", run)


if __name__ == "__main__":
    sys.exit(main())

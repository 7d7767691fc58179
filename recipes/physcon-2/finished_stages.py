"""The stages of the shipped checkpoint as finished trainings, so that a stage added to the recipe is trained alone.

    python recipes/physcon-2/finished_stages.py runs/p2
    physcon train recipes/physcon-2/recipe.toml --folder runs/p2 --stores stores

Every stage gets the shipped weights without the tables of `physcon calibrate`, instead of those at its own end, and its
own provenance. Trainings from there on have the same results, since they start from the last of these stages.
"""

import argparse
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from physcon_ase.model.checkpoint import read_checkpoint, resolve, save_checkpoint
from physcon_ase.model.physcon import TABLES
from physcon_ase.training.provenance import read_provenance
from physcon_ase.training.recipe_files import format_recipe
from physcon_ase.training.staged_recipe import read_staged_recipe

NO_TABLES = {"energy_uncertainty": [], "forces_uncertainty": [], "n_environments": 0}
"""Configuration of a checkpoint that is not calibrated."""


def main(argv: Sequence[str] | None = None) -> None:
    """Writes the stages."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder of the training")
    parser.add_argument("--recipe", type=Path, default=Path(__file__).with_name("recipe.toml"))
    options = parser.parse_args(argv)
    recipe = read_staged_recipe(options.recipe)
    shipped = resolve(recipe.name)
    stored, known = read_checkpoint(shipped), dict(_parents(read_provenance(shipped) or {}))
    weights = {name: values for name, values in stored.tensors.items() if not name.startswith(TABLES)}
    for stage in recipe.stages:
        provenance = known.get(stage.recipe.name)
        if provenance is None:
            print(f"{stage.name}: to be trained")
            continue
        target = options.folder / stage.name / stage.recipe.name
        text = format_recipe(stage.recipe)
        save_checkpoint(target, weights, {**stored.config, **NO_TABLES}, recipe=text, provenance=provenance)
        print(f"{stage.name}: {target}")


def _parents(provenance: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Name and provenance of a training and of all trainings before it."""
    yield provenance["recipe"]["name"], provenance
    for parent in provenance["parents"]:
        if parent["provenance"]:
            yield from _parents(parent["provenance"])


if __name__ == "__main__":
    main()

"""A training of a study: not repeated if it is finished, continued if it was interrupted."""

from pathlib import Path

from physcon_ase.training.recipe import Recipe
from physcon_ase.training.trainer import RunOptions, train


def trained(recipe: Recipe, folder: Path, stores: Path, *, options: RunOptions | None = None) -> Path:
    """The checkpoint of a recipe in a folder of its own under `folder`, trained if it is not there."""
    target = folder / recipe.name / recipe.name
    if not target.exists():
        options = options or RunOptions(validate_steps=recipe.optim.steps, validation_molecules=50)
        train(recipe, folder / recipe.name, store_root=stores, options=options)
    return target

"""A training of a study: not repeated if it is finished, continued if it was interrupted."""

import json
from pathlib import Path
from typing import Any

from physcon_ase.training.recipe import Recipe
from physcon_ase.training.trainer import LOG_FILE, RunOptions, train


def trained(recipe: Recipe, folder: Path, stores: Path, *, options: RunOptions | None = None) -> Path:
    """The checkpoint of a recipe in a folder of its own under `folder`, trained if it is not there."""
    target = folder / recipe.name / recipe.name
    if not target.exists():
        options = options or RunOptions(validate_steps=recipe.optim.steps, validation_molecules=50)
        train(recipe, folder / recipe.name, store_root=stores, options=options)
    return target


def log_of(checkpoint: Path) -> list[dict[str, Any]]:
    """Lines of the log of the training of a checkpoint from `trained`."""
    return [json.loads(line) for line in (checkpoint.parent / LOG_FILE).read_text().splitlines()]

"""Which stores the recipe in a checkpoint keeps no molecules of apart from the training."""

import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from physcon_ase.errors import StoreError
from physcon_ase.model.checkpoint import Checkpoint


def check_held_out(stored: Checkpoint, stores: Sequence[Path]) -> None:
    """Refuses stores that the checkpoint was trained on with all their molecules, ``assign_to = "train"``.

    Raises:
        StoreError: names the store.
    """
    trained = _stores_in_training(stored.recipe)
    for store in stores:
        if Path(store).name in trained:
            raise StoreError(
                f"{store} has no held-out molecules: the recipe of {stored.name} assigns all molecules of "
                f'{Path(store).name} to the training (assign_to = "train"). Give another store, with molecules '
                "that were not in the training; rename the file if it is another store of the same name"
            )


def _stores_in_training(recipe: str) -> set[str]:
    """Names of the files that a recipe, with or without stages, assigns to the training."""
    try:
        table = tomllib.loads(recipe)
    except tomllib.TOMLDecodeError:
        return set()
    used: list[dict[str, Any]] = table.get("data", [])
    if isinstance(used, dict):  # a recipe with stages
        uses = [use for stage in table.get("stage", []) for use in stage["use"]]
        used = [{**table["data"][use["data"]], **use} for use in uses]
    return {Path(entry["store"]).name for entry in used if entry.get("assign_to") == "train"}

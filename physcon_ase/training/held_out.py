"""What the recipe of a checkpoint says of the stores that it was trained on: split, and whether energies were used."""

import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from physcon_ase.data.selection import LABELS
from physcon_ase.errors import PhysConError, StoreError
from physcon_ase.model.checkpoint import Checkpoint, read_checkpoint


def check_held_out(stored: Checkpoint, stores: Sequence[Path]) -> None:
    """Refuses stores that the checkpoint was trained on with all their molecules, ``assign_to = "train"``.

    Stores of the checkpoints that its training started from are refused, too, if these checkpoints still exist.

    Raises:
        StoreError: names the store.
    """
    trained = {name: own.name for own in _with_parents(stored) for name in _stores_in_training(own.recipe)}
    for store in stores:
        name = Path(store).name
        if name in trained:
            raise StoreError(
                f"{store} has no held-out molecules: the recipe of {trained[name]} assigns all molecules of "
                f'{name} to the training (assign_to = "train"). Give another store, with molecules '
                "that were not in the training; rename the file if it is another store of the same name"
            )


def forces_only(stored: Checkpoint) -> set[str]:
    """Names of the stores with whose forces, but not energies, a checkpoint was trained.

    Their energies may differ from those of the level by a constant, such as those of another program or basis set.
    """
    used = _data_of(stored.recipe)
    with_energies = {Path(entry["store"]).name for entry in used if "energy" in entry.get("labels", LABELS)}
    return {Path(entry["store"]).name for entry in used if "forces" in entry.get("labels", LABELS)} - with_energies


def _with_parents(stored: Checkpoint) -> list[Checkpoint]:
    """A checkpoint and those that its training, and theirs, started from."""
    found, waiting, seen = [stored], [stored], {stored.revision}
    while waiting:
        for entry in _starts(waiting.pop().recipe):
            try:
                parent = read_checkpoint(entry.partition("#")[0])
            except (PhysConError, OSError):  # moved or deleted since
                continue
            if parent.revision not in seen:
                seen.add(parent.revision)
                found.append(parent)
                waiting.append(parent)
    return found


def _starts(recipe: str) -> list[str]:
    """Checkpoints that a recipe, with or without stages, starts from; in the former case also names of stages."""
    try:
        table = tomllib.loads(recipe)
    except tomllib.TOMLDecodeError:
        return []
    stages = [entry for stage in table.get("stage", []) for entry in stage.get("from", [])]
    return [*table.get("start_from", []), *stages]


def _stores_in_training(recipe: str) -> set[str]:
    """Names of the files that a recipe, with or without stages, assigns to the training."""
    return {Path(entry["store"]).name for entry in _data_of(recipe) if entry.get("assign_to") == "train"}


def _data_of(recipe: str) -> list[dict[str, Any]]:
    """Data sets of a recipe, those of all stages of a recipe with stages."""
    try:
        table = tomllib.loads(recipe)
    except tomllib.TOMLDecodeError:
        return []
    used: list[dict[str, Any]] = table.get("data", [])
    if isinstance(used, dict):  # a recipe with stages
        uses = [use for stage in table.get("stage", []) for use in stage["use"]]
        used = [{**table["data"][use["data"]], **use} for use in uses]
    return used

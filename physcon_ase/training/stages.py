"""Training of the stages of a recipe.

Each stage is a training in the folder of its name, and is skipped if it is finished.
"""

import functools
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import torch
from tqdm import tqdm

from physcon_ase.errors import CheckpointNotFoundError, RecipeError
from physcon_ase.model.checkpoint import (
    PROVENANCE_FILE,
    check_replaceable,
    read_checkpoint,
    resolve,
    save_checkpoint,
)
from physcon_ase.training.processes import processes
from physcon_ase.training.provenance import read_provenance
from physcon_ase.training.recipe import Recipe
from physcon_ase.training.recipe_files import parse_recipe
from physcon_ase.training.staged_recipe import Stage, StagedRecipe
from physcon_ase.training.store_commands import make_stores
from physcon_ase.training.trainer import RunOptions, train


def train_stages(
    recipe: StagedRecipe,
    folder: Path,
    *,
    stores: Path,
    device: torch.device | str = "cpu",
    options: RunOptions | None = None,
) -> Path:
    """Makes the missing stores of unfinished stages, trains these stages, and exports the last one.

    Args:
        recipe: the recipe.
        folder: folder of the checkpoint and of the folders of the stages.
        stores: folder of the stores.
        device: device of the model.
        options: intervals of saving, logging and validation.

    Returns:
        The folder of the checkpoint, `folder` / recipe name; `provenance.json` in it holds that of all stages.

    Raises:
        RecipeError: a checkpoint to start from or a store is missing and nothing makes it, a command failed, a sum is
            wrong, or a folder holds a stage of another recipe.
        LabelError, UnsupportedChargeError, PhysConError: see `trainer.train`.
    """
    if recipe.scale is not None and recipe.scale.make:
        stores = stores / recipe.scale.name
    check_replaceable(folder / recipe.name)
    open_stages = [stage for stage in recipe.stages if _finished(stage.recipe, folder / stage.name) is None]
    for stage in open_stages:
        _check_start(recipe, stage)
    with processes() as (rank, _):
        with processes():  # the others wait for the stores
            if rank == 0:
                make_stores(replace(recipe, stages=tuple(open_stages)), stores)
        train_one = functools.partial(train, store_root=stores, device=device, options=options)
        last = _train_each(recipe, folder, stores, train_one)
        if rank == 0:
            stored, origin = read_checkpoint(last), read_provenance(last)
            save_checkpoint(folder / recipe.name, stored.tensors, stored.config, recipe=recipe.text, provenance=origin)
    return folder / recipe.name


def _train_each(recipe: StagedRecipe, folder: Path, stores: Path, train_one: Callable[[Recipe, Path], Path]) -> Path:
    """Trains the stages that are not finished and returns the checkpoint of the last.

    Stores that are made with the checkpoint that a stage starts from are made before this stage.
    """
    finished: dict[str, Path] = {}
    for stage in recipe.stages:
        start = tuple(_located(entry, finished) for entry in stage.recipe.start_from)
        own = replace(stage.recipe, start_from=start)
        if (target := _finished(own, folder / stage.name)) is None:
            with processes() as (rank, _):  # the others wait for the stores
                if rank == 0 and start:
                    make_stores(replace(recipe, stages=(stage,)), stores, start=Path(start[0].partition("#")[0]))
            target = train_one(own, folder / stage.name)
        else:
            tqdm.write(f"{stage.name}: finished, {PROVENANCE_FILE} in {target}")
        finished[stage.name] = target
    return finished[recipe.stages[-1].name]


def _check_start(recipe: StagedRecipe, stage: Stage) -> None:
    """Refuses a stage without its checkpoint to start from, before the stages before it are trained."""
    names = [other.name for other in recipe.stages]
    for entry in stage.recipe.start_from:
        name = entry.partition("#")[0]
        if name in names:
            continue
        try:
            resolve(name)
        except CheckpointNotFoundError as error:
            raise RecipeError(f"stage {stage.name!r} starts from {name!r}, which is no stage; {error}") from error


def _located(entry: str, finished: Mapping[str, Path]) -> str:
    """An entry of `start_from`: the checkpoint of a stage by its folder; others are checkpoints already."""
    name, mark, part = entry.partition("#")
    return f"{finished[name]}{mark}{part}" if name in finished else entry


def _finished(recipe: Recipe, folder: Path) -> Path | None:
    """The checkpoint of a stage that is finished; None if it is not."""
    target = folder / recipe.name
    try:
        stored = read_checkpoint(target)
    except CheckpointNotFoundError:
        return None
    if replace(parse_recipe(stored.recipe), start_from=recipe.start_from) != recipe:  # parents may have moved
        raise RecipeError(
            f"{target} is the checkpoint of another recipe; train into another folder, or delete {folder}"
        )
    return target

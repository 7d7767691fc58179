"""Commands of a recipe with stages that make its stores."""

import glob
import shlex
import subprocess
import sys
from collections import defaultdict
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Final

from tqdm import tqdm

from physcon_ase.errors import RecipeError
from physcon_ase.training.provenance import file_sum
from physcon_ase.training.staged_recipe import DataFile, StagedRecipe, filled

START: Final = "{start}"
"""Placeholder of commands for the checkpoint that a stage starts from."""


def make_stores(recipe: StagedRecipe, stores: Path, *, start: Path | None = None) -> None:
    """Runs the commands of the stores that are missing, in the order of the recipe, and checks sums.

    A store of the recipe that a command reads as `{stores}/NAME` is made before, even if no stage uses it.

    Args:
        recipe: the recipe, with the stages whose stores are needed.
        stores: folder of the stores.
        start: the checkpoint that the stage starts from, for the stores whose commands need it; only these are made
            and checked then, and only the others without it.

    Raises:
        RecipeError: no command makes a missing store, a command failed or needs the store that it makes, a command
            needs a checkpoint to start from and the stage has none, or a store has another sum.
    """
    stores.mkdir(parents=True, exist_ok=True)
    levels: dict[str, set[str]] = defaultdict(set)
    has_start: dict[str, bool] = {}
    for stage in recipe.stages:
        for data in stage.recipe.data:
            levels[data.store].update(data.levels)
            has_start.setdefault(data.store, bool(stage.recipe.start_from))
    for name, file in recipe.data.items():
        if file.store not in levels:
            continue
        needs_start = not (recipe.scale and recipe.scale.make) and _needs_start(recipe, name)
        if needs_start and not has_start[file.store] and not (stores / file.store).exists():
            raise RecipeError(
                f"data.{name}: its command needs {START}, but the first stage with this store starts from no "
                f"checkpoint; give it a start_from, or make {stores / file.store} by hand"
            )
        if needs_start == (start is not None):
            _make(recipe, name, stores, levels, start, ())


def _make(
    recipe: StagedRecipe,
    name: str,
    stores: Path,
    levels: Mapping[str, Collection[str]],
    start: Path | None,
    waiting: tuple[str, ...],
) -> None:
    """Makes a store if it is missing, those that its command reads first.

    Args:
        recipe: the recipe.
        name: name of the data set.
        stores: folder of the stores.
        levels: levels that the stages use of each store.
        start: the checkpoint that the stage starts from, if a command needs it.
        waiting: names of the stores whose commands read this one, directly or not.
    """
    file = recipe.data[name]
    path = stores / file.store
    common = recipe.scale.make if recipe.scale else ""
    if not path.exists():
        if not (command := common or file.make):
            raise RecipeError(
                f"data.{name}: there is no store {path}, and the recipe has no command that makes it; make it by "
                "hand, or give the folder of the stores"
            )
        for other in () if common else _read_by(recipe, file):
            if other in (*waiting, name):
                raise RecipeError(
                    f"data.{other}: its command needs {recipe.data[other].store}, the store that it makes"
                )
            _make(recipe, other, stores, levels, start, (*waiting, name))
        places = {"store": str(path), "stores": str(stores), "here": str(recipe.here), "name": name}
        places |= {} if start is None else {"start": str(start)}
        places = {key: shlex.quote(place) for key, place in places.items()}
        places["levels"] = shlex.join(sorted(levels.get(file.store, ())))
        _run(filled(command, f"data.{name}", **places), f"data.{name}")
        if not path.exists():
            raise RecipeError(f"data.{name}: the command {command!r} ended without making {path}")
    if file.sha256 and recipe.scale is None and (found := file_sum(path)) != file.sha256:
        raise RecipeError(f"data.{name}: {path} has sha256 {found} instead of {file.sha256}; make it anew")


def _needs_start(recipe: StagedRecipe, name: str, waiting: tuple[str, ...] = ()) -> bool:
    """Whether the command of a store, or one before it, needs the checkpoint that a stage starts from."""
    others = [other for other in _read_by(recipe, recipe.data[name]) if other not in (*waiting, name)]
    return START in recipe.data[name].make or any(_needs_start(recipe, other, (*waiting, name)) for other in others)


def _read_by(recipe: StagedRecipe, file: DataFile) -> list[str]:
    """Names of the stores that the command of a store reads."""
    words = file.make.split()
    return [name for name, other in recipe.data.items() if f"{{stores}}/{other.store}" in words]


def _run(command: str, where: str) -> None:
    """Runs a command of the recipe; `python` and `physcon` are those of this environment, and * stands for names."""
    own = {"python": [sys.executable], "physcon": [sys.executable, "-m", "physcon_ase.cli"]}
    tqdm.write(f"{where}: {command}")
    try:
        first, *words = (
            found for word in shlex.split(command) for found in (sorted(glob.glob(word)) if "*" in word else [word])
        )
        done = subprocess.run([*own.get(first, [first]), *words], check=False)
    except (OSError, ValueError) as error:
        raise RecipeError(f"{where}: the command {command!r} cannot be run: {error}") from error
    if done.returncode:
        raise RecipeError(f"{where}: the command {command!r} failed with exit status {done.returncode}")

"""Commands of a recipe with stages that make its stores."""

import shlex
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

from tqdm import tqdm

from physcon_ase.errors import RecipeError
from physcon_ase.training.provenance import file_sum
from physcon_ase.training.staged_recipe import StagedRecipe, filled


def make_stores(recipe: StagedRecipe, stores: Path) -> None:
    """Runs the commands of the stores that are missing, in the order of the recipe, and checks sums.

    Raises:
        RecipeError: no command makes a missing store, a command failed, or a store has another sum.
    """
    stores.mkdir(parents=True, exist_ok=True)
    levels: dict[str, set[str]] = defaultdict(set)
    for stage in recipe.stages:
        for data in stage.recipe.data:
            levels[data.store].update(data.levels)
    for name, file in recipe.data.items():
        if file.store not in levels:
            continue
        path = stores / file.store
        command = recipe.scale.make if recipe.scale and recipe.scale.make else file.make
        if not path.exists():
            if not command:
                raise RecipeError(
                    f"data.{name}: there is no store {path}, and the recipe has no command that makes it; make it by "
                    "hand, or give the folder of the stores"
                )
            places = {"store": str(path), "stores": str(stores), "here": str(recipe.here), "name": name}
            places = {key: shlex.quote(place) for key, place in places.items()}
            places["levels"] = shlex.join(sorted(levels[file.store]))
            _run(filled(command, f"data.{name}", **places), f"data.{name}")
            if not path.exists():
                raise RecipeError(f"data.{name}: the command {command!r} ended without making {path}")
        if file.sha256 and recipe.scale is None and (found := file_sum(path)) != file.sha256:
            raise RecipeError(f"data.{name}: {path} has sha256 {found} instead of {file.sha256}; make it anew")


def _run(command: str, where: str) -> None:
    """Runs a command of the recipe; `python` and `physcon` are those of this environment."""
    own = {"python": [sys.executable], "physcon": [sys.executable, "-m", "physcon_ase.cli"]}
    tqdm.write(f"{where}: {command}")
    try:
        first, *words = shlex.split(command)
        done = subprocess.run([*own.get(first, [first]), *words], check=False)
    except (OSError, ValueError) as error:
        raise RecipeError(f"{where}: the command {command!r} cannot be run: {error}") from error
    if done.returncode:
        raise RecipeError(f"{where}: the command {command!r} failed with exit status {done.returncode}")

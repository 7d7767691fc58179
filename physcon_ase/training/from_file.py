"""Training with the recipe of a file and the changes given on the command line."""

from pathlib import Path

from physcon_ase.errors import PhysConError
from physcon_ase.model.checkpoint import read_checkpoint
from physcon_ase.model.config import config_from_dict
from physcon_ase.training.preflight import check_recipe
from physcon_ase.training.recipe import Recipe, with_steps
from physcon_ase.training.recipe_files import read_recipe
from physcon_ase.training.staged_recipe import is_staged, read_staged_recipe
from physcon_ase.training.stages import train_stages
from physcon_ase.training.start import added_to
from physcon_ase.training.trainer import RunOptions, train


def train_from_file(
    path: Path,
    folder: Path,
    *,
    stores: Path = Path(),
    steps: int | None = None,
    add_level: str | None = None,
    unfreeze: bool = False,
    scale: str | None = None,
    device: str = "cpu",
    save_minutes: float = 3.0,
    progress_bar: bool = True,
) -> Path:
    """Trains with the recipe of a file and returns the checkpoint; continues an interrupted training in the folder.

    Args:
        path: the recipe.
        folder: folder of state, log and checkpoint.
        stores: folder of the stores that the recipe names.
        steps: number of steps, instead of that of the recipe.
        add_level: checkpoint that the levels of the recipe are added to.
        unfreeze: whether the weights of that checkpoint are trained too.
        scale: smaller version of a recipe with stages.
        device: device of the model.
        save_minutes: minutes between saved states.
        progress_bar: whether to show a progress bar on a terminal.

    Raises:
        RecipeError: `steps` is below 1.
        PhysConError: `unfreeze` without `add_level`, `scale` without stages, or see `read_recipe`, `train` and
            `train_stages`.
    """
    options = RunOptions(save_minutes=save_minutes, progress_bar=progress_bar)
    if is_staged(path):
        if steps is not None or add_level is not None or unfreeze:
            raise PhysConError(f"{path} has stages, each with its own steps and start; leave out --steps, --add-level")
        return train_stages(read_staged_recipe(path, scale), folder, stores=stores, device=device, options=options)
    if scale is not None:
        raise PhysConError(f"{path} has no stages, and so no --scale {scale}; leave it out")
    recipe = _recipe(path, add_level, unfreeze)
    if steps is not None:
        recipe = with_steps(recipe, steps)
        check_recipe(recipe, str(path))
    return train(recipe, folder, store_root=stores, device=device, options=options)


def _recipe(path: Path, add_level: str | None, unfreeze: bool) -> Recipe:
    if add_level is None:
        if unfreeze:
            raise PhysConError(
                "--unfreeze applies to --add-level only: give the checkpoint with --add-level, or omit --unfreeze"
            )
        return read_recipe(path)
    config = config_from_dict(read_checkpoint(add_level).config)
    return added_to(read_recipe(path), add_level, config, frozen=not unfreeze)

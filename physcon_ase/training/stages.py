"""A recipe of several stages: data that are made where they are missing, and one training after another.

    [data.NAME]     store, levels and labels of a data set, and the command that makes the store
    [[stage]]       what differs from the stage before: the data it uses, what it trains, steps, loss, optimiser
    [scale.NAME]    a smaller version of the whole, such as one for tests

Each stage is a training of its own in the folder of its name, starts from the checkpoint of the stage before unless
`from` says otherwise (with {here} for the folder of the recipe), and is skipped if it is finished.
"""

import shlex
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from tqdm import tqdm

from physcon_ase.errors import CheckpointNotFoundError, RecipeError
from physcon_ase.model.checkpoint import PROVENANCE_FILE, read_checkpoint, save_checkpoint
from physcon_ase.training.provenance import file_sum, read_provenance
from physcon_ase.training.recipe import Recipe
from physcon_ase.training.recipe_files import parse_recipe, recipe_from_table, record_from_table
from physcon_ase.training.trainer import RunOptions, train

_INHERITED: Final = ("seed", "levels", "encoder", "structure", "optim", "loss", "optimality", "score", "asteroid")
"""Sections of a recipe that stages share, and may change."""


@dataclass(frozen=True)
class DataFile:
    """A store of the recipe."""

    store: str
    """Path of the store, relative to the folder of stores."""
    licence: str = ""
    """Licence of the data."""
    make: str = ""
    """Command that makes the store, with {store} for its path, {stores} for the folder of stores and {here} for that of
    the recipe; empty if it has to be made by hand."""
    sha256: str = ""
    """Sum of the store; empty if it is not checked."""


@dataclass(frozen=True)
class Scale:
    """A smaller version of a recipe."""

    steps: int
    """Steps of each stage."""
    max_molecules: int = 0
    """Molecules per data set and split; 0 for all."""
    make: str = ""
    """Command that makes every store, with {name} and {levels} beside what `DataFile.make` knows."""


@dataclass(frozen=True)
class Stage:
    """One training."""

    name: str
    """Name of its folder."""
    recipe: Recipe
    """The training; `start_from` holds names of stages before it, or checkpoints."""


@dataclass(frozen=True)
class StagedRecipe:
    """All stages of a checkpoint."""

    name: str
    """Name of the checkpoint."""
    text: str
    """Text of the file."""
    here: Path
    """Folder of the file."""
    data: Mapping[str, DataFile]
    """Stores by name."""
    stages: tuple[Stage, ...]
    """Stages in their order."""
    scale: Scale | None = None
    """The smaller version, if it is one."""


def is_staged(path: Path) -> bool:
    """Whether the file of a recipe has stages."""
    try:
        return "stage" in tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError):
        return False  # the reader of plain recipes says what is wrong


def read_staged_recipe(path: Path, scale: str | None = None) -> StagedRecipe:
    """Reads and checks a recipe with stages.

    Args:
        path: the TOML file.
        scale: name of a smaller version; None for the recipe itself.

    Raises:
        RecipeError: an unknown key, stage, data set or scale, or a stage that contradicts itself.
    """
    text = path.read_text(encoding="utf-8")
    table = tomllib.loads(text)
    known = {"name", "data", "stage", "scale", *_INHERITED}
    for key in table:
        if key not in known:
            raise RecipeError(f"{path} has the unknown key {key!r}; allowed are {', '.join(sorted(known))}")
    for key in ("name", "data", "stage"):
        if key not in table:
            raise RecipeError(f"{path} lacks {key!r}; add it")
    name, scales = table["name"], table.get("scale", {})
    if scale is not None and scale not in scales:
        raise RecipeError(f"{path} has no scale {scale!r}; it has {', '.join(scales) or 'none'}")
    changes: dict[str, Any] = dict(scales[scale]) if scale else {}
    sizes = {key: changes.pop(key) for key in ("encoder", "structure") if key in changes}
    chosen = record_from_table(Scale, changes, f"{path}: scale.{scale}") if scale else None
    files = {
        key: record_from_table(DataFile, {k: v for k, v in entry.items() if k in _FILE_KEYS}, f"{path}: data.{key}")
        for key, entry in table["data"].items()
    }
    shared = {key: table[key] for key in _INHERITED if key in table}
    stages: list[Stage] = []
    for number, own in enumerate(table["stage"]):
        shared = _merged(shared, {key: own[key] for key in _INHERITED if key in own})
        stages.append(_stage(path, table, own, shared, stages, f"{path}: stage {own.get('name', number)!r}"))
    if chosen is not None:
        stages = [replace(stage, recipe=_scaled(stage.recipe, chosen, sizes)) for stage in stages]
    return StagedRecipe(name, text, path.resolve().parent, files, tuple(stages), chosen)


_FILE_KEYS: Final = ("store", "licence", "make", "sha256")
_STAGE_KEYS: Final = {"name", "from", "train", "use", "steps", *_INHERITED}


def _stage(
    path: Path, table: Mapping[str, Any], own: Mapping[str, Any], shared: dict[str, Any], done: list[Stage], where: str
) -> Stage:
    for key in own:
        if key not in _STAGE_KEYS:
            raise RecipeError(f"{where} has the unknown key {key!r}; allowed are {', '.join(sorted(_STAGE_KEYS))}")
    for key in ("name", "use", "steps"):
        if key not in own:
            raise RecipeError(f"{where} lacks {key!r}; add it")
    names = [stage.name for stage in done]
    if own["name"] in names:
        raise RecipeError(f"{where} has the name of a stage before it; give it another")
    begin = [entry.format(here=path.resolve().parent) for entry in own.get("from", names[-1:])]
    data = []
    for use in own["use"]:
        if use.get("data") not in table["data"]:
            raise RecipeError(f"{where} uses data {use.get('data')!r}; [data] has {', '.join(table['data'])}")
        common = {k: v for k, v in table["data"][use["data"]].items() if k not in ("licence", "make", "sha256")}
        data.append({**common, **{key: value for key, value in use.items() if key != "data"}})
    recipe = recipe_from_table(
        {
            **shared,
            "name": f"{table['name']}-{own['name']}",
            "optim": {**shared.get("optim", {}), "steps": own["steps"], "train": own.get("train", [])},
            "data": data,
            "start_from": begin,
        },
        where,
    )
    return Stage(own["name"], recipe)


def _merged(before: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """The sections of a stage: those of the stage before, with single keys replaced."""
    merged = dict(before)
    for key, value in changes.items():
        old = merged.get(key)
        merged[key] = {**old, **value} if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


def _scaled(recipe: Recipe, scale: Scale, sizes: Mapping[str, Mapping[str, Any]]) -> Recipe:
    structure = recipe.structure
    return replace(
        recipe,
        encoder=replace(recipe.encoder, **sizes.get("encoder", {})),
        structure=None if structure is None else replace(structure, **sizes.get("structure", {})),
        optim=replace(recipe.optim, steps=scale.steps),
        data=tuple(replace(data, max_molecules=scale.max_molecules) for data in recipe.data),
    )


def train_stages(recipe: StagedRecipe, folder: Path, *, stores: Path, options: RunOptions | None = None) -> Path:
    """Makes the missing stores, trains the stages that are not finished, and exports the last one.

    Args:
        recipe: the recipe.
        folder: where the folders of the stages and the checkpoint go.
        stores: folder of the stores.
        options: how often to save, log and validate.

    Returns:
        The folder of the checkpoint, `folder` / recipe name; `provenance.json` in it holds that of all stages.

    Raises:
        RecipeError: a store is missing and no command makes it, a command failed, a sum is wrong, or a folder holds a
            stage of another recipe.
        LabelError, UnsupportedChargeError: see `trainer.train`.
    """
    make_stores(recipe, stores)
    finished: dict[str, Path] = {}
    for stage in recipe.stages:
        start = tuple(_located(entry, finished) for entry in stage.recipe.start_from)
        own = replace(stage.recipe, start_from=start)
        finished[stage.name] = _finished(own, folder / stage.name) or train(
            own, folder / stage.name, store_root=stores, options=options
        )
    last = finished[recipe.stages[-1].name]
    stored = read_checkpoint(last)
    save_checkpoint(
        folder / recipe.name,
        stored.tensors,
        stored.config,
        recipe=recipe.text,
        provenance=read_provenance(last),
    )
    return folder / recipe.name


def make_stores(recipe: StagedRecipe, stores: Path) -> None:
    """Runs the commands of the stores that are missing, in the order of the recipe, and checks sums.

    Raises:
        RecipeError: no command makes a missing store, a command failed, or a store has another sum.
    """
    stores.mkdir(parents=True, exist_ok=True)
    used = {data.store for stage in recipe.stages for data in stage.recipe.data}
    levels = {
        store: sorted(
            {level for stage in recipe.stages for d in stage.recipe.data if d.store == store for level in d.levels}
        )
        for store in used
    }
    for name, file in recipe.data.items():
        if file.store not in used:
            continue
        path, command = stores / file.store, recipe.scale.make if recipe.scale and recipe.scale.make else file.make
        if not path.exists():
            if not command:
                raise RecipeError(
                    f"data.{name}: there is no store {path}, and the recipe has no command that makes it; make it by "
                    "hand, or give the folder of the stores"
                )
            places = {
                "store": str(path), "stores": str(stores), "here": str(recipe.here), "name": name,
                "levels": " ".join(levels[file.store]),
            }  # fmt: skip
            _run(command.format(**places), f"data.{name}")
            if not path.exists():
                raise RecipeError(f"data.{name}: the command {command!r} ended without making {path}")
        if file.sha256 and recipe.scale is None and (found := file_sum(path)) != file.sha256:
            raise RecipeError(f"data.{name}: {path} has sha256 {found} instead of {file.sha256}; make it anew")


def _run(command: str, where: str) -> None:
    """Runs a command of the recipe; `python` and `physcon` are those of this environment."""
    words = shlex.split(command)
    own = {"python": [sys.executable], "physcon": [sys.executable, "-m", "physcon_ase.cli"]}
    tqdm.write(f"{where}: {command}")
    done = subprocess.run([*own.get(words[0], words[:1]), *words[1:]], check=False)
    if done.returncode:
        raise RecipeError(f"{where}: the command {command!r} failed with exit status {done.returncode}")


def _located(entry: str, finished: Mapping[str, Path]) -> str:
    """A stage by the folder of its checkpoint; anything else is a checkpoint already."""
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
    tqdm.write(f"{folder.name}: finished, {PROVENANCE_FILE} in {target}")
    return target

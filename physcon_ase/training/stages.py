"""Recipes with stages: commands that generate missing data, and several successive trainings.

    [data.NAME]     store, levels and labels of a data set, and the command that generates the store
    [[stage]]       differences from the previous stage: data, trained parts, steps, loss, optimiser
    [scale.NAME]    a smaller version of the recipe, for instance for tests

Each stage is a training in the folder of its name. It starts from the checkpoint of the previous stage unless `from`
names another one ({here} stands for the folder of the recipe), and is skipped if it is finished.
"""

import difflib
import functools
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Final

import torch
from tqdm import tqdm

from physcon_ase.data.selection import DataSet
from physcon_ase.errors import CheckpointNotFoundError, RecipeError
from physcon_ase.model.checkpoint import (
    PROVENANCE_FILE,
    check_replaceable,
    read_checkpoint,
    resolve,
    save_checkpoint,
)
from physcon_ase.training.preflight import check_recipe
from physcon_ase.training.processes import processes
from physcon_ase.training.provenance import file_sum, read_provenance
from physcon_ase.training.recipe import Recipe
from physcon_ase.training.recipe_files import parse_recipe, read_text, recipe_from_table, record_from_table
from physcon_ase.training.trainer import RunOptions, train

_INHERITED: Final = ("seed", "levels", "encoder", "structure", "optim", "loss", "optimality", "score", "asteroid")
"""Sections of a recipe that are common to the stages and can be changed by each."""


@dataclass(frozen=True)
class DataFile:
    """A store of the recipe."""

    store: str
    """Path of the store, relative to the folder of stores."""
    licence: str = ""
    """Licence of the data."""
    make: str = ""
    """Command that makes the store, with {store} for its path, {stores} for the folder of stores and {here} for that of
    the recipe; empty if it has to be made by hand. It is no shell that runs it."""
    sha256: str = ""
    """Sum of the store; empty if it is not checked."""


@dataclass(frozen=True)
class Scale:
    """A smaller version of a recipe."""

    name: str
    """Its name in the file."""
    steps: int
    """Steps of each stage."""
    max_molecules: int = 0
    """Molecules per data set and split, at most; 0 for as many as without the scale."""
    make: str = ""
    """Command that makes every store, with {name}, {levels} and the placeholders of `DataFile.make`. These stores have
    a folder of their own, `name` in the folder of stores, apart from those of the recipe itself."""


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
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError):
        return False  # the reader of plain recipes reports the error


def read_staged_recipe(path: Path, scale: str | None = None) -> StagedRecipe:
    """Reads and checks a recipe with stages.

    Args:
        path: the TOML file.
        scale: name of a smaller version; None for the recipe itself.

    Raises:
        RecipeError: no TOML, an unknown key, stage, data set or scale, a value of the wrong type, or a stage that
            contradicts itself.
    """
    text, table = _read(path)
    _check_keys(table, _FILE_KEYS, ("name", "data", "stage"), str(path))
    scales, data = (_sections(table.get(key, {}), f"{path}: {key}") for key in ("scale", "data"))
    if scale is not None and scale not in scales:
        raise RecipeError(f"{path} has no scale {scale!r}; it has {', '.join(scales) or 'none'}")
    files = {key: _data_file(entry, f"{path}: data.{key}") for key, entry in data.items()}
    here, entries = path.resolve().parent, _list_of(dict, table["stage"], f"{path}: stage")
    if not entries:
        raise RecipeError(f"{path} has no stage; add a section [[stage]]")
    names = [own.get("name") for own in entries]
    shared = {key: table[key] for key in _INHERITED if key in table}
    stages: list[Stage] = []
    for number, own in enumerate(entries):
        where = f"{path}: stage {own.get('name', number + 1)!r}"
        _check_keys(own, _STAGE_KEYS, ("name", "use", "steps"), where)
        if own["name"] in (*names[:number], table["name"]):
            raise RecipeError(f"{where} has the name of a stage before it or of the recipe; give it another")
        start = _list_of(str, own.get("from", names[:number][-1:]), f"{where}: from")
        start = [_filled(entry, f"{where}: from", here=here) for entry in start]
        for entry in start:
            if entry.partition("#")[0] in names[number:]:
                raise RecipeError(f"{where} starts from {entry!r}, which is no stage before it")
        shared = _merged(shared, {key: own[key] for key in _INHERITED if key in own})
        stages.append(Stage(own["name"], _stage_recipe(table["name"], data, own, shared, start, where)))
    chosen = None
    if scale is not None:
        where, changes = f"{path}: scale.{scale}", dict(scales[scale])
        sizes = {key: changes.pop(key) for key in _SIZES if key in changes}
        chosen = record_from_table(Scale, {**changes, "name": scale}, where)
        stages = [replace(stage, recipe=_scaled(stage.recipe, chosen, sizes, where)) for stage in stages]
    return StagedRecipe(table["name"], text, here, files, tuple(stages), chosen)


_FILE_KEYS: Final = ("name", "data", "stage", "scale", *_INHERITED)
_STAGE_KEYS: Final = ("name", "from", "train", "use", "steps", *_INHERITED)
_STORE_KEYS: Final = tuple(entry.name for entry in fields(DataFile))
_DATA_KEYS: Final = tuple(entry.name for entry in fields(DataSet))
_SIZES: Final = ("encoder", "structure")
_KINDS: Final = {dict: "tables", str: "strings"}


def _read(path: Path) -> tuple[str, dict[str, Any]]:
    """Text and table of a file."""
    if not path.is_file():
        raise RecipeError(f"no recipe at {path}; give the path of a TOML file such as those in recipes/")
    text = read_text(path)
    try:
        return text, tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(f"{path} is not valid TOML: {error}") from error


def _check_keys(table: Mapping[str, Any], known: Sequence[str], needed: Collection[str], where: str) -> None:
    for key in table:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"allowed are {', '.join(known)}"
            raise RecipeError(f"{where} has the unknown key {key!r}; {hint}")
    for key in needed:
        if key not in table:
            raise RecipeError(f"{where} lacks {key!r}; add it")
    name = table.get("name", "-")
    if not isinstance(name, str) or not name or any(mark in name for mark in "/\\#"):
        raise RecipeError(f"{where} has the name {name!r}; a name is a string without / and #")


def _sections(value: Any, where: str) -> dict[str, dict[str, Any]]:
    """The value, which must be a table of tables."""
    if not isinstance(value, dict) or not all(isinstance(entry, dict) for entry in value.values()):
        raise RecipeError(f"{where} must consist of named sections, [{where.split()[-1]}.NAME]; it is {value!r}")
    return value


def _list_of(kind: type, value: Any, where: str) -> list[Any]:
    """The value, which must be a list of entries of this type."""
    if not isinstance(value, list) or not all(isinstance(entry, kind) for entry in value):
        raise RecipeError(f"{where} is {value!r}; a list of {_KINDS[kind]} is needed")
    return value


def _filled(text: str, where: str, **places: Path | str) -> str:
    """The text with values for its {names}."""
    try:
        return text.format(**places)
    except (KeyError, IndexError, ValueError) as error:
        known = ", ".join(f"{{{name}}}" for name in places)
        raise RecipeError(f"{where}: {text!r} has a place with another name than {known}") from error


def _data_file(entry: Mapping[str, Any], where: str) -> DataFile:
    _check_keys(entry, (*_STORE_KEYS, *(key for key in _DATA_KEYS if key not in _STORE_KEYS)), (), where)
    return record_from_table(DataFile, {key: entry[key] for key in _STORE_KEYS if key in entry}, where)


def _stage_recipe(
    name: str,
    known: Mapping[str, Mapping[str, Any]],
    own: Mapping[str, Any],
    shared: Mapping[str, Any],
    start: list[str],
    where: str,
) -> Recipe:
    """The recipe of a stage.

    Args:
        name: that of the checkpoint.
        known: data sets by name.
        own: what the file says of the stage.
        shared: its sections, together with those of the stages before.
        start: stages and checkpoints to start from.
        where: the stage, for errors.
    """
    data = []
    for use in _list_of(dict, own["use"], f"{where}: use"):
        if use.get("data") not in list(known):
            raise RecipeError(f"{where} uses data {use.get('data')!r}; [data] has {', '.join(known)}")
        common = {key: value for key, value in known[use["data"]].items() if key in _DATA_KEYS}
        data.append({**common, **{key: value for key, value in use.items() if key != "data"}})
    optim = shared.get("optim", {})
    if not isinstance(optim, dict):
        raise RecipeError(f"{where}: optim is {optim!r}; a section is needed")
    return recipe_from_table(
        {
            **shared,
            "name": f"{name}-{own['name']}",
            "optim": {**optim, "steps": own["steps"], "train": own.get("train", [])},
            "data": data,
            "start_from": start,
        },
        where,
    )


def _merged(before: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """The sections of a stage: those of the stage before, with single keys replaced."""
    merged = dict(before)
    for key, value in changes.items():
        old = merged.get(key)
        merged[key] = {**old, **value} if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


def _scaled(recipe: Recipe, scale: Scale, sizes: Mapping[str, Any], where: str) -> Recipe:
    """The smaller version of the recipe of a stage."""
    smaller = {}
    for key, changes in _sections(sizes, where).items():
        if (section := getattr(recipe, key)) is not None:
            smaller[key] = record_from_table(type(section), {**asdict(section), **changes}, f"{where}.{key}")
    recipe = replace(
        recipe,
        **smaller,
        optim=replace(recipe.optim, steps=scale.steps),
        data=tuple(replace(data, max_molecules=_fewer(data.max_molecules, scale)) for data in recipe.data),
    )
    check_recipe(recipe, where)
    return recipe


def _fewer(max_molecules: int, scale: Scale) -> int:
    """Molecules of a data set at a scale: not more than without it; 0 for all."""
    limits = [limit for limit in (max_molecules, scale.max_molecules) if limit]
    return min(limits, default=0)


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
        folder: where the folders of the stages and the checkpoint go.
        stores: folder of the stores.
        device: where the model computes.
        options: how often to save, log and validate.

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
        last = _train_each(recipe, folder, functools.partial(train, store_root=stores, device=device, options=options))
        if rank == 0:
            stored, origin = read_checkpoint(last), read_provenance(last)
            save_checkpoint(folder / recipe.name, stored.tensors, stored.config, recipe=recipe.text, provenance=origin)
    return folder / recipe.name


def _train_each(recipe: StagedRecipe, folder: Path, train_one: Callable[[Recipe, Path], Path]) -> Path:
    """Trains the stages that are not finished and returns the checkpoint of the last."""
    finished: dict[str, Path] = {}
    for stage in recipe.stages:
        start = tuple(_located(entry, finished) for entry in stage.recipe.start_from)
        own = replace(stage.recipe, start_from=start)
        if (target := _finished(own, folder / stage.name)) is None:
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
            places = {"store": str(path), "stores": str(stores), "here": str(recipe.here), "name": name}
            places = {key: shlex.quote(place) for key, place in places.items()}
            _run(_filled(command, f"data.{name}", **places, levels=shlex.join(levels[file.store])), f"data.{name}")
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
    return target

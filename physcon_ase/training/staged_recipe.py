"""Recipes with stages: the stores of a checkpoint, the commands that make them, and several successive trainings.

    [data.NAME]     store, levels and labels of a data set, and the command that makes the store
    [[stage]]       differences from the previous stage: data, trained parts, steps, loss, optimiser
    [scale.NAME]    a smaller version of the recipe, for instance for tests

A stage starts from the checkpoint of the previous stage unless `from` names another one ({here} stands for the folder
of the recipe).
"""

import tomllib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Final

from physcon_ase.data.selection import DataSet
from physcon_ase.errors import RecipeError
from physcon_ase.training.preflight import check_recipe
from physcon_ase.training.recipe import Recipe
from physcon_ase.training.recipe_files import (
    check_keys,
    read_text,
    recipe_from_table,
    record_from_table,
    table_from_text,
)

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
    the recipe; empty if it has to be made by hand. It is run without a shell, but names of files can have wildcards.
    A store that it reads, as {stores}/NAME, is made first. {start} stands for the checkpoint that a stage starts from:
    the store is made before the first stage that uses it, not before all stages."""
    sha256: str = ""
    """SHA-256 of the store; empty if it is not checked."""


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


_FILE_KEYS: Final = ("name", "data", "stage", "scale", *_INHERITED)
_STAGE_KEYS: Final = ("name", "from", "train", "use", "steps", *_INHERITED)
_STORE_KEYS: Final = tuple(entry.name for entry in fields(DataFile))
_DATA_KEYS: Final = tuple(entry.name for entry in fields(DataSet))
_SIZES: Final = ("encoder", "structure")
"""Sections that a scale can change: the sizes of the networks."""

_KINDS: Final = {dict: "tables", str: "strings"}
"""Names of types of TOML in errors."""


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
    text = read_text(path)
    table = table_from_text(text, str(path))
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
        start = [filled(entry, f"{where}: from", here=here) for entry in start]
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


def filled(text: str, where: str, **places: Path | str) -> str:
    """The text with values for its {names}; `where` is its place in the recipe, for errors.

    Raises:
        RecipeError: a name has no value.
    """
    try:
        return text.format(**places)
    except (KeyError, IndexError, ValueError) as error:
        known = ", ".join(f"{{{name}}}" for name in places)
        raise RecipeError(f"{where}: {text!r} has a place with another name than {known}") from error


def _check_keys(table: Mapping[str, Any], known: Sequence[str], needed: Collection[str], where: str) -> None:
    """Checks the keys of a table, and its name if it has one."""
    check_keys(table, known, needed, where)
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
        shared: sections of the file, together with those of the stages before.
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

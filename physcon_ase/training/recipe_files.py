"""Recipes as TOML text."""

import difflib
import json
import tomllib
import types
import typing
from collections.abc import Collection, Mapping, Sequence
from dataclasses import MISSING, asdict, fields, is_dataclass
from pathlib import Path
from typing import Any

from physcon_ase.errors import RecipeError
from physcon_ase.training.preflight import check_recipe
from physcon_ase.training.recipe import Recipe


def read_recipe(path: str | Path) -> Recipe:
    """Reads and checks a recipe.

    Raises:
        RecipeError: the file is missing, no TOML, has unknown or missing keys, or values of the wrong type.
    """
    path = Path(path)
    return parse_recipe(read_text(path), str(path))


def read_text(path: Path) -> str:
    """The text of a recipe.

    Raises:
        RecipeError: the file is missing or not UTF-8.
    """
    if not path.is_file():
        raise RecipeError(f"no recipe at {path}; give the path of a TOML file such as those in recipes/")
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise RecipeError(f"{path} is not UTF-8 text ({error}), as TOML has to be; save it as UTF-8") from error


def parse_recipe(text: str, origin: str = "recipe") -> Recipe:
    """A recipe from its TOML text; `origin` names it in errors."""
    return recipe_from_table(table_from_text(text, origin), origin)


def table_from_text(text: str, origin: str) -> dict[str, Any]:
    """The parsed TOML; `origin` names it in errors.

    Raises:
        RecipeError: the text is no TOML.
    """
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(f"{origin} is not valid TOML: {error}") from error


def recipe_from_table(table: dict[str, Any], origin: str = "recipe") -> Recipe:
    """A recipe from its parsed TOML; `origin` names it in errors."""
    recipe = record_from_table(Recipe, table, origin)
    check_recipe(recipe, origin)
    return recipe


def format_recipe(recipe: Recipe) -> str:
    """The recipe as TOML text that `parse_recipe` reads back to an equal recipe."""
    table = asdict(recipe)
    lines = [f"{key} = {_toml(value)}" for key, value in table.items() if _is_plain(value)]
    for key, value in table.items():
        if isinstance(value, dict):
            lines += ["", f"[{key}]", *(f"{name} = {_toml(entry)}" for name, entry in value.items())]
        elif isinstance(value, tuple) and not _is_plain(value):
            for row in value:
                lines += ["", f"[[{key}]]", *(f"{name} = {_toml(entry)}" for name, entry in row.items())]
    return "\n".join(lines) + "\n"


def _is_plain(value: Any) -> bool:
    if isinstance(value, tuple):
        return all(_is_plain(entry) for entry in value)
    return isinstance(value, str | int | float | bool)


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")  # JSON permits DEL, TOML does not
    if isinstance(value, tuple):
        return "[" + ", ".join(_toml(entry) for entry in value) + "]"
    return repr(value)


def record_from_table(record: type, table: dict[str, Any], where: str) -> Any:
    """An instance of a dataclass from a table.

    Raises:
        RecipeError: a key is unknown (with a hint for a mistyped one) or missing, or a value has the wrong type.
    """
    types_of = typing.get_type_hints(record)
    needed = [own.name for own in fields(record) if own.default is MISSING and own.default_factory is MISSING]
    check_keys(table, tuple(types_of), needed, where)
    return record(**{key: _value(types_of[key], value, f"{where}: {key}") for key, value in table.items()})


def check_keys(table: Mapping[str, Any], known: Sequence[str], needed: Collection[str], where: str) -> None:
    """Checks that a table has only known keys and all that are needed.

    Raises:
        RecipeError: a key is unknown (with a hint for a mistyped one) or missing.
    """
    for key in table:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"allowed are {', '.join(known)}"
            raise RecipeError(f"{where} has the unknown key {key!r}; {hint}")
    for key in needed:
        if key not in table:
            raise RecipeError(f"{where} lacks {key!r}; add it")


def _value(expected: Any, value: Any, where: str) -> Any:
    if isinstance(expected, types.UnionType):
        expected = next(option for option in expected.__args__ if option is not types.NoneType)
    if is_dataclass(expected) and isinstance(value, dict):
        return record_from_table(typing.cast(type, expected), value, where)
    if typing.get_origin(expected) is tuple and isinstance(value, list):
        entry = typing.get_args(expected)[0]
        return tuple(_value(entry, item, f"{where}[{i}]") for i, item in enumerate(value))
    if expected is float and type(value) is int:
        return float(value)
    if not isinstance(expected, type) or type(value) is not expected:
        name = getattr(expected, "__name__", str(expected))
        raise RecipeError(f"{where} is {value!r}; a value of type {name} is needed")
    return value

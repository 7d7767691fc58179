"""A recipe: everything that makes a checkpoint, as a TOML file."""

import difflib
import tomllib
import types
import typing
from dataclasses import MISSING, asdict, dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, get_args

from physcon_ase.data.selection import LABELS, DataSet
from physcon_ase.data.split import Split
from physcon_ase.errors import RecipeError
from physcon_ase.model.config import EncoderConfig, ModelConfig, StructureConfig


@dataclass(frozen=True)
class LevelRecipe:
    """A level of theory to be trained."""

    name: str
    """Short name; data sets refer to it."""
    description: str
    """Method and basis set in full."""
    like: str = ""
    """Level named before it, with whose row, head and missing references it begins; empty to begin with random ones."""


@dataclass(frozen=True)
class LossRecipe:
    """Weights of the loss terms; a term of weight 0 is not computed."""

    energy: float = 0.2
    """Of the energy error [1/eV]."""
    forces: float = 1.0
    """Of the force error [Å/eV]."""
    displacement: float = 0.0
    """Of the error of the forces as a Newton step [1/Å], see `losses.displacement`."""
    charges: float = 0.0
    """Of the error of partial charges [1/e]."""
    direct_forces: float = 0.0
    """Of the error of the direct-force heads [Å/eV]."""
    structure: float = 0.0
    """Of the denoising error [1/Å²]."""
    refinement: float = 0.0
    """Of the error that is left when predicted structures are predicted again, see `losses.structure`."""
    optimality: float = 0.0
    """Of optimality consistency, see `losses.consistency` [1/eV; 1/Å² for variant "newton"]."""
    score: float = 0.0
    """Of score consistency, see `losses.consistency` [1/Å²]."""
    score_matching: float = 0.0
    """Of score matching on geometries without labels, see `losses.asteroid` [Å²/eV²]."""

    @property
    def trains_structures(self) -> bool:
        """Whether any term trains the structure head."""
        return max(self.structure, self.refinement, self.optimality, self.score) > 0

    @property
    def trains_energies(self) -> bool:
        """Whether any term trains the energies or what is derived from them."""
        return (
            max(self.energy, self.forces, self.displacement, self.charges, self.direct_forces, self.score_matching) > 0
        )


@dataclass(frozen=True)
class OptimalityRecipe:
    """Optimality consistency: predicted structures are minima of an energy."""

    level: str
    """Level of theory of the teacher."""
    variant: str = "hinge"
    """One of `OPTIMALITY_VARIANTS`."""
    sigma_min: float = 0.3
    """Smallest noise τ [Å] that the structures are predicted from."""
    sigma_max: float = 3.0
    """Largest noise τ [Å]."""
    width: float = 0.05
    """Standard deviation [Å] of the displacements η of "hinge"."""
    max_force: float = 5.0
    """Force [eV/Å] on an atom that the gradient of "hinge" is cut to."""


@dataclass(frozen=True)
class ScoreRecipe:
    """Score consistency: what pulls a noisy structure back is the derivative of an energy."""

    level: str
    """Level of theory of the teacher."""
    variant: str = "noisy"
    """One of `SCORE_VARIANTS`."""
    sigma_min: float = 0.01
    """Smallest noise τ [Å]."""
    sigma_max: float = 0.1
    """Largest noise τ [Å]."""
    kt: float = 0.1
    """k_B T [eV] of the thermal distribution."""
    stiffness: float = 0.0
    """k_B T is raised to this [eV/Å²] times τ² where that is more: the law holds for softer springs only."""


@dataclass(frozen=True)
class AsteroidRecipe:
    """Training on inaccurate labels that a model of the accurate ones judges, see `losses.asteroid`."""

    checkpoint: str = ""
    """Name or folder of that model; its forces weight the labels of data sets with `borrow_forces_from`. Empty to
    leave them as they are."""
    gamma: float = 0.0434
    """Bias [eV/Å] at which a label counts 1/e; 1 kcal/mol/Å as published."""
    kt: float = 0.0431
    """k_B T [eV] of the geometries of score matching; 500 K as published."""


OPTIMALITY_VARIANTS = ("hinge", "newton")
"""Forms of optimality consistency."""

SCORE_VARIANTS = ("noisy", "clean", "newton")
"""Forms of score consistency."""


@dataclass(frozen=True)
class OptimRecipe:
    """The optimiser and its schedule: warm-up, constant, then linear decay to zero."""

    steps: int
    """Number of optimiser steps."""
    lr: float = 2e-3
    """Learning rate of the constant part."""
    warmup: int = 200
    """Steps of linear warm-up."""
    decay: float = 0.5
    """Part of `steps` that the final decay takes."""
    weight_decay: float = 1e-4
    """Decoupled weight decay of matrices."""
    ema: float = 0.998
    """Decay of the moving average of the weights, which is what is validated and kept."""
    clip: float = 10.0
    """Largest norm of the gradient."""
    atoms_per_batch: int = 512
    """Slots per batch and process, empty ones included."""
    train: tuple[str, ...] = ()
    """Parts of the model that are trained: prefixes of parameter names such as ``"structure"``; empty for all."""


@dataclass(frozen=True)
class Recipe:
    """A training."""

    name: str
    """Name of the checkpoint."""
    levels: tuple[LevelRecipe, ...]
    """Levels of theory; the first is the default level of the checkpoint."""
    data: tuple[DataSet, ...]
    """Data sets."""
    optim: OptimRecipe
    """Optimiser and schedule."""
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    """Sizes of the encoder."""
    structure: StructureConfig | None = None
    """Sizes of the structure head, if there is to be one."""
    loss: LossRecipe = field(default_factory=LossRecipe)
    """Weights of the loss terms."""
    optimality: OptimalityRecipe | None = None
    """Settings of optimality consistency, if it has a weight."""
    score: ScoreRecipe | None = None
    """Settings of score consistency, if it has a weight."""
    asteroid: AsteroidRecipe | None = None
    """Settings of bias-aware weights and of score matching, if they are used."""
    seed: int = 0
    """Of the weights, the order of the data and the noise."""
    start_from: tuple[str, ...] = ()
    """Checkpoints (names or folders) whose weights are taken over wherever names and shapes agree, in this order; of
    "checkpoint#structure" only the parameters whose names begin so. Paths are relative to the working directory."""


def read_recipe(path: str | Path) -> Recipe:
    """Reads and checks a recipe.

    Raises:
        RecipeError: the file is missing, no TOML, has unknown or missing keys, or values of the wrong type.
    """
    path = Path(path)
    if not path.is_file():
        raise RecipeError(f"no recipe at {path}; give the path of a TOML file such as those in recipes/")
    return parse_recipe(path.read_text(), str(path))


def parse_recipe(text: str, origin: str = "recipe") -> Recipe:
    """A recipe from its TOML text; `origin` names it in errors."""
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(f"{origin} is not valid TOML: {error}") from error
    recipe = _record(Recipe, table, origin)
    check_recipe(recipe, origin)
    return recipe


def check_recipe(recipe: Recipe, origin: str = "recipe") -> None:
    """Refuses a recipe that contradicts itself, before any data is read."""
    names = [level.name for level in recipe.levels]
    _require(len(names) > 0, origin, "has no [[levels]]; name at least one level of theory")
    _require(len(set(names)) == len(names), origin, f"names a level twice: {', '.join(names)}")
    for data in recipe.data:
        unknown = sorted(set(data.levels) - set(names))
        _require(not unknown, origin, f"data set {data.store} uses levels {unknown}; [[levels]] has {names}")
        _require(
            data.assign_to in ("", *get_args(Split)),
            origin,
            f"data set {data.store} is assigned to {data.assign_to!r}; choose one of {', '.join(get_args(Split))}",
        )
        _require(data.repeat > 0, origin, f"data set {data.store} has repeat {data.repeat}; give a positive number")
        foreign = sorted(set(data.labels) - set(LABELS))
        _require(
            not foreign, origin, f"data set {data.store} uses the labels {foreign}; choose from {', '.join(LABELS)}"
        )
    for name, weight in asdict(recipe.loss).items():
        _require(
            weight >= 0, origin, f"loss weight {name} is {weight}; give 0 to switch the term off, or a positive number"
        )
    _require(any(asdict(recipe.loss).values()), origin, "has only loss weights of 0; give at least one term a weight")
    if recipe.loss.structure > 0:
        _require(recipe.structure is not None, origin, "trains structures without a [structure] section; add one")
    _check_consistency(recipe, origin)
    _check_asteroid(recipe, origin)
    if recipe.loss.charges > 0:
        _require(recipe.encoder.charged, origin, "trains partial charges with encoder.charged = false; set it to true")
    if recipe.loss.direct_forces > 0:
        _require(
            recipe.encoder.output_vectors > 0, origin, "trains direct forces with encoder.output_vectors = 0; give some"
        )
    optim = recipe.optim
    _require(optim.steps > 0, origin, f"optim.steps is {optim.steps}; give the number of optimiser steps")
    _require(optim.lr > 0, origin, f"optim.lr is {optim.lr}; give a positive learning rate")
    _require(0 <= optim.decay <= 1, origin, f"optim.decay is {optim.decay}; give the part of the steps in [0, 1]")


def _check_consistency(recipe: Recipe, origin: str) -> None:
    sections = {"optimality": (recipe.optimality, OPTIMALITY_VARIANTS), "score": (recipe.score, SCORE_VARIANTS)}
    for name, (section, variants) in sections.items():
        if getattr(recipe.loss, name) == 0:
            continue
        _require(section is not None, origin, f"weights loss.{name} without a [{name}] section; add one")
        _require(
            recipe.structure is not None, origin, f"weights loss.{name} without a [structure] head to train; add one"
        )
        assert section is not None
        assert recipe.structure is not None
        names = [level.name for level in recipe.levels]
        _require(
            section.level in names,
            origin,
            f"takes level {section.level!r} as teacher in [{name}], which has no energy head; [[levels]] has {names}",
        )
        _require(
            section.variant in variants,
            origin,
            f"has {name}.variant {section.variant!r}; choose one of {', '.join(variants)}",
        )
        low, high = recipe.structure.sigma_min, recipe.structure.sigma_max
        _require(
            low <= section.sigma_min <= section.sigma_max <= high,
            origin,
            f"has {name} noise from {section.sigma_min} to {section.sigma_max} Å, outside the noise schedule of "
            f"[structure]: {low} to {high} Å",
        )
    if recipe.optimality is not None:
        _require(
            recipe.optimality.width > 0 and recipe.optimality.max_force > 0,
            origin,
            "has an optimality.width or max_force that is not positive; give lengths and forces above 0",
        )
    if recipe.score is not None:
        _require(
            recipe.score.kt > 0 and recipe.score.stiffness >= 0,
            origin,
            f"has score.kt {recipe.score.kt} and stiffness {recipe.score.stiffness}; kt must be above 0, stiffness 0 "
            "or more",
        )


def _check_asteroid(recipe: Recipe, origin: str) -> None:
    asteroid = recipe.asteroid
    if asteroid is None:
        weight = recipe.loss.score_matching
        _require(weight == 0, origin, "weights loss.score_matching without an [asteroid] section; add one")
        return
    _require(
        asteroid.gamma > 0 and asteroid.kt > 0,
        origin,
        f"has asteroid.gamma {asteroid.gamma} and kt {asteroid.kt}; both must be above 0",
    )
    lent = any(data.borrow_forces_from for data in recipe.data)
    _require(
        not asteroid.checkpoint or lent,
        origin,
        "has an asteroid.checkpoint, but no data set with borrow_forces_from that it could judge; name the level that "
        "lends the inaccurate forces",
    )


def check_likeness(recipe: Recipe) -> None:
    """Refuses a level that is to begin like one that is not named before it.

    Apart from `check_recipe`, because a recipe that is added to a checkpoint may name its levels.
    """
    names = [level.name for level in recipe.levels]
    for place, level in enumerate(recipe.levels):
        _require(
            level.like in ("", *names[:place]),
            f"recipe {recipe.name}",
            f"has level {level.name!r} begin like {level.like!r}, which is none of those named before it: "
            f"{names[:place]}",
        )


def with_steps(recipe: Recipe, steps: int) -> Recipe:
    """The same recipe for another number of steps."""
    return replace(recipe, optim=replace(recipe.optim, steps=steps))


def added_to(recipe: Recipe, checkpoint: str, config: ModelConfig, *, frozen: bool = True) -> Recipe:
    """The recipe that adds the levels of `recipe` to a checkpoint.

    Args:
        recipe: its levels are new; its data, losses and schedule are used, its encoder and structure network are not.
        checkpoint: name or folder of the checkpoint.
        config: that of the checkpoint.
        frozen: whether the row and the head of the new levels alone are trained, so that nothing else changes.

    Raises:
        RecipeError: the checkpoint has one of the levels already.
    """
    old = tuple(LevelRecipe(level.name, level.description) for level in config.levels)
    known = sorted({level.name for level in old} & {level.name for level in recipe.levels})
    _require(not known, checkpoint, f"has level {', '.join(known)} already; a level to be added needs another name")
    own = [f"energy.{part}.{level.name}." for level in recipe.levels for part in ("rows", "heads")]
    added = replace(
        recipe,
        levels=(*old, *recipe.levels),
        encoder=config.encoder,
        structure=config.structure,
        start_from=(checkpoint,),
        optim=replace(recipe.optim, train=tuple(own) if frozen else recipe.optim.train),
    )
    check_recipe(added, recipe.name)
    check_likeness(added)
    return added


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
        escaped = value.replace("\\", "\\\\").replace('"', '\\"')
        return f'"{escaped}"'
    if isinstance(value, tuple):
        return "[" + ", ".join(_toml(entry) for entry in value) + "]"
    return repr(value)


def _require(condition: bool, origin: str, problem: str) -> None:
    if not condition:
        raise RecipeError(f"{origin} {problem}")


def _record(record: type, table: dict[str, Any], where: str) -> Any:
    """An instance of a dataclass from a table, with a hint for a mistyped key."""
    types_of = typing.get_type_hints(record)
    for key in table:
        if key not in types_of:
            near = difflib.get_close_matches(key, types_of, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"allowed are {', '.join(types_of)}"
            raise RecipeError(f"{where} has the unknown key {key!r}; {hint}")
    for entry in fields(record):
        if entry.name not in table and entry.default is MISSING and entry.default_factory is MISSING:
            raise RecipeError(f"{where} lacks {entry.name!r}; add it")
    return record(**{key: _value(types_of[key], value, f"{where}: {key}") for key, value in table.items()})


def _value(expected: Any, value: Any, where: str) -> Any:
    if isinstance(expected, types.UnionType):
        expected = next(option for option in expected.__args__ if option is not types.NoneType)
    if is_dataclass(expected) and isinstance(value, dict):
        return _record(typing.cast(type, expected), value, where)
    if typing.get_origin(expected) is tuple and isinstance(value, list):
        entry = typing.get_args(expected)[0]
        return tuple(_value(entry, item, f"{where}[{i}]") for i, item in enumerate(value))
    if expected is float and type(value) is int:
        return float(value)
    if not isinstance(expected, type) or type(value) is not expected:
        name = getattr(expected, "__name__", str(expected))
        raise RecipeError(f"{where} is {value!r}; a value of type {name} is needed")
    return value

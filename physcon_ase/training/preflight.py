"""Checks before the first step of a training: contradictory recipes, and losses without labels."""

import math
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict
from typing import Any, Final, get_args

import torch

from physcon_ase.data.labels import check_energies, has_energies
from physcon_ase.data.loader import Items
from physcon_ase.data.selection import LABELS
from physcon_ase.data.split import Split
from physcon_ase.errors import LabelError, RecipeError, UnsupportedChargeError
from physcon_ase.training.losses.terms import LABEL_KINDS, active_terms, trains
from physcon_ase.training.recipe import OPTIMALITY_VARIANTS, SCORE_VARIANTS, Recipe

_AT_LEAST: Final = {
    "seed": 0,
    "data": {"weight": 0, "max_atoms": 0, "max_molecules": 0},
    "encoder": {
        "n_layers": 1,
        "n_radial": 1,
        "channels": 2,  # heads have half as many
        "mixed_channels": 1,
        "source_scalars": 1,
        "source_vectors": 0,
        "hidden": 1,
        "output_vectors": 0,
    },
    "structure": {
        "n_layers": 1,
        "n_radial": 1,
        "channels": 1,
        "mixed_channels": 1,
        "source_scalars": 1,
        "source_vectors": 1,
        "hidden": 1,
    },
    "optim": {"warmup": 0, "weight_decay": 0, "ema": 0, "atoms_per_batch": 1},
}
"""Smallest values of settings, by section."""


def check_recipe(recipe: Recipe, origin: str = "recipe") -> None:
    """Refuses a recipe that contradicts itself, before any data is read."""
    name = recipe.name
    _require(
        name not in ("", ".", "..") and not any(mark in name for mark in "/\\#"),
        origin,
        f"has the name {name!r}; the checkpoint is a folder of this name: give one without / and #",
    )
    _check_numbers(asdict(recipe), origin)
    names = [level.name for level in recipe.levels]
    _require(len(names) > 0, origin, "has no [[levels]]; name at least one level of theory")
    _require(len(set(names)) == len(names), origin, f"names a level twice: {', '.join(names)}")
    dotted = ", ".join(name for name in names if "." in name)
    _require(not dotted, origin, f"names levels {dotted}; a name must not contain '.': use '_' in recipe and stores")
    odd = [name for name in names if not re.fullmatch(r"[\w+-]+", name)]
    _require(not odd, origin, f"names levels {odd}; a name has only letters, digits, '_', '+' and '-'")
    for data in recipe.data:
        _require(len(data.levels) > 0, origin, f"data set {data.store} uses no levels; [[levels]] has {names}")
        _require(
            len(set(data.levels)) == len(data.levels),
            origin,
            f"data set {data.store} uses a level twice: {', '.join(data.levels)}",
        )
        unknown = sorted(set(data.levels) - set(names))
        _require(not unknown, origin, f"data set {data.store} uses levels {unknown}; [[levels]] has {names}")
        _require(
            data.assign_to in ("", *get_args(Split)),
            origin,
            f"data set {data.store} is assigned to {data.assign_to!r}; choose one of {', '.join(get_args(Split))}",
        )
        _require(data.repeat > 0, origin, f"data set {data.store} has repeat {data.repeat}; give a positive number")
        _require(data.together > 0, origin, f"data set {data.store} has together {data.together}; give 1 or more")
        foreign = sorted(set(data.labels) - set(LABELS))
        _require(
            not foreign, origin, f"data set {data.store} uses the labels {foreign}; choose from {', '.join(LABELS)}"
        )
    for name, weight in asdict(recipe.loss).items():
        _require(
            weight >= 0, origin, f"loss weight {name} is {weight}; give 0 to switch the term off, or a positive number"
        )
    _require(any(asdict(recipe.loss).values()), origin, "has only loss weights of 0; give at least one term a weight")
    if recipe.loss.structure > 0 or recipe.loss.refinement > 0:
        _require(recipe.structure is not None, origin, "trains structures without a [structure] section; add one")
    _check_consistency(recipe, origin)
    _check_asteroid(recipe, origin)
    if recipe.loss.charges > 0 or recipe.loss.total_charge > 0:
        _require(recipe.encoder.charged, origin, "trains partial charges with encoder.charged = false; set it to true")
    if recipe.loss.direct_forces > 0:
        _require(
            recipe.encoder.output_vectors > 0, origin, "trains direct forces with encoder.output_vectors = 0; give some"
        )
    optim = recipe.optim
    _require(optim.steps > 0, origin, f"optim.steps is {optim.steps}; give the number of optimiser steps")
    _require(optim.lr > 0, origin, f"optim.lr is {optim.lr}; give a positive learning rate")
    _require(0 <= optim.decay <= 1, origin, f"optim.decay is {optim.decay}; give the part of the steps in [0, 1]")
    _require(optim.ema <= 1, origin, f"optim.ema is {optim.ema}; give the decay of the moving average in [0, 1]")
    _require(optim.clip > 0, origin, f"optim.clip is {optim.clip}; give the largest norm of the gradient")
    cutoff = recipe.encoder.cutoff
    _require(cutoff > 0, origin, f"encoder.cutoff is {cutoff}; give a positive distance in Å")
    if recipe.structure is not None:
        low, high = recipe.structure.sigma_min, recipe.structure.sigma_max
        _require(
            0 < low <= high,
            origin,
            f"has structure noise from {low} to {high} Å; give two positive widths, the smaller one first",
        )


def _check_numbers(table: Mapping[str, Any], origin: str) -> None:
    """Refuses numbers that are not finite or smaller than any that makes sense."""
    for where, value, smallest in _numbers(table, _AT_LEAST):
        _require(math.isfinite(value), origin, f"has {where} {value}; give a finite number")
        _require(smallest is None or value >= smallest, origin, f"has {where} {value}; give {smallest} or more")


def _numbers(
    table: Mapping[str, Any], smallest: Mapping[str, Any], where: str = ""
) -> Iterator[tuple[str, float, float | None]]:
    """Name, value and smallest value, if any, of each number of a table and its sections."""
    for key, value in table.items():
        least = smallest.get(key)
        if isinstance(value, Mapping):
            yield from _numbers(value, least or {}, f"{where}{key}.")
        elif isinstance(value, tuple):
            for row in value:
                if isinstance(row, Mapping):
                    yield from _numbers(row, least or {}, f"{where}{key}.")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield f"{where}{key}", value, least


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
            section.level in ("", *names),
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


def _require(condition: bool, origin: str, problem: str) -> None:
    if not condition:
        raise RecipeError(f"{origin} {problem}")


def check_labels(recipe: Recipe, items: Items) -> None:
    """Refuses a weighted loss that would meet no label in the whole data set, and what no model can learn from.

    Raises:
        LabelError: names the term, or the data set whose energies do not fit the others (`labels.check_energies`).
        UnsupportedChargeError: open-shell molecules, or charged ones for a model that does not see the charge.
    """
    if len(items) == 0:
        raise LabelError(
            f"recipe {recipe.name}: no training data are left after the split and the choice of kinds and levels"
        )
    n_radicals = sum(int((bucket.multiplicity != 1).sum()) for bucket in items.buckets)
    if n_radicals:
        raise UnsupportedChargeError(
            f"recipe {recipe.name}: {n_radicals} of {len(items)} items are open-shell; the model does not see the spin "
            "and would mix them with singlets: leave them out of the stores"
        )
    n_ions = sum(int((bucket.charge != 0).sum()) for bucket in items.buckets)
    if n_ions and not recipe.encoder.charged:
        raise UnsupportedChargeError(
            f"recipe {recipe.name}: {n_ions} of {len(items)} items are charged, which the model would mix with neutral "
            "ones; set encoder.charged = true, or leave them out of the stores"
        )
    if trains(recipe.loss, "energies"):
        for level in items.levels:
            if has_energies(items, level):
                check_energies(items, level)
    for term in active_terms(recipe.loss):
        if not any(LABEL_KINDS[term.needs](bucket).any() for bucket in items.buckets):
            weight = getattr(recipe.loss, term.name)
            raise LabelError(
                f"recipe {recipe.name}: loss.{term.name} = {weight}, but the data have no {term.needs}; "
                "add such data or set it to 0"
            )


def check_teachers(recipe: Recipe, items: Items, known: Collection[str]) -> None:
    """Refuses consistency with, and guidance by, an energy whose derivative nothing has trained.

    Args:
        recipe: the recipe.
        items: data of the recipe.
        known: levels of the checkpoints that the training starts from.

    Raises:
        LabelError: names the term and the level.
    """
    trained = set(known)
    if recipe.loss.forces > 0 or recipe.loss.displacement > 0:
        with_forces = [bucket.level[bucket.forces[:, 0].isfinite().all(dim=1)] for bucket in items.buckets]
        trained |= {items.levels[index] for index in torch.cat(with_forces).unique().tolist()}
    of_minima = torch.cat([bucket.level[bucket.is_minimum] for bucket in items.buckets]).unique().tolist()
    levels_of_minima = {items.levels[index] for index in of_minima}
    for term, section in (("optimality", recipe.optimality), ("score", recipe.score)):
        if section is None or getattr(recipe.loss, term) == 0:
            continue
        untaught = sorted(({section.level} if section.level else levels_of_minima) - trained)
        if untaught:
            raise LabelError(
                f"recipe {recipe.name}: level {', '.join(untaught)} is to teach loss.{term}, but no force trains it "
                "here and no checkpoint of start_from has it; add force labels and loss.forces, or a trained checkpoint"
            )
    if recipe.structure is not None and recipe.structure.guided and trains(recipe.loss, "structures"):
        untaught = sorted(levels_of_minima - trained)
        if untaught:
            raise LabelError(
                f"recipe {recipe.name}: the forces of level {', '.join(untaught)} are to guide the structure network, "
                "but no force trains them here and no checkpoint of start_from has them; add one, or unset "
                "structure.guided"
            )

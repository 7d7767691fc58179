"""Table of the loss terms, for the loss itself, the checks before a training, and the validation."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

import torch
from torch import Tensor

from physcon_ase.data.loader import Bucket
from physcon_ase.data.sample import LabelledBatch, select
from physcon_ase.model.physcon import PhysCon
from physcon_ase.model.structure import Denoiser
from physcon_ase.training.losses.asteroid import score_matching_loss
from physcon_ase.training.losses.consistency import optimality_loss, score_loss
from physcon_ase.training.losses.displacement import displacement_loss
from physcon_ase.training.losses.multitask import (
    BatchPrediction,
    charge_loss,
    energy_loss,
    force_loss,
    predict,
    relative_energy_loss,
    relative_force_loss,
    total_charge_loss,
)
from physcon_ase.training.losses.structure import denoising_loss, refinement_loss
from physcon_ase.training.recipe import LossRecipe, Recipe


@dataclass(frozen=True)
class Step:
    """One training step: a batch, and what several terms need of it."""

    model: PhysCon
    """The model in training."""
    labelled: LabelledBatch
    """The batch."""
    recipe: Recipe
    """Settings of the terms."""
    generator: torch.Generator
    """Source of all noise."""

    @functools.cached_property
    def prediction(self) -> BatchPrediction:
        """Energies, charges and, if a term needs them, forces, from one pass through the energy network."""
        asked = {term.name for term in active_terms(self.recipe.loss)}
        return predict(
            self.model,
            self.labelled,
            create_graph=True,
            forces=not asked.isdisjoint(("forces", "relative_forces", "displacement")),
            direct_forces="direct_forces" in asked,
        )

    @functools.cached_property
    def forces(self) -> Tensor:
        """Derivative of the energies [eV/Å]."""
        assert self.prediction.forces is not None
        return self.prediction.forces

    @functools.cached_property
    def minima(self) -> LabelledBatch:
        """Targets of the structure task."""
        return select(self.labelled, self.labelled.is_minimum)

    @functools.cached_property
    def denoiser(self) -> Denoiser:
        """The structure network at the level of each minimum."""
        return self.model.denoiser_at(self.minima.level)


@dataclass(frozen=True)
class Term:
    """One term of the loss; its weight is the field of `LossRecipe` with its name."""

    name: str
    """Name in recipes and logs."""
    needs: str
    """Kind of label without which the term is 0, a key of `LABEL_KINDS`."""
    trains: Literal["energies", "structures"]
    """The task that the term trains."""
    compute: Callable[[Step], Tensor]
    """The term of weight 1."""


def _direct_forces(step: Step) -> Tensor:
    assert step.prediction.direct_forces is not None
    return force_loss(step.prediction.direct_forces, step.labelled)


def _score_matching(step: Step) -> Tensor:
    assert step.recipe.asteroid is not None
    unlabelled = select(step.labelled, ~step.labelled.has_forces)
    if len(unlabelled) == 0:
        return _nothing(step)
    energy_fn = step.model.energy_fn(unlabelled.level)
    return score_matching_loss(energy_fn, unlabelled.batch, step.recipe.asteroid.kt, generator=step.generator)


def _structure(step: Step) -> Tensor:
    assert step.recipe.structure is not None
    return denoising_loss(step.denoiser, step.minima, step.recipe.structure, generator=step.generator)


def _refinement(step: Step) -> Tensor:
    return refinement_loss(step.denoiser, step.minima, generator=step.generator)


def _optimality(step: Step) -> Tensor:
    recipe = step.recipe.optimality
    assert recipe is not None
    teacher = step.model.energy_fn(recipe.level or step.minima.level)
    return optimality_loss(step.denoiser, teacher, step.minima, recipe, generator=step.generator)


def _score(step: Step) -> Tensor:
    recipe = step.recipe.score
    assert recipe is not None
    teacher = step.model.energy_fn(recipe.level or step.minima.level)
    return score_loss(step.denoiser, teacher, step.minima, recipe, generator=step.generator)


def _of_minima(compute: Callable[[Step], Tensor]) -> Callable[[Step], Tensor]:
    """A term of the structure task, 0 for a batch without minima."""
    return lambda step: compute(step) if len(step.minima) else _nothing(step)


def _nothing(step: Step) -> Tensor:
    return step.labelled.batch.positions.new_zeros(())


TERMS: Final = (
    Term("energy", "energy label", "energies", lambda step: energy_loss(step.prediction, step.labelled)),
    Term(
        "relative_energy",
        "energy label",
        "energies",
        lambda step: relative_energy_loss(step.prediction, step.labelled),
    ),
    Term("forces", "force label", "energies", lambda step: force_loss(step.forces, step.labelled)),
    Term(
        "relative_forces",
        "force label",
        "energies",
        lambda step: relative_force_loss(step.forces, step.labelled),
    ),
    Term("displacement", "force label", "energies", lambda step: displacement_loss(step.forces, step.labelled)),
    Term("charges", "label of partial charges", "energies", lambda step: charge_loss(step.prediction, step.labelled)),
    Term(
        "total_charge",
        "geometry",
        "energies",
        lambda step: total_charge_loss(step.prediction, step.labelled),
    ),
    Term("direct_forces", "force label", "energies", _direct_forces),
    Term("score_matching", "geometry without force labels", "energies", _score_matching),
    Term("structure", "minimum", "structures", _of_minima(_structure)),
    Term("refinement", "minimum", "structures", _of_minima(_refinement)),
    Term("optimality", "minimum", "structures", _of_minima(_optimality)),
    Term("score", "minimum", "structures", _of_minima(_score)),
)
"""All terms, in the order in which they draw their noise."""

LABEL_KINDS: Final[dict[str, Callable[[Bucket], Tensor]]] = {
    "energy label": lambda bucket: bucket.energy.isfinite(),
    "force label": lambda bucket: bucket.forces[:, 0].isfinite().all(dim=1),
    "label of partial charges": lambda bucket: bucket.charges.isfinite().all(dim=1),
    "geometry": lambda bucket: bucket.energy.new_ones(len(bucket), dtype=torch.bool),
    "geometry without force labels": lambda bucket: bucket.forces[:, 0].isnan().any(dim=1),
    "minimum": lambda bucket: bucket.is_minimum,
}
"""Whether the items of a bucket have what a term needs [items]."""


def active_terms(weights: LossRecipe) -> tuple[Term, ...]:
    """The terms with a weight."""
    return tuple(term for term in TERMS if getattr(weights, term.name) > 0)


def trains(weights: LossRecipe, task: Literal["energies", "structures"]) -> bool:
    """Whether any term with a weight trains this task."""
    return any(term.trains == task for term in active_terms(weights))


def compute_losses(
    model: PhysCon, labelled: LabelledBatch, recipe: Recipe, *, generator: torch.Generator
) -> dict[str, Tensor]:
    """Weighted terms of a batch by name, those of weight 0 left out; `generator` draws the noise."""
    step = Step(model, labelled, recipe, generator)
    return {term.name: getattr(recipe.loss, term.name) * term.compute(step) for term in active_terms(recipe.loss)}

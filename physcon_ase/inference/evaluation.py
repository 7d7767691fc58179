"""Evaluation of a model for a batch: energies, partial charges, uncertainties, and one of two kinds of forces."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from physcon_ase.batch import Batch, threads_for
from physcon_ase.model.compiled import CompiledModel
from physcon_ase.model.physcon import Outputs, PhysCon


@dataclass(frozen=True)
class Evaluation:
    """What the model gives for the molecules of a batch."""

    energies: Float[Tensor, "molecules slots"]
    """Atomic energies [eV]."""
    forces: Float[Tensor, "molecules slots 3"] | None
    """Forces [eV/Å]; None if not requested."""
    energy_uncertainties: Float[Tensor, " molecules"] | None
    """Uncertainty of the energy [eV]; None if the model is not calibrated."""
    force_uncertainties: Float[Tensor, "molecules slots"] | None
    """Uncertainty of a force component [eV/Å]; None if the model is not calibrated, or without forces."""
    charges: Float[Tensor, "molecules slots"] | None
    """Partial charges [e]; None for a model without charges."""


def conservative_evaluation(model: PhysCon, level: str, batch: Batch, *, with_forces: bool = True) -> Evaluation:
    """Evaluation with forces as the derivative of the energy."""
    with threads_for(batch), torch.no_grad():
        return _with_uncertainties(model, level, batch, model.evaluate(batch, level, forces=with_forces))


def compiled_evaluation(compiled: CompiledModel, level: str, batch: Batch) -> Evaluation:
    """Evaluation with forces as the derivative of the energy, by a compiled program."""
    with threads_for(batch), torch.no_grad():
        return _with_uncertainties(compiled.model, level, batch, compiled.evaluate(batch, level))


def direct_evaluation(model: PhysCon, level: str, batch: Batch, *, with_forces: bool = True) -> Evaluation:
    """Evaluation with the forces of the direct head, without automatic differentiation."""
    with threads_for(batch), torch.inference_mode():
        outputs = model.evaluate(batch, level, direct_forces=True)
    return Evaluation(
        outputs.atomic_energies, outputs.direct_forces if with_forces else None, None, None, outputs.charges
    )


def _with_uncertainties(model: PhysCon, level: str, batch: Batch, outputs: Outputs) -> Evaluation:
    return Evaluation(
        outputs.atomic_energies,
        outputs.forces,
        model.energy_uncertainties(outputs.features, level),
        None if outputs.forces is None else model.force_uncertainties(outputs.features, batch, level),
        outputs.charges,
    )

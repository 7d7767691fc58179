"""Errors of the forces as displacements of an equilibrium structure."""

from dataclasses import replace
from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor

from physcon_ase.data.sample import LabelledBatch
from physcon_ase.training.losses.multitask import force_errors, mean_length
from physcon_ase.valence.internals import are_connected, make_internals
from physcon_ase.valence.model_hessian import TORSION_STIFFNESS, model_hessians, newton_steps

_HUBER_WIDTH: Final = 0.002
"""Displacements [Å] below this count quadratically."""

_TORSION_STIFFNESS: Final = TORSION_STIFFNESS / 2
"""[eV/rad²]; this and the next constant are softer than the optimum for relaxations, and closer to B3LYP. At 60 QM9
minima the length of a step correlates with that of the Hessian of level b3lyp by 0.85 (logarithms); unchanged constants
have 0.80, springs between all pairs of atoms 0.51, and those make steps along the softest modes three to six times too
short."""

_UNIT_TERM: Final = 0.01
"""Force constant [eV/Å²] that holds each atom in its place."""


def displacement_loss(forces: Float[Tensor, "molecules slots 3"], labelled: LabelledBatch) -> Float[Tensor, ""]:
    """Mean length of the Newton steps H⁻¹ (F - F_label) [Å] with a valence force field's Hessian H; 0 without a label.

    Geometries whose atoms are not all connected by bonds, inferred from distances, do not contribute.

    The same error of a force, 10 meV/Å, displaces a bond by 0.3 mÅ and a torsion by 0.1 Å. Stiff modes dominate a loss
    of forces alone.
    """
    batch, errors = labelled.batch, force_errors(forces, labelled)
    with torch.no_grad():
        internals = make_internals(batch)
        hessians = model_hessians(
            batch,
            batch.positions.double(),
            internals,
            torsion_stiffness=_TORSION_STIFFNESS,
            unit_term=_UNIT_TERM,
        )
    steps = newton_steps(errors.double(), hessians)
    # Only the unit term acts on dissociated atoms: their steps would be 100 Å long, without meaning.
    in_one_piece = replace(labelled, weight=labelled.weight * are_connected(batch, internals))
    return mean_length(steps.to(forces.dtype), in_one_piece, _HUBER_WIDTH)

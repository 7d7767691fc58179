"""Errors of the forces, measured by how far they move an equilibrium structure."""

from typing import Final

from jaxtyping import Float
from torch import Tensor

from physcon_ase.data.sample import LabelledBatch
from physcon_ase.model.springs import newton_steps
from physcon_ase.training.losses.multitask import force_errors, mean_length

_HUBER_WIDTH: Final = 0.002
"""Displacements [Å] below this count quadratically."""


def displacement_loss(forces: Float[Tensor, "molecules slots 3"], labelled: LabelledBatch) -> Float[Tensor, ""]:
    """Mean length of the Newton steps H⁻¹ (F - F_label) [Å] with the Hessian H of springs; 0 without a label.

    The error of a force says little about the error of a minimum: the same 10 meV/Å moves a bond by .3 mÅ and a
    torsion by .1 Å. A loss of forces alone is spent on what is stiff.
    """
    return mean_length(newton_steps(force_errors(forces, labelled), labelled.batch), labelled, _HUBER_WIDTH)

"""Forces of any energy function by automatic differentiation."""

import torch
from jaxtyping import Float
from torch import Tensor

from physcon_ase.batch import Batch, EnergyFn, with_positions


def energies_and_forces(
    energy_fn: EnergyFn, batch: Batch, *, create_graph: bool = False
) -> tuple[Float[Tensor, " molecules"], Float[Tensor, "molecules slots 3"]]:
    """Energies [eV] and forces F = -dE/dR [eV/Å] of each molecule.

    Args:
        energy_fn: energies of a batch.
        batch: the molecules; their positions need not require gradients.
        create_graph: whether the forces can be differentiated again (training, Hessians).
    """
    with torch.enable_grad():
        positions = batch.positions
        if not (create_graph and positions.requires_grad):
            positions = positions.detach().requires_grad_()
        energies = energy_fn(with_positions(batch, positions))
        (gradient,) = torch.autograd.grad(energies.sum(), positions, create_graph=create_graph)
    if not create_graph:
        energies = energies.detach()
    return energies, -gradient

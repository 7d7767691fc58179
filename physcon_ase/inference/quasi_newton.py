"""The L-BFGS of batched relaxations as an ASE optimiser of one structure."""

from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.optimize.optimize import Optimizer
from jaxtyping import Float, Int
from torch import Tensor

from physcon_ase.batch import Batch, make_batch
from physcon_ase.errors import NonFinitePositionsError, OverlappingAtomsError
from physcon_ase.inference.constraints import constraints_of
from physcon_ase.relax.driver import MAX_IDLE
from physcon_ase.relax.lbfgs import lbfgs_init, lbfgs_step
from physcon_ase.relax.quasi_newton import QuasiNewtonState
from physcon_ase.valence.internals import make_internals


class StalledError(RuntimeError):
    """No step lowered the energy; the relaxation ends with `RelaxStatus.STALLED`."""


class ModelLBFGS(Optimizer):
    """L-BFGS with the model Hessian at each geometry; steps that raise the energy are rejected (`relax.lbfgs`).

    Constraints `FixAtoms` and dihedral angles of `FixInternals` are respected; see `inference.constraints`.
    """

    def __init__(
        self,
        atoms: Atoms,
        *,
        bonds: Int[np.ndarray, "bonds 2"] | None = None,
        dtype: torch.dtype = torch.float64,
        **options: Any,
    ):
        """Sets up a relaxation.

        Args:
            atoms: the structure, with its calculator.
            bonds: `MolGraph.bonds` for the model Hessian; inferred from covalent radii if not given.
            dtype: precision of the energies of the calculator.
            **options: see `ase.optimize.optimize.Optimizer`.
        """
        super().__init__(atoms, **options)
        self.structure, self.bonds, self.dtype = atoms, bonds, dtype
        self._state: QuasiNewtonState | None = None

    def step(self, gradient: np.ndarray | None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Performs one step; if the energy would increase, the structure is left unchanged.

        Raises:
            StalledError: none of the last `relax.driver.MAX_IDLE` steps lowered the energy.
        """
        if self._state is None:
            self._state = self._initial_state()
        self._state = lbfgs_step(self._state, self._energy_and_forces)
        self.structure.positions = self._state.point.positions[0].numpy()
        if self._state.idle.item() >= MAX_IDLE:
            raise StalledError(f"{MAX_IDLE} successive steps did not lower the energy")

    def _initial_state(self) -> QuasiNewtonState:
        batch = make_batch([self.structure.numbers], [self.structure.positions], dtype=torch.float64)
        constraints = constraints_of([self.structure], batch)
        return lbfgs_init(self._energy_and_forces, batch, make_internals(batch, [self.bonds]), constraints)

    def _energy_and_forces(self, batch: Batch) -> tuple[Float[Tensor, " one"], Float[Tensor, "one atoms 3"]]:
        """Energy [eV] and forces [eV/Å]; NaN for geometries that the calculator refuses."""
        self.structure.positions = batch.positions[0].numpy()
        energy, forces = np.nan, np.full_like(self.structure.positions, np.nan)
        try:
            energy = float(self.structure.get_potential_energy())
            forces = self.structure.get_forces(apply_constraint=False)
        except (NonFinitePositionsError, OverlappingAtomsError):
            pass
        return torch.tensor([energy], dtype=self.dtype), torch.as_tensor(forces, dtype=self.dtype)[None]

"""Molecular dynamics with multiple time steps."""

from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator
from ase.md.md import MolecularDynamics

from physcon_ase.errors import PhysConError


class MultipleTimeStepping(MolecularDynamics):
    """NVE dynamics with `atoms.calc` as accurate and a second calculator as fast forces (r-RESPA).

    Each step consists of `every` velocity Verlet steps with the fast forces between two half-step kicks with the
    difference of accurate and fast forces. The integrator is reversible and symplectic and conserves the energy of
    `atoms.calc`. The fast forces may be non-conservative, but this leads to energy drift for large `every`.

        dynamics = MultipleTimeStepping(atoms, 0.5 * units.fs, fast=direct_calculator, every=8)
        dynamics.run(1000)                                                             # 4 ps

    Tuckerman, Berne and Martyna 1992, doi 10.1063/1.463137; with direct forces of a network as fast forces: Bigi,
    Langer and Ceriotti, ICML 2025, doi 10.48550/arXiv.2412.11569.
    """

    def __init__(self, atoms: Atoms, timestep: float, *, fast: Calculator, every: int = 8, **kwargs):
        """Initialises the integrator.

        Args:
            atoms: molecule with the accurate calculator and without constraints.
            timestep: time step of the fast forces in ASE units; `MolecularDynamics.dt` is `every` times this step.
            fast: calculator of the fast forces.
            every: number of fast steps per accurate evaluation; 1 is velocity Verlet with the accurate forces.
            **kwargs: arguments of `ase.md.md.MolecularDynamics`, such as trajectory and logfile.

        Raises:
            PhysConError: `every` is below 1, or the atoms have constraints, which are not supported.
        """
        if every < 1:
            raise PhysConError(f"every is {every}; the number of fast steps per accurate step must be 1 or larger")
        if atoms.constraints:
            raise PhysConError(
                "multiple time stepping supports no constraints; remove them, or use ase.md.VelocityVerlet"
            )
        super().__init__(atoms, every * timestep, **kwargs)
        self.every = every
        self._short = timestep
        self._fast_atoms = atoms.copy()
        self._fast_atoms.calc = fast

    def step(self, forces: Any = None) -> Any:
        """Performs one accurate step; takes and returns the accurate forces [eV/Å]."""
        atoms = self.atoms
        forces = atoms.get_forces(md=True) if forces is None else forces
        positions, fast = atoms.get_positions(), self._fast_forces(atoms.get_positions())
        momenta = atoms.get_momenta() + 0.5 * self.dt * (forces - fast)
        for _ in range(self.every):
            momenta += 0.5 * self._short * fast
            positions += self._short * momenta / self.masses
            fast = self._fast_forces(positions)
            momenta += 0.5 * self._short * fast
        atoms.set_positions(positions)
        forces = atoms.get_forces(md=True)
        atoms.set_momenta(momenta + 0.5 * self.dt * (forces - fast))
        return forces

    def _fast_forces(self, positions: np.ndarray) -> np.ndarray:
        self._fast_atoms.set_positions(positions)
        return self._fast_atoms.get_forces()

"""Molecular dynamics that asks the accurate forces only now and then."""

from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator
from ase.md.md import MolecularDynamics

from physcon_ase.errors import PhysConError


class MultipleTimeStepping(MolecularDynamics):
    """NVE dynamics of `atoms.calc`, driven by cheap forces in between: reversible and symplectic (r-RESPA).

    A step of this integrator is `every` steps of velocity Verlet with the fast calculator, between two kicks with the
    difference between the accurate and the fast forces. The energy that is conserved is that of `atoms.calc`; the fast
    forces need not derive from an energy, but what they lack in symmetry comes back as drift when `every` is large.

        dynamics = MultipleTimeStepping(atoms, 0.5 * units.fs, fast=direct_calculator, every=8)
        dynamics.run(1000)                                                             # 4 ps

    Tuckerman, Berne and Martyna 1992, doi 10.1063/1.463137; with direct forces of a network as the fast ones: Bigi,
    Langer and Ceriotti, ICML 2025, doi 10.48550/arXiv.2412.11569.
    """

    def __init__(self, atoms: Atoms, timestep: float, *, fast: Calculator, every: int = 8, **kwargs):
        """Prepares a trajectory.

        Args:
            atoms: with the accurate calculator and without constraints.
            timestep: of the fast forces, in ASE's unit; `MolecularDynamics.dt` is `every` times that.
            fast: calculator of the fast forces.
            every: fast steps per accurate evaluation, 1 for plain velocity Verlet with the accurate forces.
            **kwargs: of `ase.md.md.MolecularDynamics`, such as trajectory and logfile.

        Raises:
            PhysConError: `every` below 1, or atoms with constraints, which the kicks do not obey.
        """
        if every < 1:
            raise PhysConError(f"every is {every}; give the number of fast steps per accurate one, 1 or more")
        if atoms.constraints:
            raise PhysConError("multiple time stepping knows no constraints; remove them, or use ase.md.VelocityVerlet")
        super().__init__(atoms, every * timestep, **kwargs)
        self.every = every
        self._short = timestep
        self._fast_atoms = atoms.copy()
        self._fast_atoms.calc = fast

    def step(self, forces: Any = None) -> Any:
        """One accurate step; takes and returns the accurate forces [eV/Å]."""
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

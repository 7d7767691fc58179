import numpy as np
import pytest
from ase import Atoms, units
from ase.calculators.calculator import Calculator, all_changes
from ase.constraints import FixAtoms
from ase.md.verlet import VelocityVerlet

from physcon_ase.errors import PhysConError
from physcon_ase.inference.dynamics import MultipleTimeStepping

STEP = 0.2 * units.fs


class Springs(Calculator):
    """Springs between all pairs of atoms, stiff in one pair; `swirl` adds a force that has no energy."""

    implemented_properties = ("energy", "forces")

    def __init__(self, stiffness: float = 2.0, swirl: float = 0.0):
        super().__init__()
        self.stiffness, self.swirl, self.calls = stiffness, swirl, 0

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        self.calls += 1
        place = self.atoms.get_positions()
        vectors = place[:, None] - place[None]
        lengths = np.linalg.norm(vectors, axis=2) + np.eye(len(place))
        constants = np.full_like(lengths, self.stiffness)
        constants[0, 1] = constants[1, 0] = 30.0
        stretch = (lengths - 1.0) * (1 - np.eye(len(place)))
        forces = -(constants * stretch / lengths)[..., None] * vectors
        turned = np.cross([0.0, 0.0, 1.0], place - place.mean(axis=0))
        self.results = {
            "energy": 0.25 * (constants * stretch**2).sum(),
            "forces": forces.sum(axis=1) + self.swirl * turned,
        }


def molecule() -> Atoms:
    atoms = Atoms("CHO", [[0.0, 0, 0], [1.1, 0, 0], [0.2, 1.0, 0.1]])
    atoms.set_velocities(np.random.default_rng(0).normal(size=(3, 3)) * 0.02)
    atoms.calc = Springs()
    return atoms


def total_energies(dynamics, atoms: Atoms, n_steps: int) -> np.ndarray:
    found = []
    for _ in range(n_steps):
        dynamics.run(1)
        found.append(atoms.get_total_energy())
    return np.array(found)


def test_with_one_fast_step_it_is_velocity_verlet() -> None:
    one, other = molecule(), molecule()
    MultipleTimeStepping(one, STEP, fast=Springs(1.0, swirl=0.3), every=1).run(50)
    VelocityVerlet(other, STEP).run(50)
    np.testing.assert_allclose(one.positions, other.positions, atol=1e-10)
    np.testing.assert_allclose(one.get_momenta(), other.get_momenta(), atol=1e-10)


def test_the_accurate_energy_is_conserved_with_few_accurate_forces() -> None:
    atoms, fast = molecule(), Springs(1.6)
    dynamics = MultipleTimeStepping(atoms, STEP, fast=fast, every=8)
    energies = total_energies(dynamics, atoms, 200)
    assert np.ptp(energies) < 0.02 * atoms.get_kinetic_energy()
    assert atoms.calc.calls < 210
    assert fast.calls >= 8 * 200
    assert dynamics.get_time() == pytest.approx(200 * 8 * STEP)


def test_time_can_be_turned_back() -> None:
    atoms = molecule()
    before = atoms.positions.copy()
    dynamics = MultipleTimeStepping(atoms, STEP, fast=Springs(1.6), every=5)
    dynamics.run(40)
    assert np.abs(atoms.positions - before).max() > 0.01
    atoms.set_momenta(-atoms.get_momenta())
    MultipleTimeStepping(atoms, STEP, fast=Springs(1.6), every=5).run(40)
    np.testing.assert_allclose(atoms.positions, before, atol=1e-9)


def test_forces_without_an_energy_do_less_harm_the_oftener_they_are_mended() -> None:
    def drift(every: int) -> float:
        atoms = molecule()
        n_steps = 1600 // every
        energies = total_energies(
            MultipleTimeStepping(atoms, STEP, fast=Springs(2.0, swirl=0.2), every=every), atoms, n_steps
        )
        return float(np.ptp(energies))

    assert drift(2) < drift(32)


def test_settings_that_make_no_sense_are_refused() -> None:
    with pytest.raises(PhysConError, match="every is 0"):
        MultipleTimeStepping(molecule(), STEP, fast=Springs(), every=0)
    atoms = molecule()
    atoms.set_constraint(FixAtoms([0]))
    with pytest.raises(PhysConError, match="no constraints"):
        MultipleTimeStepping(atoms, STEP, fast=Springs())

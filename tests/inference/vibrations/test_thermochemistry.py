import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from ase.units import J, kB, mol

from physcon_ase.inference.vibrations.thermochemistry import Thermochemistry, thermochemistry

WATER = np.array([1594.7, 3657.1, 3755.9])
"""Fundamental frequencies [1/cm] of water."""


def of_water(frequencies: np.ndarray = WATER, **changes: float) -> Thermochemistry:
    settings = {"temperature": 298.15, "pressure": 1e5, "symmetry_number": 2} | changes
    return thermochemistry(molecule("H2O"), frequencies, -10.0, origin_of_symmetry="stated", **settings)  # pyright: ignore


def test_the_entropy_of_water_is_that_of_the_tables() -> None:
    # NIST-JANAF: 188.834 J/(mol K) and H(298.15 K) - H(0 K) = 9.904 kJ/mol at 1 bar
    found = of_water()
    assert found.entropy * mol / J == pytest.approx(188.83, abs=0.2)
    thermal = found.enthalpy - found.electronic_energy - found.zero_point_energy
    assert thermal * mol / (1000 * J) == pytest.approx(9.904, abs=0.03)  # a rigid rotor: 4 RT and the vibrations
    assert found.gibbs_energy == pytest.approx(found.enthalpy - 298.15 * found.entropy)
    assert found.quasi_rrho_entropy == pytest.approx(found.entropy, abs=1e-8)  # no soft modes


def test_pressure_symmetry_and_scale_change_what_they_should() -> None:
    one = of_water()
    assert of_water(pressure=1e6).entropy - one.entropy == pytest.approx(-kB * np.log(10))
    assert of_water(symmetry_number=1).entropy - one.entropy == pytest.approx(kB * np.log(2))
    assert of_water(scale=0.9).zero_point_energy == pytest.approx(0.9 * one.zero_point_energy)
    assert "298.15 K and 100000 Pa" in one.conventions
    assert "symmetry number 2 (stated)" in one.conventions
    assert "cutoff 100 1/cm" in one.conventions


def test_a_soft_mode_is_a_rotor_in_the_quasi_rrho_entropy_and_an_imaginary_one_counts_nowhere() -> None:
    soft = of_water(np.array([2.0, 3657.1, 3755.9]))
    assert soft.quasi_rrho_entropy < soft.entropy - kB
    assert soft.quasi_rrho_gibbs_energy > soft.gibbs_energy
    imaginary = of_water(np.array([-300.0, 3657.1, 3755.9]))
    assert imaginary.zero_point_energy == pytest.approx(of_water(WATER[1:]).zero_point_energy, rel=1e-3)
    assert "1 imaginary mode left out" in imaginary.conventions


@pytest.mark.parametrize(
    ("atoms", "frequencies", "expected"),
    [
        (Atoms("Ar"), [], 154.85),
        (molecule("CO2"), [667.4, 667.4, 1333.0, 2349.0], 213.8),
    ],
)
def test_atoms_and_linear_molecules_have_the_entropies_of_the_tables(
    atoms: Atoms, frequencies: list[float], expected: float
) -> None:
    found = thermochemistry(
        atoms,
        np.array(frequencies),
        0.0,
        temperature=298.15,
        pressure=1e5,
        symmetry_number=1 if len(atoms) == 1 else 2,
        origin_of_symmetry="stated",
    )
    assert found.entropy * mol / J == pytest.approx(expected, abs=0.3)  # NIST-JANAF, J/(mol K)


def test_a_cold_gas_overflows_nowhere() -> None:
    assert of_water(temperature=1.0).enthalpy == pytest.approx(-10 + of_water().zero_point_energy, abs=1e-3)

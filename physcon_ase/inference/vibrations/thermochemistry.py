"""Thermochemistry of an ideal gas of molecules, with the classes of ASE."""

from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from ase import Atoms
from ase.thermochemistry import IdealGasThermo, MSRRHOThermo
from ase.units import invcm
from jaxtyping import Float

from physcon_ase.plurals import counted
from physcon_ase.valence.rigid import is_linear

CUTOFF: Final = 100.0
"""Default frequency [1/cm] below which modes count as rotors in the quasi-RRHO entropy, as proposed by Grimme."""


@dataclass(frozen=True)
class Thermochemistry:
    """Thermochemistry of one molecule in the ideal gas; energies include the electronic energy."""

    temperature: float
    """Temperature [K]."""
    pressure: float
    """Pressure [Pa] of the standard state."""
    symmetry_number: int
    """Rotational symmetry number σ."""
    electronic_energy: float
    """Energy [eV] of the geometry at the level of theory."""
    zero_point_energy: float
    """Harmonic zero-point energy [eV], half of the sum of the scaled frequencies."""
    enthalpy: float
    """Enthalpy H [eV]: electronic energy, zero-point energy, thermal energy and kT."""
    entropy: float
    """Entropy S [eV/K] of the rigid rotor and harmonic oscillator."""
    gibbs_energy: float
    """Gibbs energy G = H - TS [eV] of the rigid rotor and harmonic oscillator."""
    quasi_rrho_entropy: float
    """Entropy [eV/K] with modes of low frequency as rotors."""
    quasi_rrho_gibbs_energy: float
    """Gibbs energy [eV] with this entropy."""
    conventions: str
    """Approximations, standard state, symmetry number, cutoff, scaling and masses in words."""


def thermochemistry(
    atoms: Atoms,
    frequencies: Float[np.ndarray, " modes"],
    electronic_energy: float,
    *,
    temperature: float,
    pressure: float,
    symmetry_number: int,
    origin_of_symmetry: str,
    scale: float = 1.0,
    cutoff: float = CUTOFF,
) -> Thermochemistry:
    """Thermochemistry of a closed-shell molecule; imaginary modes do not contribute.

    RRHO: `ase.thermochemistry.IdealGasThermo`. Quasi-RRHO: `ase.thermochemistry.MSRRHOThermo`, in which the entropy of
    each mode is interpolated between those of an oscillator and of a rotor (Grimme 2012, doi 10.1002/chem.201200497).

    Args:
        atoms: the geometry, with its masses.
        frequencies: unscaled harmonic frequencies [1/cm], imaginary ones negative.
        electronic_energy: energy [eV] of the geometry.
        temperature: temperature [K].
        pressure: pressure [Pa].
        symmetry_number: rotational symmetry number.
        origin_of_symmetry: origin of the symmetry number, for `Thermochemistry.conventions`.
        scale: factor of the frequencies.
        cutoff: frequency [1/cm] of the interpolation.
    """
    energies = scale * frequencies[frequencies > 0] * invcm
    with np.errstate(over="ignore"):  # exp(hν/kT) of cold molecules; its inverse vanishes
        enthalpy, entropy, quasi_entropy, zero_point_energy = _of_gas(
            atoms, energies, electronic_energy, temperature, pressure, symmetry_number, cutoff
        )
    return Thermochemistry(
        temperature=temperature,
        pressure=pressure,
        symmetry_number=symmetry_number,
        electronic_energy=electronic_energy,
        zero_point_energy=zero_point_energy,
        enthalpy=enthalpy,
        entropy=entropy,
        gibbs_energy=enthalpy - temperature * entropy,
        quasi_rrho_entropy=quasi_entropy,
        quasi_rrho_gibbs_energy=enthalpy - temperature * quasi_entropy,
        conventions=(
            f"ideal gas at {temperature:g} K and {pressure:g} Pa, singlet, rigid rotor and harmonic oscillator "
            f"(ase.thermochemistry.IdealGasThermo); symmetry number {symmetry_number} ({origin_of_symmetry}); "
            f"frequencies times {scale:g}, {counted(int((frequencies <= 0).sum()), 'imaginary mode')} left out; "
            "quasi-RRHO entropy of Grimme, doi 10.1002/chem.201200497 (ase.thermochemistry.MSRRHOThermo), with cutoff "
            f"{cutoff:g} 1/cm and the mean moment of inertia of the molecule; standard atomic weights unless isotopes "
            "are given"
        ),
    )


def _of_gas(
    atoms: Atoms,
    energies: Float[np.ndarray, " modes"],
    electronic_energy: float,
    temperature: float,
    pressure: float,
    symmetry_number: int,
    cutoff: float,
) -> tuple[float, float, float, float]:
    """Enthalpy [eV], entropies [eV/K] of RRHO and quasi-RRHO, and zero-point energy [eV]."""
    gas = IdealGasThermo(
        energies.tolist(),
        _shape(atoms),
        potentialenergy=electronic_energy,
        atoms=atoms,
        symmetrynumber=symmetry_number,
        spin=0,
        vib_selection="all",
    )
    enthalpy = gas.get_enthalpy(temperature, verbose=False)
    entropy = quasi_entropy = gas.get_entropy(temperature, pressure, verbose=False)
    if len(energies):
        rotors = MSRRHOThermo(energies.tolist(), atoms, tau=cutoff)
        quasi_entropy += rotors.get_entropy(temperature, verbose=False)
        quasi_entropy -= float(np.sum(gas.get_vib_entropy_contribution(temperature)))
    return float(enthalpy), float(entropy), float(quasi_entropy), float(gas.get_ZPE_correction())


def _shape(atoms: Atoms) -> Literal["monatomic", "linear", "nonlinear"]:
    if len(atoms) == 1:
        return "monatomic"
    return "linear" if is_linear(atoms.positions) else "nonlinear"

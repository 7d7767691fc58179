"""The molecule of a geometry: its graph, its SMILES, and the key that decides its split."""

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Integer

from physcon_ase.chem.graph import MolGraph, known_bonds, make_graph
from physcon_ase.chem.perceive import graph_from_geometry
from physcon_ase.chem.smiles import atoms_of_smiles, canonical_key, canonical_smiles, charge_of_smiles
from physcon_ase.data.split import key_hash
from physcon_ase.errors import PhysConError, SpinParityError, UnsupportedChargeError
from physcon_ase.plurals import counted
from physcon_ase.units import CHEMICAL_SYMBOLS

_UNPERCEIVED = "formula and name, perception failed"


@dataclass(frozen=True)
class GeometryIdentity:
    """The molecule of a geometry."""

    graph: MolGraph
    """The molecule; without bonds if they cannot be perceived."""
    smiles: str
    """SMILES, empty if unknown."""
    key_hash: int
    """`split.key_hash` of the SMILES, or of formula and name without a SMILES."""
    found_by: str
    """How the molecule was determined, for reports."""


def identify_geometry(
    atomic_numbers: Integer[np.ndarray, " atoms"],
    positions: Float[np.ndarray, "atoms 3"],
    *,
    charge: int = 0,
    multiplicity: int = 1,
    smiles: str = "",
    name: str = "",
) -> GeometryIdentity:
    """Perceives the bonds of a geometry; without bonds the molecule is identified by formula and name.

    Args:
        atomic_numbers: atomic number of each atom.
        positions: positions [Å].
        charge: total charge [e].
        multiplicity: spin multiplicity 2S + 1.
        smiles: SMILES if known; it determines the split.
        name: name if known.

    Raises:
        PhysConError: the SMILES is invalid or has other atoms, or the charge or multiplicity contradicts the SMILES or
            the electrons.
    """
    _check_state(atomic_numbers, charge, multiplicity, smiles)
    if smiles:
        check_composition(atomic_numbers, smiles)
    graph, found_by = _graph_of(atomic_numbers, positions, charge, multiplicity)
    if smiles:
        return GeometryIdentity(graph, smiles, key_hash(canonical_key(smiles)), "given SMILES")
    if known_bonds(graph) is not None:
        smiles = canonical_smiles(graph)
        return GeometryIdentity(graph, smiles, key_hash(canonical_key(smiles)), found_by)
    return GeometryIdentity(graph, "", key_hash(f"{formula(atomic_numbers)} {name}".strip()), _UNPERCEIVED)


def check_composition(atomic_numbers: Integer[np.ndarray, " atoms"], smiles: str) -> None:
    """Checks that a geometry consists of the atoms of its SMILES, in any order.

    Raises:
        PhysConError: the compositions differ, or the SMILES is invalid.
    """
    found, expected = formula(atomic_numbers), formula(atoms_of_smiles(smiles))
    if found != expected:
        raise PhysConError(
            f"the atoms are {found}, but those of the SMILES {smiles!r} are {expected}: correct one of them"
        )


def _check_state(atomic_numbers: np.ndarray, charge: int, multiplicity: int, smiles: str) -> None:
    expected = charge_of_smiles(smiles) if smiles else charge
    if charge != expected:
        raise UnsupportedChargeError(
            f"the charge is {charge:+d}, but that of the SMILES {smiles!r} is {expected:+d}: correct one of them"
        )
    n_electrons = int(np.sum(atomic_numbers)) - charge
    if not 1 <= multiplicity <= n_electrons + 1 or (n_electrons + multiplicity) % 2 == 0:
        raise SpinParityError(
            f"{counted(n_electrons, 'electron')} (charge {charge:+d}) cannot have spin multiplicity {multiplicity}; it "
            f"must be one of {'1, 3, 5' if n_electrons % 2 == 0 else '2, 4, 6'}, ...: correct the charge, the spin (2S "
            "+ 1) or the atoms"
        )


def _graph_of(
    atomic_numbers: np.ndarray, positions: np.ndarray, charge: int, multiplicity: int
) -> tuple[MolGraph, str]:
    try:
        graph = graph_from_geometry(atomic_numbers, positions, charge)
    except PhysConError:  # energies do not require bonds
        # the charge is assigned to the first atom, since its location is unknown without bonds
        charges = [charge, *[0] * (len(atomic_numbers) - 1)][: len(atomic_numbers)]
        bare = make_graph(atomic_numbers, np.zeros((0, 2)), np.zeros(0), charges, multiplicity=multiplicity)
        return bare, _UNPERCEIVED
    if multiplicity != 1:  # perception assumes closed shells
        graph = replace(graph, multiplicity=multiplicity)
    return graph, "SMILES perceived from the geometry"


def formula(atomic_numbers: np.ndarray) -> str:
    """Composition, such as H4C1, in the order of atomic numbers; part of the keys of nameless geometries."""
    numbers, counts = np.unique(atomic_numbers, return_counts=True)
    return "".join(f"{CHEMICAL_SYMBOLS[int(z)]}{count}" for z, count in zip(numbers, counts, strict=True))

"""Reasons to doubt a prediction.

Atoms unlike those of the training molecules, a large estimated error, a proton that would move in the gas phase, an
antiaromatic ring, more than two cumulated double bonds, or a minimum with an unusually long bond.
"""

from collections.abc import Sequence
from itertools import combinations
from typing import Final

import numpy as np
from jaxtyping import Float, Int, Integer

from physcon_ase.chem.environments import covalent_radii, environment_hashes, environment_names, small_molecule_hashes
from physcon_ase.chem.graph import MolGraph
from physcon_ase.model.physcon import PhysCon
from physcon_ase.units import CHEMICAL_SYMBOLS

_SHOWN: Final = 3
"""Maximum number of environments named in a reason."""

FEWEST: Final = 5
"""Minimum number of training molecules with an environment for it to be known. Of unusual molecules that are
"uncertain", most of them for this reason, 37 % have energy errors above 0.3 eV, of the others 16 %
(`benchmarks/hard.py`); 4 % of drug-like molecules are below it (`benchmarks/many.py`)."""

_DONORS: Final = (7, 8, 15, 16)
"""Atomic numbers of N, O, P and S, whose protons move easily."""

LONGEST: Final = 1.2
"""Largest usual ratio of a bond length to the sum of covalent radii: no bond of 8,000 drug-like DFT minima is above it,
and one in each of 2 of 8,000 minima of QM9."""

_DOUBLE: Final = 2
"""`MolGraph.bond_orders` of a double bond that is not aromatic."""

_NEGLIGIBLE: Final = 0.11
"""Estimated error [eV] of the energy up to which there is no reason to doubt it; chosen such that no result with an
error above 1 eV is "ok" in `benchmarks/hard.py`."""


def doubts_of(
    model: PhysCon,
    level: str,
    atomic_numbers: Integer[np.ndarray, " atoms"],
    bonds: Int[np.ndarray, "bonds 2"],
    energy_uncertainty: float | None,
    graph: MolGraph | None = None,
    minimum: Float[np.ndarray, "atoms 3"] | None = None,
) -> tuple[str, ...]:
    """Reasons to doubt the energy of a geometry; empty if there are none.

    Args:
        model: the model.
        level: level of theory.
        atomic_numbers: atomic number of each atom.
        bonds: atom indices of its bonds.
        energy_uncertainty: estimated standard deviation [eV] of the error of the energy; None if the checkpoint is not
            calibrated.
        graph: the molecular graph; None if the formal charges are unknown.
        minimum: positions [Å] of a relaxed geometry; None for other geometries, whose bonds may be long.
    """
    found = [] if graph is None else doubts_about(graph)
    if rare := rare_environments(model, level, atomic_numbers, bonds):
        more = f" and {len(rare) - _SHOWN} more" if len(rare) > _SHOWN else ""
        found.append(
            f"fewer than {FEWEST} training molecules have {'; '.join(rare[:_SHOWN])}{more}: compare with another method"
        )
    limit = max(model.uncertainty_limit(level, len(atomic_numbers)), _NEGLIGIBLE)
    if energy_uncertainty is not None and energy_uncertainty > limit:
        found.append(
            f"the estimated error of the energy, {energy_uncertainty:.2f} eV, is above {limit:.2f} eV: compare with "
            "another method"
        )
    if minimum is not None and (long := long_bonds(atomic_numbers, bonds, minimum)):
        found.append(f"unusually long bonds, {', '.join(long[:_SHOWN])}: compare with another method")
    return tuple(found)


def unfit_charge(charge: int) -> str:
    """Reason to doubt a geometry for which no bonds were found."""
    return f"no bonds fit the charge {charge:+d}: state another one, or check the geometry"


def doubts_about(graph: MolGraph) -> list[str]:
    """Reasons to doubt the energy of any geometry of a molecule."""
    found = []
    if (pair := transferable_proton(graph)) is not None:
        donor, acceptor = _named(graph, pair)
        found.append(
            f"a proton of the cationic {donor} would move to the anionic {acceptor} in the gas phase: use the neutral "
            "form"
        )
    if (ring := cyclobutadiene_ring(graph)) is not None:
        found.append(f"the ring {'-'.join(_named(graph, ring))} is antiaromatic: compare with another method")
    if (chain := cumulene(graph)) is not None:
        found.append(
            f"the order of the energies of the planar and the twisted {'='.join(_named(graph, chain))} is unreliable, "
            "and whether it is cis or trans is not checked: compare with another method"
        )
    return found


def _named(graph: MolGraph, atoms: Sequence[int]) -> list[str]:
    return [f"{CHEMICAL_SYMBOLS[graph.atomic_numbers[atom]]}{atom}" for atom in atoms]


def rare_environments(
    model: PhysCon, level: str, atomic_numbers: Integer[np.ndarray, " atoms"], bonds: Int[np.ndarray, "bonds 2"]
) -> list[str]:
    """Environments of atoms that occur in fewer than `FEWEST` training molecules; empty without a table.

    Small molecules that are training molecules of the level have none.
    """
    if model.environments is None:
        return []
    is_rare = model.environments.n_molecules(environment_hashes(atomic_numbers, bonds)) < FEWEST
    is_rare &= model.environments.n_molecules(small_molecule_hashes(atomic_numbers, bonds, level)) == 0
    names = environment_names(atomic_numbers, bonds)
    return list(dict.fromkeys(name for name, rare in zip(names, is_rare, strict=True) if rare))


def long_bonds(
    atomic_numbers: Integer[np.ndarray, " atoms"],
    bonds: Int[np.ndarray, "bonds 2"],
    positions: Float[np.ndarray, "atoms 3"],
) -> list[str]:
    """Bonds between heavy atoms longer than `LONGEST` times the sum of the covalent radii, with their lengths."""
    heavy = bonds[(atomic_numbers[bonds] > 1).all(axis=1)]
    lengths = np.linalg.norm(positions[heavy[:, 0]] - positions[heavy[:, 1]], axis=1)
    limits = LONGEST * covalent_radii(atomic_numbers)[heavy].sum(axis=1)
    symbols = [CHEMICAL_SYMBOLS[number] for number in atomic_numbers.tolist()]
    return [
        "-".join(f"{symbols[atom]}{atom}" for atom in bond) + f" {length:.2f} Å"
        for bond, length, limit in zip(heavy.tolist(), lengths, limits, strict=True)
        if length > limit
    ]


def transferable_proton(graph: MolGraph) -> tuple[int, int] | None:
    """Cationic atom with hydrogen, and anionic atom, of a zwitterion or ion pair; None if there are none.

    Anionic atoms bonded to a cationic atom without hydrogen, as in nitro groups, N-oxides and ylides, do not count.
    """
    charges, numbers = graph.formal_charges, graph.atomic_numbers
    both = np.concatenate([graph.bonds, graph.bonds[:, ::-1]])
    with_hydrogen = np.unique(both[numbers[both[:, 1]] == 1, 0])
    is_donor = np.isin(np.arange(len(numbers)), with_hydrogen) & (charges > 0) & np.isin(numbers, _DONORS)
    paired = both[(charges[both[:, 1]] > 0) & ~is_donor[both[:, 1]], 0]
    acceptors = np.setdiff1d(np.flatnonzero(charges < 0), paired)
    donors = np.flatnonzero(is_donor)
    return (int(donors[0]), int(acceptors[0])) if len(donors) and len(acceptors) else None


def cyclobutadiene_ring(graph: MolGraph) -> tuple[int, ...] | None:
    """Four-membered ring with two double bonds, which is antiaromatic; None if there is none.

    Double bonds of aromatic rings, such as those of biphenylene, do not count.
    """
    bonded = {frozenset(bond) for bond in graph.bonds.tolist()}
    double = graph.bonds[graph.bond_orders == _DOUBLE].tolist()
    for (a, b), (c, d) in combinations(double, 2):
        for third, fourth in ((c, d), (d, c)):
            if len({a, b, c, d}) == 4 and {frozenset((b, third)), frozenset((fourth, a))} <= bonded:
                return a, b, third, fourth
    return None


def cumulene(graph: MolGraph) -> tuple[int, int, int, int] | None:
    """Atoms of three cumulated double bonds, as in butatriene; None if there are none."""
    double = graph.bonds[graph.bond_orders == _DOUBLE]
    partners: dict[int, list[int]] = {}
    for first, second in np.concatenate([double, double[:, ::-1]]).tolist():
        partners.setdefault(first, []).append(second)
    for second, third in double.tolist():
        before = [atom for atom in partners[second] if atom != third]
        after = [atom for atom in partners[third] if atom != second]
        if before and after:
            return before[0], second, third, after[0]
    return None

"""Duplicates among conformers, mirror images and tables of deviations.

Deviations are symmetry-corrected RMSDs of RDKit over heavy atoms and the hydrogens bonded to heteroatoms.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Float
from rdkit import Chem
from rdkit.Chem import rdMolAlign, rdMolDescriptors
from rdkit.SimDivFilters import rdSimDivPickers

from physcon_ase.chem.graph import MolGraph
from physcon_ase.chem.smiles import to_rdkit
from physcon_ase.units import EV_PER_KCAL_PER_MOL

_MAX_MATCHES: Final = 1000
"""Number of permutations of equivalent atoms that are tried; beyond it deviations are upper bounds."""

_LINEAR: Final = 1e-3
"""Fraction of the largest moment of inertia below which a moment counts as that of a linear molecule."""


@dataclass(frozen=True)
class Tolerances:
    """Two conformers are duplicates if they agree within all three tolerances."""

    rmsd: float = 0.125
    """RMSD [Å] of heavy atoms and hydrogens on heteroatoms; the threshold of CREST, doi 10.1039/C9CP06869D."""
    energy: float = 0.1 * EV_PER_KCAL_PER_MOL
    """Energy difference [eV]."""
    moments: float = 0.03
    """Relative difference of each principal moment of inertia."""


class ConformerSet:
    """Conformers of one molecule that are compared pairwise."""

    def __init__(
        self,
        graph: MolGraph,
        positions: Sequence[Float[np.ndarray, "atoms 3"]],
        energies: Sequence[float] | Float[np.ndarray, " conformers"],
        tolerances: Tolerances,
    ):
        """Prepares the comparison.

        Args:
            graph: the molecule.
            positions: positions [Å] of each conformer.
            energies: energy [eV] of each conformer.
            tolerances: tolerances of duplicates.
        """
        self.energies, self.tolerances = np.asarray(energies, dtype=np.float64), tolerances
        mol = _with_conformers(graph, [*positions, *(-place for place in positions)])
        moments = (rdMolDescriptors.CalcPMI1, rdMolDescriptors.CalcPMI2, rdMolDescriptors.CalcPMI3)
        self._moments = np.array([[moment(mol, i) for moment in moments] for i in range(len(self.energies))])
        self._mol = _without_hydrogens_on_carbon(mol)

    def __len__(self) -> int:
        return len(self.energies)

    def distinct(self, *, up_to_mirror_images: bool = False) -> list[int]:
        """Conformers by increasing energy, without those that are duplicates of a lower one.

        Args:
            up_to_mirror_images: whether mirror images count as duplicates.
        """
        order = np.argsort(self.energies, kind="stable").tolist()

        def distance(i: int, j: int) -> float:
            pair = order[i], order[j]
            are_equal = self.are_duplicates(*pair) or (up_to_mirror_images and self.are_mirror_images(*pair))
            return 0.0 if are_equal else 1.0

        # sphere exclusion in the order of the energies
        picked = rdSimDivPickers.LeaderPicker().LazyPick(distance, len(order), 0.5) if order else ()
        return [order[index] for index in picked]

    def are_duplicates(self, first: int, second: int) -> bool:
        """Whether two conformers agree in energy, moments of inertia and RMSD."""
        return self._are_alike(first, second) and self.rmsd(first, second) <= self.tolerances.rmsd

    def are_mirror_images(self, first: int, second: int) -> bool:
        """Whether a conformer agrees with the mirror image of another one, or of itself."""
        if not self._are_alike(first, second):
            return False
        return self.rmsd(first, len(self) + second) <= self.tolerances.rmsd

    def rmsd(self, first: int, second: int) -> float:
        """Symmetry-corrected RMSD [Å] of two conformers; index n + i is the mirror image of conformer i of n."""
        return float(rdMolAlign.GetBestRMS(self._mol, self._mol, first, second, maxMatches=_MAX_MATCHES))

    def _are_alike(self, first: int, second: int) -> bool:
        """Whether energies and moments of inertia agree; cheap compared with an RMSD."""
        if abs(self.energies[first] - self.energies[second]) > self.tolerances.energy:
            return False
        a, b = self._moments[first], self._moments[second]
        larger = np.maximum(a, b)
        return bool((np.abs(a - b) <= self.tolerances.moments * np.maximum(larger, _LINEAR * larger.max())).all())


def rmsd_table(
    graph: MolGraph, positions: Sequence[Float[np.ndarray, "atoms 3"]]
) -> Float[np.ndarray, "conformers conformers"]:
    """Symmetry-corrected RMSDs [Å] between all conformers."""
    mol = _without_hydrogens_on_carbon(_with_conformers(graph, positions))
    table = np.zeros((len(positions), len(positions)))
    if len(positions) > 1:
        table[np.tril_indices(len(positions), k=-1)] = rdMolAlign.GetAllConformerBestRMS(mol, maxMatches=_MAX_MATCHES)
    return table + table.T


def _with_conformers(graph: MolGraph, positions: Sequence[Float[np.ndarray, "atoms 3"]]) -> Chem.Mol:
    mol = to_rdkit(graph)
    for index, place in enumerate(positions):
        conformer = Chem.Conformer(graph.n_atoms)
        conformer.SetPositions(np.ascontiguousarray(place, dtype=np.float64))
        conformer.SetId(index)
        mol.AddConformer(conformer)
    return mol


def _without_hydrogens_on_carbon(mol: Chem.Mol) -> Chem.Mol:
    reduced = Chem.RWMol(mol)
    reduced.BeginBatchEdit()
    for atom in mol.GetAtoms():
        neighbours = [other.GetAtomicNum() for other in atom.GetNeighbors()]
        if atom.GetAtomicNum() == 1 and not atom.GetIsotope() and neighbours == [6]:
            reduced.RemoveAtom(atom.GetIdx())
    reduced.CommitBatchEdit()
    return reduced.GetMol()

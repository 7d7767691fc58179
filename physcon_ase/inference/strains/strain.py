"""Record of the strain of a pose."""

from dataclasses import dataclass
from typing import Any

from ase import Atoms

from physcon_ase.chem.graph import MolGraph
from physcon_ase.inference.pages.view import NotebookView
from physcon_ase.inference.results import UNITS, Status
from physcon_ase.inference.run_records import judged_by_doubts
from physcon_ase.units import EV_PER_KCAL_PER_MOL


@dataclass(frozen=True, repr=False)
class Strain(NotebookView):
    """Energy of a pose, such as that of a ligand in a crystal structure or from docking, above the lowest conformer."""

    pose: Atoms
    """The given geometry, relaxed with its torsions held, with energy and forces attached."""
    nearest: Atoms
    """The minimum reached from there without constraints, with energy and forces attached."""
    pose_energy: float
    """Total energy [eV] of `pose`."""
    nearest_energy: float
    """Total energy [eV] of `nearest`."""
    lowest_energy: float
    """Total energy [eV] of the lowest conformer found, `nearest` included."""
    n_conformers: int
    """Number of conformers that the search found."""
    held: tuple[tuple[int, int, int, int], ...]
    """Atoms of each dihedral angle that was held."""
    pose_rmsd: float
    """RMSD [Å] of the heavy atoms between the given geometry and `pose`."""
    nearest_rmsd: float
    """RMSD [Å] of the heavy atoms between the given geometry and `nearest`."""
    graph: MolGraph
    """The molecule."""
    smiles: str
    """Canonical SMILES of the graph."""
    problem: tuple[Status, str]
    """Status of relaxations that did not end in the same molecule, and the reason; otherwise "ok" and ""."""
    fmax: float
    """Convergence threshold [eV/Å] for the largest force."""
    seed: int
    """Random seed of the conformer search."""
    model: str
    """Name of the checkpoint."""
    revision: str
    """SHA-256 of the weights."""
    level: str
    """Level of theory."""
    seconds: float
    """Wall time [s] without loading the model."""
    doubts: tuple[str, ...] = ()
    """Reasons to doubt the energies, see `doubts.doubts_of`."""
    units: str = UNITS
    """Units of the results."""

    def __repr__(self) -> str:
        return (
            f"<Strain of {self.smiles}: {self.strain:.2f} kcal/mol above the lowest conformer, {self.local_strain:.2f} "
            f"above the nearest minimum, level {self.level} of {self.model}>"
        )

    @property
    def strain(self) -> float:
        """Energy [kcal/mol] of the pose above the lowest conformer."""
        return (self.pose_energy - self.lowest_energy) / EV_PER_KCAL_PER_MOL

    @property
    def local_strain(self) -> float:
        """Energy [kcal/mol] of the pose above the nearest minimum."""
        return (self.pose_energy - self.nearest_energy) / EV_PER_KCAL_PER_MOL

    def judged(self) -> tuple[Status, str]:
        """Status of the record of this molecule, and its reason."""
        return judged_by_doubts(self.doubts) if self.problem[0] == "ok" else self.problem

    def to_dict(self) -> dict[str, Any]:
        """The strain as numbers, texts and lists, for instance for `json.dump`; units in the names."""
        return {
            "kind": "strain",
            "smiles": self.smiles,
            "formula": self.pose.get_chemical_formula(),
            "charge": self.graph.charge,
            "atomic_numbers": self.graph.atomic_numbers.tolist(),
            "strain_kcal_per_mol": self.strain,
            "local_strain_kcal_per_mol": self.local_strain,
            "pose_energy_eV": self.pose_energy,
            "nearest_energy_eV": self.nearest_energy,
            "lowest_energy_eV": self.lowest_energy,
            "pose_positions_A": self.pose.positions.tolist(),
            "nearest_positions_A": self.nearest.positions.tolist(),
            "pose_rmsd_A": self.pose_rmsd,
            "nearest_rmsd_A": self.nearest_rmsd,
            "held": [list(members) for members in self.held],
            "n_conformers": self.n_conformers,
            "doubts": list(self.doubts),
            "fmax_eV_per_A": self.fmax,
            "seed": self.seed,
            "model": self.model,
            "revision": self.revision,
            "level": self.level,
            "seconds": self.seconds,
        }

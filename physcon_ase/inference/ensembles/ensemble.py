"""Records of conformer searches: conformers, ensembles and records of several molecules."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
from ase import Atoms
from jaxtyping import Float
from scipy.special import softmax

from physcon_ase.chem.duplicates import Tolerances
from physcon_ase.chem.graph import MolGraph
from physcon_ase.inference.intake import above_zero
from physcon_ase.inference.pages.view import NotebookView
from physcon_ase.inference.results import UNITS, Status
from physcon_ase.inference.run_records import judged_by_doubts
from physcon_ase.plurals import counted
from physcon_ase.units import EV_PER_KELVIN

STANDARD_TEMPERATURE: Final = 298.15
"""Default temperature [K] of Boltzmann weights."""


@dataclass(frozen=True)
class Conformer:
    """One conformer of an ensemble."""

    atoms: Atoms
    """Geometry in the atom order of the input, with energy and forces attached."""
    energy: float
    """Total energy [eV] at the level."""
    relative_energy: float
    """Energy [kcal/mol] above the lowest conformer."""
    weight: float
    """Boltzmann weight at the temperature of the ensemble."""
    symmetry_number: int
    """Number of proper rotations of the geometry (`chem.symmetry.symmetry_number`)."""
    fmax: float
    """Largest force [eV/Å] on any atom."""
    mirror_image: int | None
    """Index of the conformer that is the mirror image of this one, its own index if it is superimposable on its mirror
    image; None if the mirror image is another molecule (the enantiomer)."""
    energy_uncertainty: float | None
    """Standard deviation [eV] of the error of `energy`; None if the model is not calibrated."""


@dataclass(frozen=True, repr=False)
class Ensemble(NotebookView):
    """Conformers of one molecule by increasing energy."""

    conformers: tuple[Conformer, ...]
    """The conformers, the lowest first."""
    rmsd: Float[np.ndarray, "conformers conformers"]
    """Symmetry-corrected RMSD [Å] of heavy atoms and hydrogens on heteroatoms between all conformers."""
    graph: MolGraph
    """The molecule, in the atom order of the input."""
    smiles: str
    """Canonical SMILES of the graph."""
    undefined_stereo: tuple[str, ...]
    """Stereocentres and double bonds whose configuration is undefined in the input; chosen by the seed, the same in all
    conformers."""
    n_starts: int
    """Number of start geometries: embedded ones, a given one, and conformers with rotated bonds."""
    left_out: Mapping[str, int]
    """Number of geometries left out, by reason; mirror images count as duplicates."""
    prerelaxed: bool
    """Whether the start geometries were relaxed with MMFF94."""
    window: float
    """Energy [kcal/mol] above the lowest conformer up to which conformers are included."""
    temperature: float
    """Temperature [K] of the Boltzmann weights."""
    tolerances: Tolerances
    """Tolerances within which two conformers are duplicates."""
    fmax: float
    """Convergence threshold [eV/Å] for the largest force."""
    seed: int
    """Random seed of the start geometries."""
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

    def __len__(self) -> int:
        return len(self.conformers)

    def __repr__(self) -> str:
        return (
            f"<Ensemble of {self.smiles}: {counted(len(self), 'conformer')} within {self.window:g} kcal/mol, "
            f"level {self.level} of {self.model}>"
        )

    def judged(self) -> tuple[Status, str]:
        """Status of the record of this molecule, and its reason."""
        return judged_by_doubts(self.doubts)

    @property
    def energies(self) -> Float[np.ndarray, " conformers"]:
        """Total energies [eV]."""
        return np.array([conformer.energy for conformer in self.conformers])

    @property
    def weights(self) -> Float[np.ndarray, " conformers"]:
        """Boltzmann weights at `temperature`."""
        return np.array([conformer.weight for conformer in self.conformers])

    def weights_at(self, temperature: float) -> Float[np.ndarray, " conformers"]:
        """Boltzmann weights at another temperature [K].

        Raises:
            PhysConError: a temperature that is not larger than 0.
        """
        numbers = [conformer.symmetry_number for conformer in self.conformers]
        return boltzmann_weights(self.energies, above_zero("temperature [K]", temperature), numbers)

    def to_dict(self) -> dict[str, Any]:
        """The ensemble as numbers, texts and lists, for instance for `json.dump`; units in the names."""
        return {
            "kind": "ensemble",
            "smiles": self.smiles,
            "formula": self.conformers[0].atoms.get_chemical_formula(),
            "charge": self.graph.charge,
            "atomic_numbers": self.graph.atomic_numbers.tolist(),
            "conformers": [_conformer_as_dict(conformer) for conformer in self.conformers],
            "rmsd_A": self.rmsd.tolist(),
            "undefined_stereo": list(self.undefined_stereo),
            "doubts": list(self.doubts),
            "n_starts": self.n_starts,
            "left_out": dict(self.left_out),
            "prerelaxed": self.prerelaxed,
            "window_kcal_per_mol": self.window,
            "temperature_kelvin": self.temperature,
            "tolerances": asdict(self.tolerances),
            "fmax_eV_per_A": self.fmax,
            "seed": self.seed,
            "model": self.model,
            "revision": self.revision,
            "level": self.level,
            "seconds": self.seconds,
        }


def boltzmann_weights(
    energies: Float[np.ndarray, " conformers"], temperature: float, symmetry_numbers: Sequence[int]
) -> Float[np.ndarray, " conformers"]:
    """Boltzmann weights exp(-E/kT)/σ of conformers, normalised to 1.

    Exchanging equivalent atoms of a conformer gives further geometries of the same energy, whose number is inversely
    proportional to its symmetry number σ: pentane has one anti-anti conformer (σ = 2), but each of its two anti-gauche
    conformers (σ = 1) can begin at either end.

    Args:
        energies: energies [eV].
        temperature: temperature [K].
        symmetry_numbers: symmetry number of each conformer; mirror images are conformers of their own.
    """
    return softmax(-np.asarray(energies) / (EV_PER_KELVIN * temperature) - np.log(symmetry_numbers))


def _conformer_as_dict(conformer: Conformer) -> dict[str, Any]:
    return {
        "energy_eV": conformer.energy,
        "energy_uncertainty_eV": conformer.energy_uncertainty,
        "relative_energy_kcal_per_mol": conformer.relative_energy,
        "weight": conformer.weight,
        "symmetry_number": conformer.symmetry_number,
        "fmax_eV_per_A": conformer.fmax,
        "mirror_image": conformer.mirror_image,
        "positions_A": conformer.atoms.positions.tolist(),
    }

"""Records of an interaction energy and of its curve as a function of the distance."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from ase import Atoms
from jaxtyping import Float

from physcon_ase.inference.pages.view import NotebookView
from physcon_ase.inference.results import Provenance, Result, Status, status_of
from physcon_ase.units import EV_PER_KCAL_PER_MOL


@dataclass(frozen=True)
class DistanceCurve:
    """Interaction energy of two rigid molecules along a line."""

    along: str
    """Line of the displacement: "contact" or "centres"."""
    distances: Float[np.ndarray, " points"]
    """Distance [Å] of the two closest atoms of the complex, or of the two centres."""
    energies: Float[np.ndarray, " points"]
    """Interaction energy [eV]; NaN where the molecules overlap."""


@dataclass(frozen=True, repr=False)
class Interaction(NotebookView):
    """Interaction energy of two or more molecules."""

    complex: Atoms
    """The complex with its energy and forces."""
    molecules: tuple[Atoms, ...]
    """Each molecule alone in the geometry that it has in the complex, with its energy and forces."""
    atoms: tuple[tuple[int, ...], ...]
    """Indices of the atoms of each molecule in the complex."""
    names: tuple[str, ...]
    """Canonical SMILES of each molecule, or its formula if its bonds are unknown."""
    relaxed: tuple[Result, ...] | None
    """Each molecule relaxed alone; None for a rigid complex."""
    relaxation: Result | None
    """Relaxation of the complex; None for a rigid complex."""
    curve: DistanceCurve | None
    """Curve as a function of the distance of two molecules; None for more than two."""
    remainder: float
    """Energy [eV] between the molecules 50 Å apart, beyond the Coulomb energy of the partial charges that they have
    alone (of total charges at their centres for a model without): an error of the model that is contained in the
    interaction energy."""
    provenance: Provenance
    """Model, revision, level and units."""
    status: str
    """"ok", or the problem and its remedy."""
    seconds: float
    """Wall time [s]."""

    @property
    def energy(self) -> float:
        """Interaction energy [eV]: complex minus the molecules in the geometries that they have in the complex."""
        return self.complex.get_potential_energy() - sum(atoms.get_potential_energy() for atoms in self.molecules)

    @property
    def deformation_energy(self) -> float | None:
        """Energy [eV] that deforms the relaxed molecules to the geometries of the complex; None for a rigid complex."""
        if self.relaxed is None:
            return None
        alone = sum(result.energy for result in self.relaxed)
        return sum(atoms.get_potential_energy() for atoms in self.molecules) - alone

    @property
    def binding_energy(self) -> float | None:
        """Relaxed complex minus the relaxed molecules [eV], without zero-point energies; None for a rigid complex."""
        return None if self.deformation_energy is None else self.energy + self.deformation_energy

    @property
    def is_ok(self) -> bool:
        """Whether the model separates the molecules and all relaxations ended in minima of the given molecules."""
        return self.status == "ok"

    def judged(self) -> tuple[Status, str]:
        """Status of the interaction, and its reason."""
        if self.is_ok:
            return "ok", ""
        results = [*([] if self.relaxation is None else [self.relaxation]), *(self.relaxed or ())]
        failed: list[Status] = [status_of(result) for result in results if not result.is_minimum]
        if failed:
            return failed[0], self.status
        if self.status.startswith("changed"):
            return "changed", self.status
        return "uncertain", self.status

    def __repr__(self) -> str:
        kcal = self.energy / EV_PER_KCAL_PER_MOL
        return (
            f"Interaction({' + '.join(self.names)}, {self.energy:.4f} eV ({kcal:.2f} kcal/mol), "
            f"level {self.provenance.level!r}, status {self.status!r})"
        )

    def to_dict(self) -> dict[str, Any]:
        """All results as numbers, texts and lists, for instance for `json.dump`; units in the names."""
        curve = self.curve
        return {
            "kind": "interaction",
            "molecules": list(self.names),
            "charge": int(self.complex.info.get("charge") or 0),
            "atoms": [list(own) for own in self.atoms],
            "status": self.status,
            "outcome": self.judged()[0],
            "interaction_energy_eV": self.energy,
            "deformation_energy_eV": self.deformation_energy,
            "binding_energy_eV": self.binding_energy,
            "remainder_eV": self.remainder,
            "complex_energy_eV": self.complex.get_potential_energy(),
            "molecule_energies_eV": [atoms.get_potential_energy() for atoms in self.molecules],
            "atomic_numbers": self.complex.numbers.tolist(),
            "positions_A": self.complex.positions.tolist(),
            "relaxation": None if self.relaxation is None else self.relaxation.to_dict(),
            "curve": None
            if curve is None
            else {
                "along": curve.along,
                "distances_A": curve.distances.tolist(),
                "energies_eV": [float(value) if np.isfinite(value) else None for value in curve.energies],
            },
            "model": self.provenance.model,
            "revision": self.provenance.revision,
            "level": self.provenance.level,
            "seconds": self.seconds,
        }

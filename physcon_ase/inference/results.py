"""Records of results: predictions, guessed structures, relaxed molecules and batch records."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeAlias, get_args

import numpy as np
from ase import Atoms
from jaxtyping import Float

from physcon_ase.chem.graph import MolGraph
from physcon_ase.errors import PhysConError
from physcon_ase.inference.pages.view import NotebookView
from physcon_ase.plurals import counted

UNITS: Final = "energies eV, positions Angstrom, forces eV/Angstrom"
"""Units of every result."""

FORCES_FROM: Final = {"conservative": "the derivative of the energy", "direct": "a direct head, no energy"}
"""Kinds of forces of a `PhysConCalculator`, and their description in results."""

Status: TypeAlias = Literal["ok", "uncertain", "not converged", "not a minimum", "changed", "failed"]
"""Status of the record of a molecule."""

STATUSES: Final[tuple[Status, ...]] = get_args(Status)
"""All statuses, the most useful first."""


@dataclass(frozen=True)
class Provenance:
    """Provenance of a result."""

    model: str
    """Name of the checkpoint."""
    revision: str
    """SHA-256 of the weights."""
    level: str
    """Level of theory."""
    forces_from: str = FORCES_FROM["conservative"]
    """Description of the forces; a value of `FORCES_FROM`."""
    units: str = UNITS
    """Units of the results."""


@dataclass(frozen=True)
class Prediction:
    """Result of `PhysConCalculator.predict` for one structure; all values are None if the structure is invalid."""

    energy: float | None
    """Total energy [eV] at the level."""
    energies: Float[np.ndarray, " atoms"] | None
    """Atomic contributions [eV] to `energy`; the partitioning is not unique."""
    atomization_energy: float | None
    """Fitted atomic references of the level minus `energy` [eV], see `PhysConCalculator.atomization_energy`."""
    energy_uncertainty: float | None
    """Standard deviation [eV] of the error of `energy`; None if the model is not calibrated."""
    forces: Float[np.ndarray, "atoms 3"] | None
    """Forces [eV/Å]; None if not requested."""
    forces_uncertainty: Float[np.ndarray, " atoms"] | None
    """Standard deviation [eV/Å] of the error of a force component on each atom; None if the model is not calibrated, or
    without `forces`."""
    provenance: Provenance
    """Model, revision, level and units."""
    charges: Float[np.ndarray, " atoms"] | None = None
    """Partial charges [e], which sum to the total charge; None for a model without charges."""
    dipole: Float[np.ndarray, "3"] | None = None
    """Dipole moment [e Å] of the partial charges about the centre of mass; None for a model without charges."""
    doubts: tuple[str, ...] = ()
    """Reasons to doubt the values, see `doubts.doubts_of`."""
    error: PhysConError | None = None
    """Error of an invalid structure."""


@dataclass(frozen=True)
class Guess:
    """Guessed structure of one molecule."""

    graph: MolGraph
    """The molecule."""
    positions: Float[np.ndarray, "atoms 3"]
    """Positions [Å] in the order of the graph's atoms."""
    mode: str
    """Requested mode of the generator."""
    seed: int
    """Random seed that reproduces the guess."""
    attempts: int
    """Number of guesses drawn, including this one."""
    bonds_intact: bool
    """Whether the geometry has the bonds of the graph."""
    stereo_intact: bool
    """Whether the geometry has the configuration of the graph."""
    fallback: str
    """Reason why the positions are the fallback geometry instead of a guess of the model; empty if they are a guess."""


@dataclass(frozen=True, repr=False)
class Result(NotebookView):
    """Relaxed molecule; energy and forces are evaluated at the final geometry."""

    atoms: Atoms
    """Final geometry, with energy and forces attached and the fields below in `info`."""
    graph: MolGraph | None
    """Molecular graph; None for a geometry whose bonds could not be perceived."""
    smiles: str
    """Canonical SMILES of the graph, empty without one."""
    energy: float
    """Total energy [eV] of the final geometry."""
    fmax: float
    """Largest force [eV/Å] on any atom of the final geometry."""
    converged: bool
    """Whether the largest force fell below the threshold."""
    steps: int
    """Number of optimiser steps."""
    seconds: float
    """Wall time [s] from input to result, without loading the model; the share of this molecule in a batch."""
    energies: Float[np.ndarray, " frames"]
    """Energy [eV] of the start geometry and after each step."""
    fmax_history: Float[np.ndarray, " frames"]
    """Largest force [eV/Å] of the same geometries."""
    bonds_intact: bool | None
    """Whether the final geometry has the bonds of the graph; None without a graph."""
    stereo_intact: bool | None
    """Whether the final geometry has the configuration of the graph; None without a graph."""
    undefined_stereo: tuple[str, ...]
    """Stereocentres and double bonds whose configuration is undefined in the input and was chosen by the seed."""
    start: str
    """Kind of start geometry, with the reason if it is not the requested one."""
    optimizer: str
    """Name of the optimiser."""
    model: str
    """Name of the checkpoint."""
    revision: str
    """SHA-256 of the weights."""
    level: str
    """Level of theory."""
    seed: int
    """Random seed of the start geometry."""
    status: str
    """"converged", or the problem and its remedy."""
    energy_uncertainty: float | None = None
    """Standard deviation [eV] of the error of `energy`; None if the model is not calibrated."""
    doubts: tuple[str, ...] = ()
    """Reasons to doubt the result, see `doubts.doubts_of`."""
    units: str = UNITS
    """Units of the results."""

    def __repr__(self) -> str:
        spread = "" if self.energy_uncertainty is None else f" ± {self.energy_uncertainty:.3f}"
        return (
            f"Result({self.smiles or self.atoms.get_chemical_formula()!r}, {self.energy:.4f}{spread} eV, "
            f"fmax {self.fmax:.4f} eV/Å, {counted(self.steps, 'step')}, level {self.level!r}, status {self.status!r})"
        )

    @property
    def is_minimum(self) -> bool:
        """Whether the relaxation converged without changing the bonds or configuration, as far as these are known."""
        return self.converged and self.bonds_intact is not False and self.stereo_intact is not False

    @property
    def is_ok(self) -> bool:
        """Whether the result is a minimum without doubts."""
        return self.is_minimum and not self.doubts

    def to_dict(self) -> dict[str, Any]:
        """The result as numbers, texts and lists, for instance for `json.dump`; units in the names."""
        return {
            "kind": "relaxation",
            "smiles": self.smiles,
            "formula": self.atoms.get_chemical_formula(),
            "charge": int(self.atoms.info.get("charge") or 0),
            "status": self.status,
            "atomic_numbers": self.atoms.numbers.tolist(),
            "positions_A": self.atoms.positions.tolist(),
            "forces_eV_per_A": self.atoms.get_forces(apply_constraint=False).tolist(),
            "energy_eV": float(self.energy),
            "energy_uncertainty_eV": None if self.energy_uncertainty is None else float(self.energy_uncertainty),
            "fmax_eV_per_A": float(self.fmax),
            "converged": self.converged,
            "steps": self.steps,
            "energies_eV": self.energies.tolist(),
            "fmax_history_eV_per_A": self.fmax_history.tolist(),
            "bonds_intact": self.bonds_intact,
            "stereo_intact": self.stereo_intact,
            "undefined_stereo": list(self.undefined_stereo),
            "doubts": list(self.doubts),
            "start": self.start,
            "optimizer": self.optimizer,
            "model": self.model,
            "revision": self.revision,
            "level": self.level,
            "seed": self.seed,
            "seconds": self.seconds,
        }


@dataclass(frozen=True)
class Record:
    """Outcome for one molecule of a batch."""

    index: int
    """Index in the input."""
    name: str
    """Name in the input; without one the SMILES as given, or the chemical formula."""
    status: Status
    """"uncertain": a minimum with `Result.doubts`; "changed": converged, but with different bonds or configuration;
    "failed": no geometry."""
    reason: str
    """Problem and remedy; empty if the status is "ok"."""
    error: str
    """Class name of the error of a failed molecule, empty otherwise."""
    seconds: float
    """Share of this molecule in the wall time [s]."""
    seed: int
    """Random seed of the start geometry."""
    attempts: int
    """Number of start geometries tried."""
    result: Result | None
    """The relaxed molecule; None if it failed."""
    smiles: str = ""
    """SMILES as given; empty for other input."""
    row: int = 0
    """Number of the molecule in its file, from 1 (the line of a list or table); 0 without a file."""
    source: str = ""
    """Name of the file; empty without a file."""
    fields: Mapping[str, str] = field(default_factory=dict)
    """Other columns of a table, or data fields of an SD record."""


def record_of(result: Result, index: int = 0, *, attempts: int = 1, **origin: Any) -> Record:
    """Record of a relaxed molecule; `origin` are `name`, `smiles`, `row`, `source` and `fields`, as far as known."""
    name = origin.pop("name", "") or result.smiles or result.atoms.get_chemical_formula()
    return Record(
        index=index,
        name=name,
        status=status_of(result),
        reason="" if result.is_ok else result.status,
        error="",
        seconds=result.seconds,
        seed=result.seed,
        attempts=attempts,
        result=result,
        **origin,
    )


def status_of(result: Result) -> Status:
    """Status of the record of a relaxed molecule."""
    if result.is_minimum:
        return "uncertain" if result.doubts else "ok"
    return "changed" if result.converged else "not converged"

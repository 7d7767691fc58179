"""What comes out, as records: a prediction, a guess, a relaxed molecule, and what became of one molecule of many."""

from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from ase import Atoms
from jaxtyping import Float

from physcon_ase.chem.graph import MolGraph
from physcon_ase.errors import PhysConError

UNITS: Final = "energies eV, positions Angstrom, forces eV/Angstrom"
"""Units of every result."""

FORCES_FROM: Final = {"conservative": "the derivative of the energy", "direct": "a direct head, no energy"}
"""Kinds of forces that a `PhysConCalculator` offers, and how results call them."""

STATUSES: Final = ("ok", "not converged", "changed", "failed")
"""What `Record.status` can be, the most useful first."""


@dataclass(frozen=True)
class Provenance:
    """Where a number comes from."""

    model: str
    """Name of the checkpoint."""
    revision: str
    """sha256 of its weights."""
    level: str
    """Level of theory."""
    forces_from: str = FORCES_FROM["conservative"]
    """What the forces are; one of `FORCES_FROM`."""
    units: str = UNITS
    """Units of the numbers."""


@dataclass(frozen=True)
class Prediction:
    """What `PhysConCalculator.predict` says about one structure; the numbers are None if it was refused."""

    energy: float | None
    """Total energy [eV] at the level."""
    energies: Float[np.ndarray, " atoms"] | None
    """Share [eV] of each atom in `energy`; how a molecule is divided into atoms is the model's own choice."""
    atomization_energy: float | None
    """The level's fitted atomic references minus `energy` [eV], see `PhysConCalculator.atomization_energy`."""
    energy_uncertainty: float | None
    """Standard deviation [eV] of the error of `energy`; None if the model cannot tell."""
    forces: Float[np.ndarray, "atoms 3"] | None
    """Forces [eV/Å]; None also if they were not asked for."""
    forces_uncertainty: Float[np.ndarray, " atoms"] | None
    """Standard deviation [eV/Å] of the error of a component of the force on each atom; None if unknown, or without
    `forces`."""
    provenance: Provenance
    """Model, revision, level and units."""
    error: PhysConError | None = None
    """Why the structure was refused."""


@dataclass(frozen=True)
class Guess:
    """A start geometry for one molecule, with how it came about."""

    graph: MolGraph
    """The molecule."""
    positions: Float[np.ndarray, "atoms 3"]
    """Positions [Å] in the order of the graph's atoms."""
    mode: str
    """How it was to be made."""
    seed: int
    """Seed that makes it again."""
    attempts: int
    """Guesses drawn, the one kept included."""
    bonds_intact: bool
    """Whether the geometry has the bonds of the graph."""
    stereo_intact: bool
    """Whether the geometry has the configuration of the graph."""
    fallback: str
    """Why the positions are the start geometry and no guess of the model; empty if they are one."""


@dataclass(frozen=True)
class Result:
    """A relaxed molecule; energies and forces are those of the very geometry."""

    atoms: Atoms
    """The final geometry, with energy and forces attached and the fields below in `info`."""
    graph: MolGraph | None
    """The molecular graph; None if it was given as a geometry whose bonds could not be found."""
    smiles: str
    """Canonical SMILES of the graph, empty without one."""
    energy: float
    """Total energy [eV] of the final geometry."""
    fmax: float
    """Largest force [eV/Å] on any atom there."""
    converged: bool
    """Whether the largest force fell below the threshold."""
    steps: int
    """Steps of the optimiser."""
    seconds: float
    """Wall time from input to result without loading the model; in a batch, this molecule's share."""
    energies: Float[np.ndarray, " frames"]
    """Energy [eV] of the start and after each step."""
    fmax_history: Float[np.ndarray, " frames"]
    """Largest force [eV/Å] of the same geometries."""
    bonds_intact: bool | None
    """Whether the final geometry has the bonds of the graph; None without a graph."""
    stereo_intact: bool | None
    """Whether it has the configuration of the graph; None without a graph."""
    undefined_stereo: tuple[str, ...]
    """Stereocentres and double bonds that the input left open and the seed decided."""
    start: str
    """Where the relaxation started, with the reason if that is not what was asked for."""
    optimizer: str
    """Name of the optimiser."""
    model: str
    """Name of the checkpoint."""
    revision: str
    """sha256 of its weights."""
    level: str
    """Level of theory."""
    seed: int
    """Seed of the start geometry."""
    status: str
    """"converged", or what to do."""
    energy_uncertainty: float | None = None
    """Standard deviation [eV] of the error of `energy`; None if the model cannot tell."""
    units: str = UNITS
    """Units of the numbers above."""

    @property
    def is_ok(self) -> bool:
        """Converged, and still the molecule that was asked for as far as that can be told."""
        return self.converged and self.bonds_intact is not False and self.stereo_intact is not False


@dataclass(frozen=True)
class Record:
    """What became of one molecule of a batch."""

    index: int
    """Place in the input."""
    name: str
    """The SMILES as given, or the formula."""
    status: Literal["ok", "not converged", "changed", "failed"]
    """"changed": converged, but with other bonds or another configuration; "failed": there is no geometry."""
    reason: str
    """What went wrong and what to do; empty if nothing did."""
    error: str
    """Class name of the error of a failed molecule, empty otherwise."""
    seconds: float
    """This molecule's share of the wall time."""
    seed: int
    """Seed of the start geometry."""
    attempts: int
    """Start geometries tried."""
    result: Result | None
    """The relaxed molecule; None if it failed."""

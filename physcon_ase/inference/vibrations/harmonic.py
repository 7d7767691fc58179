"""Harmonic frequencies, infrared intensities and thermochemistry of a molecule."""

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Any, Final

import numpy as np
import torch
from ase import Atoms
from ase.data import atomic_masses
from jaxtyping import Float

from physcon_ase.chem.graph import MolGraph, make_graph
from physcon_ase.chem.isotopes import isotopes_of_masses
from physcon_ase.chem.symmetry import symmetry_number as symmetry_number_of
from physcon_ase.errors import PhysConError
from physcon_ase.inference.embedding import MAX_SECONDS
from physcon_ase.inference.formats.rows import Geometry, as_rows
from physcon_ase.inference.intake import above_zero, at_least_one, unless_error
from physcon_ase.inference.one import optimize
from physcon_ase.inference.pages.view import NotebookView
from physcon_ase.inference.results import Result, Status
from physcon_ase.inference.vibrations.normal_modes import NormalModes, normal_modes
from physcon_ase.inference.vibrations.thermochemistry import CUTOFF, Thermochemistry, thermochemistry
from physcon_ase.model.coverage import AUTO
from physcon_ase.model.physcon import DEFAULT_CHECKPOINT, LoadedModel, load_model
from physcon_ase.plurals import counted

FMAX: Final = 5e-4
"""Default convergence threshold [eV/Å] of the relaxation, 1e-5 hartree/bohr."""

_CONSTRAINED: Final = "frequencies of a constrained geometry are not supported: delete its constraints"

_STATIONARY: Final = 0.01
"""Largest force [eV/Å] at which frequencies are meaningful."""

_FOLLOWED: Final = 0.1
"""Displacement [Å] of the atom that moves most along an imaginary mode."""

_MAX_FOLLOWED: Final = 5
"""Maximum number of imaginary modes followed one after the other."""


@dataclass(frozen=True, repr=False)
class Vibrations(NotebookView):
    """Harmonic vibrations of a molecule at a stationary point."""

    relaxation: Result
    """The stationary point: geometry, energy, forces, model, level and the relaxation that led to it."""
    modes: NormalModes
    """Normal modes with unscaled frequencies."""
    scale: float
    """Factor of the scaled frequencies."""
    thermochemistry: Thermochemistry
    """Zero-point energy, enthalpy, entropy and Gibbs energy, with scaled frequencies."""
    n_followed: int
    """Number of imaginary modes that were followed downhill."""
    status: str
    """"minimum", or the problem and its remedy."""
    seconds: float
    """Wall time [s], relaxation included."""

    @property
    def frequencies(self) -> Float[np.ndarray, " modes"]:
        """Unscaled harmonic frequencies [1/cm] in ascending order; imaginary ones as negative numbers."""
        return self.modes.frequencies

    @property
    def scaled_frequencies(self) -> Float[np.ndarray, " modes"]:
        """Frequencies [1/cm] times `scale`."""
        return self.scale * self.modes.frequencies

    @property
    def intensities(self) -> Float[np.ndarray, " modes"] | None:
        """Infrared intensities [km/mol]; None for a model without charges."""
        return self.modes.intensities

    @property
    def n_imaginary(self) -> int:
        """Number of imaginary frequencies; 0 at a minimum."""
        return int((self.modes.frequencies < 0).sum())

    @property
    def is_ok(self) -> bool:
        """Whether the geometry is a minimum with the bonds and the configuration of the molecule."""
        return self.status == "minimum"

    def judged(self) -> tuple[Status, str]:
        """Status of the record of this molecule, and its reason."""
        found = self.relaxation
        if self.is_ok:
            return "ok", ""
        if self.n_imaginary:
            return "not a minimum", self.status
        if self.status.startswith("uncertain"):  # of a given stationary point, too, which was not relaxed
            return "uncertain", self.status
        if not found.converged:
            return "not converged", self.status
        return "changed" if False in (found.bonds_intact, found.stereo_intact) else "uncertain", self.status

    def __repr__(self) -> str:
        name = self.relaxation.smiles or self.relaxation.atoms.get_chemical_formula()
        thermo = self.thermochemistry
        return (
            f"Vibrations({name!r}, {counted(len(self.frequencies), 'mode')}, {self.n_imaginary} imaginary, "
            f"ZPE {thermo.zero_point_energy:.4f} eV, G({thermo.temperature:g} K) {thermo.gibbs_energy:.4f} eV, "
            f"level {self.relaxation.level!r}, status {self.status!r})"
        )

    def to_dict(self) -> dict[str, Any]:
        """Everything but the Hessian as numbers, texts and lists, for instance for `json.dump`; units in the names."""
        found, modes = self.relaxation, self.modes
        return {
            "kind": "vibrations",
            "smiles": found.smiles,
            "formula": found.atoms.get_chemical_formula(),
            "charge": int(found.atoms.info.get("charge") or 0),
            "status": self.status,
            "outcome": self.judged()[0],
            "atomic_numbers": found.atoms.numbers.tolist(),
            "masses_amu": found.atoms.get_masses().tolist(),
            "positions_A": found.atoms.positions.tolist(),
            "energy_eV": found.energy,
            "fmax_eV_per_A": found.fmax,
            "n_imaginary": self.n_imaginary,
            "n_followed": self.n_followed,
            "scale": self.scale,
            "frequencies_per_cm": modes.frequencies.tolist(),
            "scaled_frequencies_per_cm": self.scaled_frequencies.tolist(),
            "intensities_km_per_mol": None if modes.intensities is None else modes.intensities.tolist(),
            "reduced_masses_amu": modes.reduced_masses.tolist(),
            "displacements": modes.displacements.tolist(),
            "relaxation": found.to_dict(),
            "thermochemistry": asdict(self.thermochemistry),
            "model": found.model,
            "revision": found.revision,
            "level": found.level,
            "seed": found.seed,
            "seconds": self.seconds,
        }


def vibrations(
    molecule: str | MolGraph | Atoms | Any,
    *,
    level: str = AUTO,
    checkpoint: str | Path | LoadedModel = DEFAULT_CHECKPOINT,
    temperature: float = 298.15,
    pressure: float = 101325.0,
    symmetry_number: int | None = None,
    scale: float = 1.0,
    cutoff: float = CUTOFF,
    relax: bool = True,
    follow_imaginary: bool = False,
    fmax: float = FMAX,
    max_steps: int = 500,
    start: str | Atoms | None = None,
    seed: int = 0,
    max_seconds: float = MAX_SECONDS,
    device: torch.device | str = "cpu",
) -> Vibrations:
    """Harmonic frequencies, infrared intensities and thermochemistry of one molecule, in double precision.

    The Hessian is the exact derivative of the model; translations and rotations are removed. The molecule is relaxed
    first. Isotopes of a SMILES ([2H]) and masses of ASE structures are respected.

    Args:
        molecule: SMILES, graph, geometry, RDKit molecule or row of a file; not modified.
        level: level of theory; "auto" for the first of the checkpoint that covers the molecule.
        checkpoint: shipped name, folder or loaded model, which must be in float64.
        temperature: temperature [K].
        pressure: pressure [Pa] of the standard state.
        symmetry_number: rotational symmetry number; by default that of the relaxed geometry
            (`chem.symmetry.symmetry_number`).
        scale: factor of the frequencies in the thermochemistry and in `Vibrations.scaled_frequencies`.
        cutoff: frequency [1/cm] below which modes count as rotors in the quasi-RRHO entropy.
        relax: whether to relax; False for a geometry that already is a stationary point.
        follow_imaginary: whether to displace the molecule along its lowest imaginary mode and to relax it again, until
            there is none or `_MAX_FOLLOWED` have been followed.
        fmax: convergence threshold [eV/Å] of the relaxation.
        max_steps: maximum number of steps of a relaxation.
        start: see `optimize`.
        seed: random seed of the start geometry.
        max_seconds: time limit [s] for the start geometry.
        device: device of the model; ignored for a loaded model.

    Raises:
        PhysConError: invalid input; see `errors` for the subclasses. Imaginary modes and failed relaxations are not
            errors, see `Vibrations.status`.
    """
    began = perf_counter()
    (row,) = as_rows([molecule])
    molecule = unless_error(row.molecule)
    _check_settings(molecule, temperature, pressure, symmetry_number, scale, cutoff, relax, follow_imaginary)
    if isinstance(start, Atoms) and start.constraints:
        raise PhysConError(_CONSTRAINED)
    temperature, pressure, scale, cutoff = float(temperature), float(pressure), float(scale), float(cutoff)
    loaded = double(checkpoint, device)
    options: dict[str, Any] = {"level": level, "checkpoint": loaded, "fmax": fmax, "seed": seed}
    found = optimize(molecule, start=start, max_steps=max_steps if relax else 0, max_seconds=max_seconds, **options)
    modes, n_followed = normal_modes(found.atoms, loaded.model, found.level), 0
    while follow_imaginary and modes.frequencies.min(initial=0.0) < 0 and n_followed < _MAX_FOLLOWED:
        found = _follow(found, modes, max_steps, options)
        modes, n_followed = normal_modes(found.atoms, loaded.model, found.level), n_followed + 1
    number, origin = _symmetry(found, symmetry_number)
    return Vibrations(
        relaxation=found,
        modes=modes,
        scale=scale,
        thermochemistry=thermochemistry(
            found.atoms,
            modes.frequencies,
            found.energy,
            temperature=temperature,
            pressure=pressure,
            symmetry_number=number,
            origin_of_symmetry=origin,
            scale=scale,
            cutoff=cutoff,
        ),
        n_followed=n_followed,
        status=_status(found, modes, relax),
        seconds=perf_counter() - began,
    )


def _follow(found: Result, modes: NormalModes, max_steps: int, options: dict[str, Any]) -> Result:
    """The minimum next to a saddle point, downhill along its lowest imaginary mode."""
    shift = modes.displacements[0] / np.linalg.norm(modes.displacements[0], axis=1).max()
    atoms = found.atoms.copy()
    atoms.positions = atoms.positions + _FOLLOWED * shift
    if found.graph is None:
        return optimize(atoms, max_steps=max_steps, **options)
    lower = optimize(found.graph, start=atoms, max_steps=max_steps, **options)
    return replace(lower, start=found.start)


def _symmetry(found: Result, stated: int | None) -> tuple[int, str]:
    """Symmetry number and its origin."""
    if stated is not None:
        return int(stated), "stated"
    graph, atoms = found.graph, found.atoms
    if graph is None:
        isotopes = isotopes_of_masses(atoms.numbers, atoms.get_masses(), atomic_masses[atoms.numbers])
        graph = make_graph(atoms.numbers, np.zeros((0, 2)), np.zeros(0), isotopes=isotopes)
    return symmetry_number_of(graph, atoms.positions), "proper rotations of the geometry"


def _status(found: Result, modes: NormalModes, was_relaxed: bool) -> str:
    if was_relaxed and not found.is_minimum:
        return found.status
    if found.fmax > _STATIONARY:
        return f"not a stationary point: the largest force is {found.fmax:.3f} eV/Å, above {_STATIONARY}; relax it"
    doubts = f"uncertain: {'; '.join(found.doubts)}" if found.doubts else ""
    n_imaginary = int((modes.frequencies < 0).sum())
    if n_imaginary:
        saddle = (
            f"{counted(n_imaginary, 'imaginary mode')}, the lowest {abs(modes.frequencies[0]):.0f}i 1/cm: not a "
            "minimum; use follow_imaginary=True, or another start"
        )
        return f"{saddle}; {doubts}" if doubts else saddle
    return doubts or "minimum"


def double(checkpoint: str | Path | LoadedModel, device: torch.device | str) -> LoadedModel:
    """The model in float64.

    Raises:
        PhysConError: a loaded model with another dtype.
    """
    loaded = (
        checkpoint if isinstance(checkpoint, LoadedModel) else load_model(checkpoint, device=device, dtype="float64")
    )
    dtype = loaded.model.energy.embedding.weight.dtype
    if dtype != torch.float64:
        raise PhysConError(f"frequencies need a model in float64, received {dtype}: load_model(..., dtype='float64')")
    return loaded


def check_conditions(
    temperature: float, pressure: float, symmetry_number: int | None, scale: float, cutoff: float
) -> None:
    """Checks the settings of the thermochemistry.

    Raises:
        PhysConError: a number that is not positive.
    """
    positive = {"temperature [K]": temperature, "pressure [Pa]": pressure, "scale": scale, "cutoff [1/cm]": cutoff}
    for name, value in positive.items():
        above_zero(name, value)
    if symmetry_number is not None:
        at_least_one("symmetry_number", symmetry_number)


def _check_settings(
    molecule: object,
    temperature: float,
    pressure: float,
    symmetry_number: int | None,
    scale: float,
    cutoff: float,
    relax: bool,
    follow_imaginary: bool,
) -> None:
    check_conditions(temperature, pressure, symmetry_number, scale, cutoff)
    if not relax and not isinstance(molecule, Atoms | Geometry):
        raise PhysConError("relax=False requires a geometry: pass ase.Atoms at a stationary point, or relax the SMILES")
    if isinstance(molecule, Atoms):
        for atom, mass in enumerate(molecule.get_masses().tolist()):
            above_zero(f"the mass [amu] of atom {atom}", mass)
    if isinstance(molecule, Atoms) and molecule.constraints:
        raise PhysConError(_CONSTRAINED)
    if not relax and follow_imaginary:
        raise PhysConError("follow_imaginary=True relaxes the molecule: omit relax=False")

"""Start geometries of relaxations, shared by `one` and `many`."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from ase import Atoms
from ase.data import atomic_masses
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from physcon_ase.chem.conformers import has_parameters
from physcon_ase.chem.environments import bonds_by_distance
from physcon_ase.chem.fragments import Fragment, largest_fragment, n_fragments
from physcon_ase.chem.graph import MolGraph
from physcon_ase.chem.isotopes import isotopes_of_masses
from physcon_ase.chem.perceive import graph_from_geometry
from physcon_ase.chem.smiles import canonical_smiles
from physcon_ase.errors import BondPerceptionError, ConstraintError, PhysConError
from physcon_ase.inference.embedding import embed_many
from physcon_ase.inference.formats.rows import Geometry, as_rows
from physcon_ase.inference.generator import ATOMS_PER_BATCH, N_CONFORMERS, StructureGenerator, atoms_of, set_isotopes
from physcon_ase.inference.intake import (
    charge_and_multiplicity,
    check_atoms,
    check_relaxation,
    check_same_atoms,
    check_seconds,
    check_structure,
    checked_graph,
    or_error,
    unless_error,
)
from physcon_ase.inference.results import Guess
from physcon_ase.model.coverage import checked_level, level_for
from physcon_ase.model.physcon import LoadedModel, load_model

STARTS: Final = ("mmff94", "etkdg", "guess")
"""Kinds of start geometries: lowest MMFF94 minimum of `N_CONFORMERS` ETKDG geometries (the default), a single ETKDG
geometry, guess of the structure network."""

GUESS_STEPS: Final = 2
"""Number of evaluations of the structure network for a guess that is relaxed afterwards. More evaluations
(`generator.N_STEPS`) save optimiser steps, but increase the total time: `benchmarks/guesses.py --evaluations`."""


@dataclass(frozen=True)
class RelaxationJob:
    """A molecule with its start geometry."""

    graph: MolGraph | None
    """The molecule; None for a geometry whose bonds could not be perceived."""
    atoms: Atoms
    """The start geometry."""
    start: str
    """Kind of start geometry, with the reason if it is not the requested one."""
    seed: int
    """Random seed of the start geometry."""
    level: str = ""
    """Level of theory; set by `jobs_of`."""


@dataclass(frozen=True)
class Settings:
    """Settings shared by all molecules of a call."""

    loaded: LoadedModel
    """Model with its name and revision."""
    level: str
    """Level of theory, or "auto"."""
    fmax: float
    """Convergence threshold [eV/Å] for the largest force."""
    max_steps: int
    """Maximum number of optimiser steps."""
    max_seconds: float
    """Time limit [s] for the start geometry of a molecule."""
    method: str = "lbfgs"
    """Batched optimiser."""
    fragments: str = "all"
    """Choice for several fragments, see `chem.fragments.chosen_fragments`."""
    atoms_per_batch: int = ATOMS_PER_BATCH
    """Number of slots per batch."""


@dataclass(frozen=True)
class PicklableSettings:
    """Settings sent to other processes without the model, which these processes load by its name."""

    settings: Settings
    """The settings."""
    checkpoint: str | Path | LoadedModel
    """Shipped name, folder or loaded model; a loaded model is sent as it is."""
    device: torch.device | str
    """Device of the model."""
    dtype: torch.dtype | str
    """Dtype of the model."""

    def __getstate__(self) -> dict[str, Any]:
        if isinstance(self.checkpoint, LoadedModel):
            return self.__dict__
        settings = {field.name: getattr(self.settings, field.name) for field in fields(self.settings)}
        del settings["loaded"]
        return {**self.__dict__, "settings": settings}

    def __setstate__(self, state: dict[str, Any]) -> None:
        settings = state["settings"]
        if not isinstance(settings, Settings):
            settings = Settings(loaded=_loaded(state["checkpoint"], state["device"], state["dtype"]), **settings)
        self.__dict__.update(state, settings=settings)

    @property
    def description(self) -> dict[str, Any]:
        """Everything on which results depend, for the journal of a run."""
        settings = {
            name: getattr(self.settings, name)
            for name in ("level", "fmax", "max_steps", "max_seconds", "method", "fragments", "atoms_per_batch")
        }
        weight = next(self.settings.loaded.model.parameters())
        model = {"model": self.settings.loaded.name, "revision": self.settings.loaded.revision}
        return {**settings, **model, "dtype": str(weight.dtype)}


@lru_cache(maxsize=1)
def _loaded(checkpoint: str | Path, device: torch.device | str, dtype: torch.dtype | str) -> LoadedModel:
    """The model, loaded once per worker process."""
    return load_model(checkpoint, device=device, dtype=dtype)


def settings_of(
    checkpoint: str | Path | LoadedModel,
    level: str,
    fmax: float,
    max_steps: int,
    max_seconds: float,
    device: torch.device | str,
    dtype: torch.dtype | str,
) -> Settings:
    """Checks the settings of a call and loads the model.

    Raises:
        PhysConError: an invalid number, level or checkpoint.
    """
    check_relaxation(fmax, max_steps)
    check_seconds(max_seconds)
    loaded = checkpoint if isinstance(checkpoint, LoadedModel) else load_model(checkpoint, device=device, dtype=dtype)
    return Settings(loaded, checked_level(level, loaded.model), fmax, max_steps, max_seconds)


def jobs_of(
    molecules: Sequence[Any], start: str | Atoms | None, seeds: Sequence[int], settings: Settings
) -> list[RelaxationJob | PhysConError]:
    """Start geometry, or error, of each molecule; molecules with known bonds lose their positions if `start` is given.

    Args:
        molecules: SMILES, graphs, geometries, or errors.
        start: kind of start geometry, a geometry, or None for the default.
        seeds: random seed of each molecule.
        settings: settings of the call.
    """
    jobs: list[RelaxationJob | PhysConError | None] = [None] * len(molecules)
    graphs: dict[int, MolGraph] = {}
    for index, (molecule, seed) in enumerate(zip(molecules, seeds, strict=True)):
        if isinstance(molecule, PhysConError):
            jobs[index] = molecule
        elif isinstance(molecule, Atoms):
            jobs[index] = or_error(_job_of_atoms, molecule, start, seed, settings)
        elif isinstance(molecule, Geometry) and start is None:
            jobs[index] = or_error(_job_of_geometry, molecule, seed, settings)
        else:
            known = molecule.graph if isinstance(molecule, Geometry) else molecule
            graph = or_error(checked_graph, known, settings.loaded.model, settings.level, settings.fragments)
            if isinstance(graph, PhysConError):
                jobs[index] = graph
            else:
                graphs[index] = graph
    own_seeds = [seeds[index] for index in graphs]
    for index, job in zip(graphs, _jobs_of_graphs(list(graphs.values()), start, own_seeds, settings), strict=True):
        jobs[index] = job
    return [job if isinstance(job, PhysConError) else _with_level(job, settings) for job in jobs if job is not None]


def _with_level(job: RelaxationJob, settings: Settings) -> RelaxationJob:
    charge, _ = charge_and_multiplicity(job.atoms)
    return replace(job, level=level_for(settings.level, [(job.atoms.numbers, charge)], settings.loaded.model))


def _jobs_of_graphs(
    graphs: Sequence[MolGraph], start: str | Atoms | None, seeds: Sequence[int], settings: Settings
) -> list[RelaxationJob | PhysConError]:
    if isinstance(start, Atoms):
        return [or_error(_job_at, graph, start, seed) for graph, seed in zip(graphs, seeds, strict=True)]
    start = start or STARTS[0]
    if start not in STARTS:
        raise PhysConError(f"unknown start {start!r}; choose one of {', '.join(STARTS)}, or pass ase.Atoms")
    if start == "guess":
        return _jobs_of_guesses(graphs, seeds, settings)
    n_conformers = N_CONFORMERS if start == "mmff94" else 0
    places = embed_many(graphs, seeds, n_conformers=n_conformers, max_seconds=settings.max_seconds)
    return [
        place if isinstance(place, PhysConError) else _job_of_embedded(graph, place, start, seed)
        for graph, place, seed in zip(graphs, places, seeds, strict=True)
    ]


def _job_of_embedded(graph: MolGraph, positions: np.ndarray, start: str, seed: int) -> RelaxationJob:
    if start == "mmff94" and not has_parameters(graph):
        start = "etkdg (MMFF94 has no parameters)"
    return RelaxationJob(graph, atoms_of(graph, positions), start, seed)


def _jobs_of_guesses(
    graphs: Sequence[MolGraph], seeds: Sequence[int], settings: Settings
) -> list[RelaxationJob | PhysConError]:
    """Guesses of single molecules, and MMFF94 minima of complexes, for which the structure network is not trained."""
    generator = StructureGenerator(
        settings.loaded, level=settings.level, n_steps=GUESS_STEPS, max_seconds=settings.max_seconds
    )
    jobs: dict[int, RelaxationJob | PhysConError] = {}
    single = [index for index, graph in enumerate(graphs) if n_fragments(graph) == 1]
    guesses = generator.generate_many(
        [graphs[index] for index in single],
        seeds=[seeds[index] for index in single],
        atoms_per_batch=settings.atoms_per_batch,
    )
    jobs.update(zip(single, map(_job_of_guess, guesses), strict=True))
    several = [index for index in range(len(graphs)) if index not in jobs]
    minima = _jobs_of_graphs([graphs[i] for i in several], "mmff94", [seeds[i] for i in several], settings)
    jobs.update(zip(several, minima, strict=True))
    return [jobs[index] for index in range(len(graphs))]


def _job_of_guess(guess: Guess | PhysConError) -> RelaxationJob | PhysConError:
    if isinstance(guess, PhysConError):
        return guess
    start = f"guess ({guess.fallback})" if guess.fallback else "guess"
    return RelaxationJob(guess.graph, atoms_of(guess.graph, guess.positions), start, guess.seed)


def _job_at(graph: MolGraph, start: Atoms, seed: int) -> RelaxationJob:
    check_same_atoms(start, graph)
    atoms = start.copy()
    atoms.info["charge"] = graph.charge
    set_isotopes(atoms, graph)
    return RelaxationJob(graph, atoms, "geometry", seed)


def _job_of_geometry(geometry: Geometry, seed: int, settings: Settings) -> RelaxationJob:
    graph, atoms = geometry.graph, geometry.atoms.copy()
    if settings.fragments == "largest" and n_fragments(graph) > 1:
        part = largest_fragment(graph)
        graph, atoms = part.graph, _part_of(atoms, part)
        atoms.info["spin"] = graph.multiplicity  # that of the whole may be of another molecule
    check_structure(atoms, settings.loaded.model, settings.level)
    return RelaxationJob(graph, atoms, geometry.origin, seed)


def _job_of_atoms(atoms: Atoms, start: str | Atoms | None, seed: int, settings: Settings) -> RelaxationJob:
    if start is not None:
        raise PhysConError(
            "start was given, but the molecule is already a geometry: omit start, or pass a SMILES instead"
        )
    atoms = _largest_part(atoms) if settings.fragments == "largest" else atoms.copy()
    charge, _ = check_structure(atoms, settings.loaded.model, settings.level)
    return RelaxationJob(graph_of_geometry(atoms, charge), atoms, "geometry", seed)


def _largest_part(atoms: Atoms) -> Atoms:
    """Copy of a geometry, or of the largest of its molecules.

    Raises:
        BondPerceptionError: there are several, but their bonds, and thus their charges, are unknown.
        ConstraintError, PhysConError: see `_part_of` and `intake.check_atoms`.
    """
    check_atoms(atoms)
    graph = graph_of_geometry(atoms, charge_and_multiplicity(atoms)[0])
    if graph is not None:
        return _part_of(atoms, largest_fragment(graph)) if n_fragments(graph) > 1 else atoms.copy()
    bonds = bonds_by_distance(atoms.numbers, atoms.positions)
    ends = (np.ones(len(bonds)), (bonds[:, 0], bonds[:, 1]))
    if connected_components(coo_array(ends, shape=(len(atoms), len(atoms))), directed=False)[0] > 1:
        raise BondPerceptionError(
            f"no bonds were found for {atoms.get_chemical_formula('reduce')}; the charges of its molecules are unknown "
            "and the largest cannot be taken alone: give an SD file or a SMILES, or one molecule"
        )
    return atoms.copy()


def _part_of(atoms: Atoms, part: Fragment) -> Atoms:
    """One molecule of a geometry of several, with its own charge."""
    if atoms.constraints:
        raise ConstraintError(
            "the geometry has constraints, which are not kept for fragments='largest': remove them "
            "(del atoms.constraints), or give the molecule alone"
        )
    own = atoms[part.atoms]
    assert isinstance(own, Atoms)
    own.info["charge"] = part.graph.charge
    return own


def graph_of_geometry(atoms: Atoms, charge: int) -> MolGraph | None:
    """Graph perceived from a geometry, with the isotopes of its masses; None if no bonds fit."""
    try:
        return _perceived(atoms, charge)
    except BondPerceptionError:  # bonds are optional; without them, their integrity is not checked
        return None


def _perceived(atoms: Atoms, charge: int) -> MolGraph:
    isotopes = isotopes_of_masses(atoms.numbers, atoms.get_masses(), atomic_masses[atoms.numbers])
    return graph_from_geometry(atoms.numbers, atoms.positions, charge, isotopes)


def bonds_of(job: RelaxationJob) -> np.ndarray | None:
    """Bonds of a molecule; None without a graph."""
    return None if job.graph is None else job.graph.bonds


def graph_and_positions(molecule: Any, settings: Settings) -> tuple[MolGraph, np.ndarray | None, Settings]:
    """Graph of a molecule, the positions [Å] of a geometry, and the settings with the level of the molecule.

    Raises:
        BondPerceptionError: no bonds were found for a geometry.
        ConstraintError: a geometry has constraints.
        PhysConError: see `intake.checked_graph` and `intake.check_structure`.
    """
    (row,) = as_rows([molecule])
    molecule = unless_error(row.molecule)
    if isinstance(molecule, Atoms) and molecule.constraints:
        raise ConstraintError(
            "the geometry has constraints, which are not used here: remove them (del atoms.constraints)"
        )
    model, positions = settings.loaded.model, None
    if isinstance(molecule, Geometry):
        check_structure(molecule.atoms, model, settings.level)
        graph, positions = molecule.graph, molecule.atoms.positions
    elif isinstance(molecule, Atoms):
        charge, _ = check_structure(molecule, model, settings.level)
        graph, positions = _perceived(molecule, charge), molecule.positions
    else:
        graph = checked_graph(molecule, model, settings.level)
    level = level_for(settings.level, [(graph.atomic_numbers, graph.charge)], model)
    return graph, positions, replace(settings, level=level)


def name_of(molecule: Any) -> str:
    """SMILES as given, canonical SMILES of a graph, name or formula of a geometry."""
    if isinstance(molecule, str):
        return molecule
    if isinstance(molecule, Atoms):
        return str(molecule.info.get("name") or molecule.get_chemical_formula())
    if isinstance(molecule, MolGraph | Geometry):
        return canonical_smiles(molecule if isinstance(molecule, MolGraph) else molecule.graph)
    return "" if isinstance(molecule, PhysConError) else repr(molecule)

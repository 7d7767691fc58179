"""Where a relaxation starts: each molecule of a call with its start geometry, for one molecule as for many."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from ase import Atoms

from physcon_ase.chem.conformers import mmff94_minimize
from physcon_ase.chem.graph import MolGraph
from physcon_ase.chem.perceive import graph_from_geometry
from physcon_ase.errors import BondPerceptionError, MissingParametersError, PhysConError
from physcon_ase.inference.embedding import embed_many
from physcon_ase.inference.generator import ATOMS_PER_BATCH, StructureGenerator, atoms_of
from physcon_ase.inference.intake import (
    check_relaxation,
    check_same_atoms,
    check_seed,
    check_structure,
    checked_graph,
    or_error,
)
from physcon_ase.inference.results import Guess
from physcon_ase.model.physcon import LoadedModel, load_model

STARTS: Final = ("guess", "etkdg", "mmff94")
"""Where a relaxation starts: the structure head's guess, an ETKDG geometry, or that geometry relaxed with MMFF94."""

GUESS_STEPS: Final = 2
"""Evaluations of the structure head for a guess that is relaxed afterwards. More of them (`generator.N_STEPS`) save
steps, but cost more time than these: `benchmarks/guesses.py --evaluations`."""


@dataclass(frozen=True)
class Job:
    """A molecule with its start geometry."""

    graph: MolGraph | None
    """The molecule; None if it was given as a geometry whose bonds could not be found."""
    atoms: Atoms
    """The start geometry."""
    start: str
    """What the start geometry is, with the reason if that is not what was asked for."""
    seed: int
    """Seed of the start geometry."""


@dataclass(frozen=True)
class Settings:
    """What all molecules of a call share."""

    loaded: LoadedModel
    """The model, with its name and revision."""
    level: str
    """Level of theory."""
    fmax: float
    """Largest force [eV/Å] of a converged geometry."""
    max_steps: int
    """Steps at most."""
    max_seconds: float
    """Cap on the time for a start geometry."""
    method: str | None = None
    """Batched optimiser; None for one that suits the size of the molecules."""
    n_processes: int = 1
    """Processes that look for start geometries."""
    atoms_per_batch: int = ATOMS_PER_BATCH
    """Slots of a batch."""


def settings_of(
    checkpoint: str | Path | LoadedModel,
    level: str | None,
    fmax: float,
    max_steps: int,
    seed: int,
    max_seconds: float,
    device: torch.device | str,
    dtype: torch.dtype | str,
) -> Settings:
    """The settings of a call, with the model loaded.

    Raises:
        PhysConError: a number, a level or a checkpoint is refused.
    """
    check_relaxation(fmax, max_steps)
    check_seed(seed)
    loaded = checkpoint if isinstance(checkpoint, LoadedModel) else load_model(checkpoint, device=device, dtype=dtype)
    level = loaded.model.level_names[0] if level is None else loaded.model.level(level).name
    return Settings(loaded, level, fmax, max_steps, max_seconds)


def jobs_of(
    molecules: Sequence[Any], start: str | Atoms | None, seed: int, settings: Settings
) -> list[Job | PhysConError]:
    """Each molecule with its start geometry, or with what is wrong with it."""
    jobs: list[Job | PhysConError | None] = [
        or_error(_job_of_geometry, molecule, start, seed, settings) if isinstance(molecule, Atoms) else None
        for molecule in molecules
    ]
    graphs: dict[int, MolGraph] = {}
    for index, molecule in enumerate(molecules):
        if not isinstance(molecule, Atoms):
            graph = or_error(checked_graph, molecule, settings.loaded.model, settings.level)
            if isinstance(graph, PhysConError):
                jobs[index] = graph
            else:
                graphs[index] = graph
    for index, job in zip(graphs, _jobs_of_graphs(list(graphs.values()), start, seed, settings), strict=True):
        jobs[index] = job
    return [job for job in jobs if job is not None]


def _jobs_of_graphs(
    graphs: Sequence[MolGraph], start: str | Atoms | None, seed: int, settings: Settings
) -> list[Job | PhysConError]:
    if isinstance(start, Atoms):
        return [or_error(_job_at, graph, start, seed) for graph in graphs]
    if start is None:
        start = "guess" if settings.loaded.model.structure is not None else "etkdg"
    if start not in STARTS:
        raise PhysConError(f"unknown start {start!r}; choose one of {', '.join(STARTS)}, or pass ase.Atoms")
    if start == "guess":
        generator = StructureGenerator(
            settings.loaded, level=settings.level, n_steps=GUESS_STEPS, max_seconds=settings.max_seconds
        )
        guesses = generator.generate_many(
            graphs, seed=seed, n_processes=settings.n_processes, atoms_per_batch=settings.atoms_per_batch
        )
        return [_job_of_guess(guess) for guess in guesses]
    seeds = [seed] * len(graphs)
    places = embed_many(graphs, seeds, max_seconds=settings.max_seconds, n_processes=settings.n_processes)
    finish = _job_of_etkdg if start == "etkdg" else _job_of_mmff94
    return [
        place if isinstance(place, PhysConError) else finish(graph, place, seed)
        for graph, place in zip(graphs, places, strict=True)
    ]


def _job_of_guess(guess: Guess | PhysConError) -> Job | PhysConError:
    if isinstance(guess, PhysConError):
        return guess
    start = f"guess ({guess.fallback})" if guess.fallback else "guess"
    return Job(guess.graph, atoms_of(guess.graph, guess.positions), start, guess.seed)


def _job_of_etkdg(graph: MolGraph, positions: np.ndarray, seed: int) -> Job:
    return Job(graph, atoms_of(graph, positions), "etkdg", seed)


def _job_of_mmff94(graph: MolGraph, positions: np.ndarray, seed: int) -> Job:
    try:
        relaxed = mmff94_minimize(graph, positions).positions
    except MissingParametersError:
        return replace(_job_of_etkdg(graph, positions, seed), start="etkdg (MMFF94 has no parameters)")
    return Job(graph, atoms_of(graph, relaxed), "mmff94", seed)


def _job_at(graph: MolGraph, start: Atoms, seed: int) -> Job:
    check_same_atoms(start, graph)
    atoms = start.copy()
    atoms.info["charge"] = graph.charge
    return Job(graph, atoms, "geometry", seed)


def _job_of_geometry(atoms: Atoms, start: str | Atoms | None, seed: int, settings: Settings) -> Job:
    if start is not None:
        raise PhysConError(
            "start is given, but the molecule is a geometry already: leave start out, or pass a SMILES instead"
        )
    charge, _ = check_structure(atoms, settings.loaded.model, settings.level)
    try:
        graph = graph_from_geometry(atoms.numbers, atoms.positions, charge)
    except BondPerceptionError:  # bonds are optional: without them it cannot be said whether they are intact
        graph = None
    return Job(graph, atoms.copy(), "geometry", seed)


def bonds_of(job: Job) -> np.ndarray | None:
    """The bonds of a molecule; None if it has no graph."""
    return None if job.graph is None else job.graph.bonds

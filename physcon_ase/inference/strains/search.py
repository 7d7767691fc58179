"""Strain of poses: two relaxations of the given geometry, and a search for the lowest conformer."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from time import perf_counter
from typing import Any, Final

import numpy as np
import torch
from ase import Atoms
from ase.constraints import FixInternals

from physcon_ase.chem.compare import rmsd
from physcon_ase.chem.fragments import chosen_fragments
from physcon_ase.chem.graph import MolGraph, neighbours_of
from physcon_ase.chem.smiles import canonical_smiles
from physcon_ase.chem.torsions import rotatable_bonds
from physcon_ase.errors import PhysConError
from physcon_ase.inference.batched import relax_jobs
from physcon_ase.inference.constraints import check_constraints
from physcon_ase.inference.ensembles.ensemble import Ensemble
from physcon_ase.inference.ensembles.search import MAX_SECONDS, check_n, ensemble
from physcon_ase.inference.generator import ATOMS_PER_BATCH, atoms_of
from physcon_ase.inference.intake import checked_seed, or_error, unless_error
from physcon_ase.inference.long_runs import run_each
from physcon_ase.inference.results import Result, Status, status_of
from physcon_ase.inference.run_records import RunRecord, record_of_outcome
from physcon_ase.inference.starts import PicklableSettings, RelaxationJob, Settings, graph_and_positions, settings_of
from physcon_ase.inference.strains.strain import Strain
from physcon_ase.model.coverage import AUTO
from physcon_ase.model.physcon import DEFAULT_CHECKPOINT, LoadedModel

WINDOW: Final = 2.0
"""Energy [kcal/mol] above the lowest conformer up to which the search keeps conformers."""


def strain(
    pose: Atoms | Any,
    *,
    n: int | str = "auto",
    level: str = AUTO,
    checkpoint: str | Path | LoadedModel = DEFAULT_CHECKPOINT,
    seed: int = 0,
    fmax: float = 0.01,
    max_steps: int = 500,
    atoms_per_batch: int = ATOMS_PER_BATCH,
    max_seconds: float = MAX_SECONDS,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | str = torch.float64,
) -> Strain:
    """Energy of a pose above the lowest conformer, in the gas phase.

    Bond lengths and angles of experimental and docked poses deviate from those of the model by more than the strain.
    The pose is therefore relaxed first, with the dihedral angles about its rotatable bonds held; hydroxyl groups,
    methyl groups and other rotors with hydrogens only are free. The nearest minimum is reached from there without
    constraints, and the lowest conformer by `ensemble`. Poses of the same molecule share one search.

    Args:
        pose: geometry, RDKit molecule or row of a file; bonds that are not given are perceived.
        n: number of ETKDG geometries of the search; "auto" chooses 50 to 300 by the torsional degrees of freedom.
        level: level of theory; "auto" for the first of the checkpoint that covers the molecule.
        checkpoint: shipped name, folder or loaded model.
        seed: random seed of the search.
        fmax: convergence threshold [eV/Å] for the largest force on any atom.
        max_steps: maximum number of steps of each relaxation.
        atoms_per_batch: number of slots per batch; halved if memory runs out.
        max_seconds: time limit [s] for the ETKDG geometries.
        device: device of the model; ignored for a loaded model.
        dtype: dtype of the model; ignored for a loaded model.

    Raises:
        NoConformersError, EmbeddingError: the search found no conformer.
        FragmentsError: there are several molecules.
        BondPerceptionError: no bonds were found for a geometry.
        ConstraintError: the geometry has constraints, or three atoms of a dihedral angle are on a line.
        PhysConError: a molecule without positions, or invalid input; see `errors` for the subclasses.
    """
    settings = settings_of(checkpoint, level, fmax, max_steps, max_seconds, device, dtype)
    check_n(n)
    return _strain(replace(settings, atoms_per_batch=atoms_per_batch), n, pose, checked_seed(seed))


def strain_many(
    poses: Iterable[Atoms | Any],
    *,
    n: int | str = "auto",
    level: str = AUTO,
    checkpoint: str | Path | LoadedModel = DEFAULT_CHECKPOINT,
    seed: int = 0,
    fmax: float = 0.01,
    max_steps: int = 500,
    n_processes: int = 1,
    scheduler: str | None = None,
    journal: str | Path | None = None,
    atoms_per_batch: int = ATOMS_PER_BATCH,
    max_seconds: float = MAX_SECONDS,
    on_progress: Callable[[int, int], None] | None = None,
    progress_bar: bool = True,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | str = torch.float64,
) -> list[RunRecord[Strain]]:
    """Strain of many poses.

    Arguments as in `strain`, and those of `optimize_many` for long runs: `n_processes`, `scheduler`, `journal`,
    `on_progress`. Each process searches the conformers of a molecule once, if its poses follow each other.

    Returns:
        A record for each pose, in input order.

    Raises:
        PhysConError: invalid settings or checkpoint. Errors of single molecules are reported in their records.
        StoreError: the journal belongs to a different run.
    """
    check_n(n)
    seed, settings = checked_seed(seed), settings_of(checkpoint, level, fmax, max_steps, max_seconds, device, dtype)
    shared = PicklableSettings(replace(settings, atoms_per_batch=atoms_per_batch), checkpoint, device, dtype)
    outcomes = run_each(
        partial(_strain_with, shared, n),
        poses,
        result_type=Strain,
        settings={**shared.description, "n": n},
        seed=seed,
        n_processes=n_processes,
        scheduler=scheduler,
        journal=journal,
        on_progress=on_progress,
        progress_bar=progress_bar,
    )
    return [record_of_outcome("strain", outcome, Strain.judged) for outcome in outcomes]


def _strain_with(shared: PicklableSettings, n: int | str, pose: Any, seed: int) -> Strain:
    return _strain(shared.settings, n, pose, seed)


def _strain(settings: Settings, n: int | str, molecule: Any, seed: int) -> Strain:
    began = perf_counter()
    graph, given, settings = graph_and_positions(molecule, settings)
    if given is None:
        raise PhysConError(
            f"{canonical_smiles(graph)!r} has no positions, but strain is that of a geometry: give one, for instance "
            "in an SD file"
        )
    graph = chosen_fragments(graph, "one")
    held = held_dihedrals(graph)
    pose = _relaxed(graph, given, held, settings)
    nearest = _relaxed(graph, pose.atoms.positions, (), settings)
    smiles = canonical_smiles(graph)
    found = unless_error(_conformers(smiles, n, seed, settings))
    heavy = graph.atomic_numbers > (1 if (graph.atomic_numbers > 1).any() else 0)
    energies = [found.energies[0], *([nearest.energy] if nearest.is_minimum else [])]
    return Strain(
        pose=_without_constraints(pose.atoms),
        nearest=nearest.atoms,
        pose_energy=pose.energy,
        nearest_energy=nearest.energy,
        lowest_energy=float(min(energies)),
        n_conformers=len(found),
        held=held,
        pose_rmsd=rmsd(pose.atoms.positions[heavy], given[heavy]),
        nearest_rmsd=rmsd(nearest.atoms.positions[heavy], given[heavy]),
        graph=graph,
        smiles=smiles,
        problem=_problem(pose, nearest),
        fmax=settings.fmax,
        seed=seed,
        model=settings.loaded.name,
        revision=settings.loaded.revision,
        level=settings.level,
        seconds=perf_counter() - began,
        doubts=tuple(dict.fromkeys([*pose.doubts, *nearest.doubts, *found.doubts])),
    )


def held_dihedrals(graph: MolGraph) -> tuple[tuple[int, int, int, int], ...]:
    """Dihedral angle about each rotatable bond with a further heavy atom at both ends."""
    neighbours, is_heavy = neighbours_of(graph), graph.atomic_numbers > 1
    found = []
    for rotor in rotatable_bonds(graph):
        first, second = rotor.bond
        before = [atom for atom in neighbours[first] if atom != second and is_heavy[atom]]
        after = [atom for atom in neighbours[second] if atom != first and is_heavy[atom]]
        if before and after:
            found.append((before[0], first, second, after[0]))
    return tuple(found)


def _relaxed(
    graph: MolGraph, positions: np.ndarray, held: Sequence[tuple[int, int, int, int]], settings: Settings
) -> Result:
    """Result of a relaxation with dihedral angles held at their values."""
    atoms = atoms_of(graph, positions)
    if held:
        atoms.set_constraint(FixInternals(dihedrals_deg=[[None, list(members)] for members in held]))
        check_constraints(atoms)
    job = RelaxationJob(graph, atoms, "geometry", seed=0, level=settings.level)
    (outcome,) = relax_jobs([job], settings)
    return unless_error(outcome)


@lru_cache(maxsize=8)
def _conformers(smiles: str, n: int | str, seed: int, settings: Settings) -> Ensemble | PhysConError:
    """Conformers of a molecule, or the error of the search, once for all of its poses."""
    return or_error(
        ensemble,
        smiles,
        n=n,
        window=WINDOW,
        level=settings.level,
        checkpoint=settings.loaded,
        seed=seed,
        fmax=settings.fmax,
        max_steps=settings.max_steps,
        atoms_per_batch=settings.atoms_per_batch,
        max_seconds=settings.max_seconds,
        progress_bar=False,
    )


def _problem(pose: Result, nearest: Result) -> tuple[Status, str]:
    for result, which in ((pose, "torsions held"), (nearest, "nearest minimum")):
        if not result.is_minimum:
            return status_of(result), f"{which}: {result.status}"
    return "ok", ""


def _without_constraints(atoms: Atoms) -> Atoms:
    free = atoms.copy()
    free.set_constraint()
    free.calc = atoms.calc
    return free

"""Conformer ensembles: ETKDG geometries, relaxed in two stages without duplicates."""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any, Final

import numpy as np
import torch
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator

from physcon_ase.chem.canonical import canonical_order
from physcon_ase.chem.conformers import embed_ensemble, has_parameters
from physcon_ase.chem.duplicates import Tolerances, rmsd_table
from physcon_ase.chem.flexibility import n_conformers
from physcon_ase.chem.fragments import chosen_fragments
from physcon_ase.chem.graph import MolGraph
from physcon_ase.chem.perceive import graph_from_bonds
from physcon_ase.chem.smiles import canonical_smiles, undefined_stereo
from physcon_ase.chem.symmetry import symmetry_number
from physcon_ase.errors import NoConformersError, PhysConError
from physcon_ase.inference.doubts import doubts_of
from physcon_ase.inference.ensembles.ensemble import (
    STANDARD_TEMPERATURE,
    Conformer,
    Ensemble,
    boltzmann_weights,
)
from physcon_ase.inference.ensembles.stages import Relaxed, Stages
from physcon_ase.inference.generator import ATOMS_PER_BATCH, atoms_of
from physcon_ase.inference.intake import above_zero, at_least_one, checked_seed
from physcon_ase.inference.long_runs import run_each
from physcon_ase.inference.run_records import RunRecord, record_of_outcome
from physcon_ase.inference.starts import PicklableSettings, Settings, graph_and_positions, settings_of
from physcon_ase.model.coverage import AUTO
from physcon_ase.model.physcon import DEFAULT_CHECKPOINT, LoadedModel
from physcon_ase.plurals import counted
from physcon_ase.units import EV_PER_KCAL_PER_MOL

MAX_SECONDS: Final = 120.0
"""Default time limit [s] for the ETKDG geometries of one molecule."""


def ensemble(
    molecule: str | MolGraph | Atoms | Any,
    *,
    n: int | str = "auto",
    window: float = 6.0,
    level: str = AUTO,
    checkpoint: str | Path | LoadedModel = DEFAULT_CHECKPOINT,
    temperature: float = STANDARD_TEMPERATURE,
    seed: int = 0,
    prerelax: bool = True,
    tolerances: Tolerances | None = None,
    fmax: float = 0.01,
    max_steps: int = 500,
    atoms_per_batch: int = ATOMS_PER_BATCH,
    max_seconds: float = MAX_SECONDS,
    progress_bar: bool = True,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | str = torch.float64,
) -> Ensemble:
    """Searches the conformers of a molecule.

    ETKDG geometries are relaxed with MMFF94 and then, together with a geometry given by the user, with the model: first
    to `stages.LOOSE_FMAX`, then to `fmax`. Duplicates and geometries outside the window are left out after
    each relaxation. Embedding and relaxation use the canonical atom order, so that the result does not depend on the
    spelling of a SMILES. The mirror image of a conformer of an achiral molecule is a conformer too and always included.

    Args:
        molecule: SMILES, graph, geometry, RDKit molecule or row of a file; geometries without known bonds need bonds
            that can be perceived.
        n: number of ETKDG geometries; "auto" chooses 50 to 300 by the torsional degrees of freedom.
        window: energy [kcal/mol] above the lowest conformer up to which conformers are included.
        level: level of theory; "auto" for the first of the checkpoint that covers the molecule.
        checkpoint: shipped name, folder or loaded model.
        temperature: temperature [K] of the Boltzmann weights.
        seed: random seed of the ETKDG geometries.
        prerelax: whether to relax the ETKDG geometries with MMFF94, if it has parameters for the molecule.
        tolerances: tolerances within which two conformers are duplicates.
        fmax: convergence threshold [eV/Å] for the largest force on any atom.
        max_steps: maximum number of steps of the second stage.
        atoms_per_batch: number of slots per batch; halved if memory runs out.
        max_seconds: time limit [s] for the ETKDG geometries.
        progress_bar: whether to show a progress bar on a terminal.
        device: device of the model; ignored for a loaded model.
        dtype: dtype of the model; ignored for a loaded model.

    Raises:
        NoConformersError: every conformer was left out; the message gives the reasons and their counts.
        EmbeddingError: no start geometry was found.
        FragmentsError: there are several molecules.
        BondPerceptionError: no bonds were found for a geometry.
        PhysConError: invalid input; see `errors` for the subclasses.
    """
    options = _Options(n, window, temperature, prerelax, tolerances or Tolerances(), progress_bar)
    seed, settings = checked_seed(seed), settings_of(checkpoint, level, fmax, max_steps, max_seconds, device, dtype)
    return _search(molecule, seed, options, replace(settings, atoms_per_batch=atoms_per_batch))


def ensemble_many(
    molecules: Iterable[str | MolGraph | Atoms | Any],
    *,
    checkpoint: str | Path | LoadedModel = DEFAULT_CHECKPOINT,
    n: int | str = "auto",
    window: float = 6.0,
    level: str = AUTO,
    temperature: float = STANDARD_TEMPERATURE,
    seed: int = 0,
    prerelax: bool = True,
    tolerances: Tolerances | None = None,
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
) -> list[RunRecord[Ensemble]]:
    """Searches the conformers of many molecules.

    Arguments as in `ensemble`, and those of `optimize_many` for long runs: `n_processes`, `scheduler`, `journal`,
    `on_progress`.

    Returns:
        A record for each molecule, in input order.

    Raises:
        PhysConError: invalid settings or checkpoint. Errors of single molecules are reported in their records.
        StoreError: the journal belongs to a different run.
    """
    options = _Options(n, window, temperature, prerelax, tolerances or Tolerances(), progress_bar=False)
    seed, settings = checked_seed(seed), settings_of(checkpoint, level, fmax, max_steps, max_seconds, device, dtype)
    shared = PicklableSettings(replace(settings, atoms_per_batch=atoms_per_batch), checkpoint, device, dtype)
    outcomes = run_each(
        partial(_search_with, shared, options),
        molecules,
        result_type=Ensemble,
        settings={**shared.description, **asdict(options)},
        seed=seed,
        n_processes=n_processes,
        scheduler=scheduler,
        journal=journal,
        on_progress=on_progress,
        progress_bar=progress_bar,
    )
    return [record_of_outcome("ensemble", outcome, Ensemble.judged) for outcome in outcomes]


def check_n(n: int | str) -> None:
    """Checks a number of ETKDG geometries.

    Raises:
        PhysConError: neither a number of at least 1 nor "auto".
    """
    if n != "auto":
        if isinstance(n, str):
            raise PhysConError(f"n is {n!r}; give a number of geometries or 'auto'")
        at_least_one("n", n)


@dataclass(frozen=True)
class _Options:
    """Settings of a search."""

    n: int | str
    window: float
    temperature: float
    prerelax: bool
    tolerances: Tolerances
    progress_bar: bool

    def __post_init__(self) -> None:
        check_n(self.n)
        above_zero("window [kcal/mol]", self.window)
        above_zero("temperature [K]", self.temperature)


def _search_with(shared: PicklableSettings, options: _Options, molecule: Any, seed: int) -> Ensemble:
    return _search(molecule, seed, options, shared.settings)


def _search(molecule: Any, seed: int, options: _Options, settings: Settings) -> Ensemble:
    began, left_out = perf_counter(), Counter()
    graph, given, settings = graph_and_positions(molecule, settings)
    graph = chosen_fragments(graph, "one")  # a geometry may have several, too
    undefined = tuple(undefined_stereo(graph))
    if undefined:
        graph = _with_chosen_stereo(graph, seed, settings.max_seconds)
    order = canonical_order(graph)
    n = n_conformers(graph) if isinstance(options.n, str) else options.n
    starts = embed_ensemble(order.graph, n=n, seed=seed, max_seconds=settings.max_seconds)
    left_out["not embedded in time"] = n - len(starts)
    n_starts = len(starts) + (given is not None)
    stages = Stages(order.graph, settings, options.tolerances, left_out)
    prerelaxed = options.prerelax and has_parameters(order.graph)
    if prerelaxed:
        starts = stages.prerelaxed(starts)
    if given is not None:
        starts = [given[np.argsort(order.places)], *starts]
    found = stages.relaxed(starts, options.window, prerelax=prerelaxed, progress_bar=options.progress_bar)
    n_starts += stages.n_rotated
    reasons = {reason: count for reason, count in left_out.items() if count}
    if not found:
        raise NoConformersError(
            f"no conformer of {canonical_smiles(graph)!r} from "
            f"{counted(n_starts, 'start geometry', 'start geometries')} "
            f"({', '.join(f'{count} {reason}' for reason, count in reasons.items())}): try another seed, more steps or "
            "another level"
        )
    provenance = {
        "smiles": canonical_smiles(graph),
        "model": settings.loaded.name,
        "revision": settings.loaded.revision,
        "level": settings.level,
        "seed": seed,
        "temperature_K": float(options.temperature),
    }
    numbers = [symmetry_number(order.graph, each.positions) for each in found]
    weights = boltzmann_weights(np.array([each.energy for each in found]), options.temperature, numbers)
    conformers = tuple(
        _conformer(graph, order.places, each, found[0].energy, weight, number, {**provenance, "conformer": index})
        for index, (each, weight, number) in enumerate(zip(found, weights.tolist(), numbers, strict=True))
    )
    return Ensemble(
        conformers=conformers,
        rmsd=rmsd_table(graph, [conformer.atoms.positions for conformer in conformers]),
        graph=graph,
        smiles=canonical_smiles(graph),
        undefined_stereo=undefined,
        n_starts=n_starts,
        left_out=reasons,
        prerelaxed=prerelaxed,
        window=float(options.window),
        temperature=float(options.temperature),
        tolerances=options.tolerances,
        fmax=settings.fmax,
        seed=seed,
        model=settings.loaded.name,
        revision=settings.loaded.revision,
        level=settings.level,
        seconds=perf_counter() - began,
        doubts=doubts_of(
            settings.loaded.model,
            settings.level,
            graph.atomic_numbers,
            graph.bonds,
            found[0].energy_uncertainty,
            graph,
            conformers[0].atoms.positions,
        ),
    )


def _with_chosen_stereo(graph: MolGraph, seed: int, max_seconds: float) -> MolGraph:
    """Graph with the configuration of the first ETKDG geometry, so that all conformers are of the same stereoisomer."""
    order = canonical_order(graph)
    positions = embed_ensemble(order.graph, n=1, seed=seed, max_seconds=max_seconds)[0][order.places]
    fields = (graph.atomic_numbers, graph.bonds, graph.bond_orders, graph.formal_charges)
    return graph_from_bonds(*fields, isotopes=graph.isotopes, positions=positions)


def _conformer(
    graph: MolGraph,
    places: np.ndarray,
    found: Relaxed,
    lowest: float,
    weight: float,
    number: int,
    info: dict[str, Any],
) -> Conformer:
    """Conformer in the atom order of the input."""
    atoms, forces = atoms_of(graph, found.positions[places]), found.forces[places]
    relative = (found.energy - lowest) / EV_PER_KCAL_PER_MOL
    atoms.info |= {**info, "relative_energy_kcal_per_mol": relative, "weight": weight}
    atoms.calc = SinglePointCalculator(atoms, energy=found.energy, forces=forces)
    return Conformer(
        atoms=atoms,
        energy=found.energy,
        relative_energy=relative,
        weight=weight,
        symmetry_number=number,
        fmax=float(np.linalg.norm(forces, axis=1).max()),
        mirror_image=found.mirror_image,
        energy_uncertainty=found.energy_uncertainty,
    )

"""Batched relaxation of start geometries, shared by `many`, ensembles, scans and strains."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from time import perf_counter

import numpy as np
import torch
from torch import Tensor

from physcon_ase.batch import Batch, in_chunks, make_batch, threads_for, with_positions
from physcon_ase.errors import NotEnoughMemoryError
from physcon_ase.inference.constraints import constraints_of
from physcon_ase.inference.intake import charge_and_multiplicity
from physcon_ase.inference.outcome import result_of
from physcon_ase.inference.results import Result
from physcon_ase.inference.starts import RelaxationJob, Settings, bonds_of
from physcon_ase.model.forces import energies_and_forces
from physcon_ase.model.physcon import PhysCon
from physcon_ase.relax.driver import RelaxResult, relax


def relax_jobs(
    jobs: Sequence[RelaxationJob], settings: Settings, on_batch: Callable[[Sequence[Result]], None] | None = None
) -> list[Result | NotEnoughMemoryError]:
    """Relaxes start geometries in batches of similar size.

    Args:
        jobs: the molecules; their constraints must be supported, see `constraints.check_constraints`.
        settings: settings of the call.
        on_batch: called with the results of each batch.

    Returns:
        Results in the order of the jobs; an error for molecules that do not fit into memory.
    """
    outcomes: dict[int, Result | NotEnoughMemoryError] = {}

    def work(rows: list[int]) -> None:
        results = _relax_batch([jobs[row] for row in rows], settings)
        outcomes.update(zip(rows, results, strict=True))
        if on_batch is not None:
            on_batch(results)

    by_level: dict[str, list[int]] = defaultdict(list)
    for row, job in enumerate(jobs):
        by_level[job.level].append(row)
    for rows in by_level.values():
        sizes = [len(jobs[row].atoms) for row in rows]
        too_large = in_chunks(sizes, settings.atoms_per_batch, lambda places, own=rows: work([own[k] for k in places]))
        for place, error in too_large.items():
            outcomes[rows[place]] = error
    return [outcomes[row] for row in range(len(jobs))]


def _relax_batch(jobs: Sequence[RelaxationJob], settings: Settings) -> list[Result]:
    """Results of molecules that have the same level."""
    level = jobs[0].level
    began, model = perf_counter(), settings.loaded.model
    weight = next(model.parameters())
    # Centred in float64, since float32 loses precision far from the origin.
    centres = [job.atoms.positions.mean(axis=0) for job in jobs]
    places = [job.atoms.positions - centre for job, centre in zip(jobs, centres, strict=True)]
    batch = make_batch(
        [job.atoms.numbers for job in jobs],
        places,
        charges=[charge_and_multiplicity(job.atoms)[0] for job in jobs],
        dtype=weight.dtype,
        device=weight.device,
    )
    energy_fn = model.energy_fn(level)
    constraints = constraints_of([job.atoms for job in jobs], batch)
    with threads_for(batch):
        relaxed = relax(
            lambda molecules: energies_and_forces(energy_fn, molecules),
            batch,
            fmax=settings.fmax,
            max_steps=settings.max_steps,
            method=settings.method,
            bonds=[bonds_of(job) for job in jobs],
            constraints=constraints,
            history=True,
        )
        final = with_positions(batch, relaxed.positions)
        uncertainties = _energy_uncertainties(model, level, final)
        # as in ASE, forces of a result include the components along constrained coordinates
        forces = relaxed.forces if constraints.is_empty else energies_and_forces(energy_fn, final)[1].detach()
    seconds = (perf_counter() - began) / len(jobs)
    return [
        _result_of_batch(job, settings, relaxed, row, forces[row], centres[row], uncertainties[row], seconds)
        for row, job in enumerate(jobs)
    ]


def _energy_uncertainties(model: PhysCon, level: str, batch: Batch) -> Sequence[float | None]:
    if level not in model.config.energy_uncertainty:
        return [None] * len(batch)
    with torch.no_grad():
        found = model.energy_uncertainties(model.evaluate(batch, level).features, level)
    assert found is not None
    return found.tolist()


def _result_of_batch(
    job: RelaxationJob,
    settings: Settings,
    relaxed: RelaxResult,
    row: int,
    forces: Tensor,
    centre: np.ndarray,
    energy_uncertainty: float | None,
    seconds: float,
) -> Result:
    assert relaxed.trajectories is not None
    way, n_atoms = relaxed.trajectories[row], len(job.atoms)
    return result_of(
        job,
        settings,
        positions=relaxed.positions[row, :n_atoms].double().cpu().numpy() + centre,
        forces=forces[:n_atoms].double().cpu().numpy(),
        energy_uncertainty=energy_uncertainty,
        energies=way.energies,
        fmax_history=way.fmax,
        status=relaxed.statuses[row],
        seconds=seconds,
        optimizer=f"batched {settings.method}",
    )

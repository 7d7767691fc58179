"""Results of relaxations, shared by `one` and `many`, with a check of bonds and configuration."""

from dataclasses import replace
from typing import Final

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator

from physcon_ase.chem.compare import bonds_intact, stereo_intact
from physcon_ase.chem.environments import bonds_by_distance
from physcon_ase.chem.smiles import canonical_smiles, undefined_stereo
from physcon_ase.inference.doubts import doubts_of, unfit_charge
from physcon_ase.inference.intake import charge_and_multiplicity
from physcon_ase.inference.results import Result
from physcon_ase.inference.starts import RelaxationJob, Settings
from physcon_ase.relax.driver import RelaxStatus

CHANGED_BONDS: Final = "bonds changed during the relaxation: start from another geometry or seed"
"""Status of a converged relaxation that broke or formed bonds."""

CHANGED_STEREO: Final = "the configuration changed during the relaxation: start from another geometry or seed"
"""Status of a converged relaxation that changed the stereochemistry."""

_INFO: Final = (
    "smiles", "model", "revision", "level", "units", "energy_uncertainty", "converged", "steps", "fmax",
    "bonds_intact", "stereo_intact", "start", "optimizer", "seed",
)  # fmt: skip
"""Fields of a result that are stored in `Atoms.info`."""


def result_of(
    job: RelaxationJob,
    settings: Settings,
    *,
    positions: np.ndarray,
    forces: np.ndarray,
    energy_uncertainty: float | None,
    energies: np.ndarray,
    fmax_history: np.ndarray,
    status: RelaxStatus,
    seconds: float,
    optimizer: str,
) -> Result:
    """Assembles the result of a relaxation.

    Args:
        job: the molecule and its start geometry.
        settings: settings of the call.
        positions: final positions [Å], [atoms, 3].
        forces: final forces [eV/Å], [atoms, 3].
        energy_uncertainty: standard deviation [eV] of the error of the final energy, if known.
        energies: energy [eV] of the start geometry and after each step, [frames].
        fmax_history: largest force [eV/Å] of the same geometries, [frames].
        status: outcome of the relaxation.
        seconds: wall time [s].
        optimizer: name of the optimiser.
    """
    graph = job.graph
    has_bonds = None if graph is None else bonds_intact(graph, positions).intact
    has_stereo = None if graph is None else stereo_intact(graph, positions).intact
    bonds = bonds_by_distance(job.atoms.numbers, positions) if graph is None else graph.bonds
    doubts = doubts_of(settings.loaded.model, job.level, job.atoms.numbers, bonds, energy_uncertainty, graph, positions)
    if graph is None and len(job.atoms) > 1:
        charge, _ = charge_and_multiplicity(job.atoms)
        doubts = (unfit_charge(charge), *doubts)
    result = Result(
        atoms=job.atoms,
        graph=graph,
        smiles="" if graph is None else canonical_smiles(graph),
        energy=float(energies[-1]),
        fmax=float(fmax_history[-1]),
        converged=status is RelaxStatus.CONVERGED,
        steps=len(energies) - 1,
        seconds=seconds,
        energies=energies,
        fmax_history=fmax_history,
        bonds_intact=has_bonds,
        stereo_intact=has_stereo,
        undefined_stereo=() if graph is None else tuple(undefined_stereo(graph)),
        start=job.start,
        optimizer=optimizer,
        model=settings.loaded.name,
        revision=settings.loaded.revision,
        level=job.level,
        seed=job.seed,
        status=_status(status, has_bonds, has_stereo, doubts),
        energy_uncertainty=energy_uncertainty,
        doubts=doubts,
    )
    return replace(result, atoms=_labelled(result, positions, forces))


def _status(status: RelaxStatus, has_bonds: bool | None, has_stereo: bool | None, doubts: tuple[str, ...]) -> str:
    if status is not RelaxStatus.CONVERGED:
        return str(status)
    if has_bonds is False:
        return CHANGED_BONDS
    if has_stereo is False:
        return CHANGED_STEREO
    return f"uncertain: {'; '.join(doubts)}" if doubts else str(status)


def _labelled(result: Result, positions: np.ndarray, forces: np.ndarray) -> Atoms:
    atoms = result.atoms.copy()
    atoms.positions = positions
    fields = {name: getattr(result, name) for name in _INFO}
    for name, value in fields.items():
        atoms.info.pop(name, None)  # of an earlier result that was the input
        if value is not None and value != "":  # which cannot be represented in extended XYZ
            atoms.info[name] = value
    atoms.calc = SinglePointCalculator(atoms, energy=result.energy, forces=np.array(forces))
    return atoms

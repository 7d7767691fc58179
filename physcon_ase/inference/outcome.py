"""How a relaxation ended: its result, and whether it is still the molecule asked for, for one molecule as for many."""

from dataclasses import replace
from typing import Final

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator

from physcon_ase.chem.compare import bonds_intact, stereo_intact
from physcon_ase.chem.smiles import canonical_smiles, undefined_stereo
from physcon_ase.inference.results import Result
from physcon_ase.inference.starts import Job, Settings
from physcon_ase.relax.driver import RelaxStatus

CHANGED_BONDS: Final = "bonds changed on the way, this is another molecule: start from another geometry or seed"
"""Status of a relaxation that broke or formed bonds."""

CHANGED_STEREO: Final = "the configuration changed on the way: start from another geometry or seed"
"""Status of a relaxation that lost its stereochemistry."""

_INFO: Final = (
    "smiles", "model", "revision", "level", "units", "energy_uncertainty", "converged", "steps", "fmax",
    "bonds_intact", "stereo_intact", "start", "optimizer", "seed",
)  # fmt: skip
"""Fields of a result that go with its geometry into a file."""


def result_of(
    job: Job,
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
    """The result of a relaxation.

    Args:
        job: the molecule and its start geometry.
        settings: those of the call.
        positions: final positions [Å].
        forces: forces [eV/Å] there.
        energy_uncertainty: standard deviation [eV] of the error of the final energy, if it is known.
        energies: energy [eV] of the start and after each step.
        fmax_history: largest force [eV/Å] of the same geometries.
        status: how the relaxation ended.
        seconds: wall time.
        optimizer: its name.
    """
    graph = job.graph
    has_bonds = None if graph is None else bonds_intact(graph, positions).intact
    has_stereo = None if graph is None else stereo_intact(graph, positions).intact
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
        level=settings.level,
        seed=job.seed,
        status=_status(status, has_bonds, has_stereo),
        energy_uncertainty=energy_uncertainty,
    )
    return replace(result, atoms=_labelled(result, positions, forces))


def _status(status: RelaxStatus, has_bonds: bool | None, has_stereo: bool | None) -> str:
    if status is not RelaxStatus.CONVERGED:
        return str(status)
    if has_bonds is False:
        return CHANGED_BONDS
    return CHANGED_STEREO if has_stereo is False else str(status)


def _labelled(result: Result, positions: np.ndarray, forces: np.ndarray) -> Atoms:
    atoms = result.atoms.copy()
    atoms.positions = positions
    fields = {name: getattr(result, name) for name in _INFO}
    # A reader of extended XYZ cannot tell an empty text or None from a missing one.
    atoms.info.update({name: value for name, value in fields.items() if value is not None and value != ""})
    atoms.calc = SinglePointCalculator(atoms, energy=result.energy, forces=np.array(forces))
    return atoms

"""Data generated in minutes: MMFF94 minima as inexpensive structures, GFN2-xTB as the accurate level.

For every molecule without an error, a store contains

    start           MMFF94 minimum of one ETKDG conformer
    thermal (two)   displaced from it as at 0 to 700 K
    minimum         GFN2-xTB minimum reached from it, the reference of the study

each with its GFN2-xTB energy and forces.

The molecules are 6,000 of QM9 (Ramakrishnan et al. 2014, doi 10.1038/sdata.2014.22, CC0), drawn with seed 0.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from tqdm import tqdm

from physcon_ase.batch import make_batch
from physcon_ase.chem.compare import bonds_intact, stereo_intact
from physcon_ase.chem.conformers import embed, mmff94_minimize
from physcon_ase.chem.graph import MolGraph
from physcon_ase.chem.smiles import canonical_key, graph_from_smiles
from physcon_ase.data.rows import GeometryRow, Label, molecule_row, store_from_rows
from physcon_ase.data.split import key_hash, split_of
from physcon_ase.data.store import Store
from physcon_ase.errors import PhysConError
from physcon_ase.labelling.displacements import hessian_factor, thermal_displacements
from physcon_ase.labelling.engines import EngineFunction, Molecule, engine_forces
from physcon_ase.plurals import counted
from physcon_ase.relax.driver import RelaxStatus, relax

CHEAP: Final = "mmff94"
ACCURATE: Final = "gfn2"
N_THERMAL: Final = 2
"""Displaced geometries of a molecule."""

_FMAX: Final = 0.01
_MAX_STEPS: Final = 200


@dataclass(frozen=True)
class _Molecule:
    """Geometries and labels of one molecule, in the order of `_KINDS`."""

    graph: MolGraph
    positions: list[np.ndarray]
    energies: list[float]
    forces: list[np.ndarray]


_KINDS: Final = ("start", *["thermal"] * N_THERMAL, "minimum")
_MINIMA: Final = (CHEAP, *[""] * N_THERMAL, ACCURATE)


def study_smiles() -> list[str]:
    """SMILES of the molecules, in random order."""
    return Path(__file__).with_name("molecules.smi").read_text(encoding="utf-8").split()


def make_store(
    smiles: Sequence[str], engine: EngineFunction, *, seed: int = 0, progress: bool = True
) -> tuple[Store, dict]:
    """The store of these molecules, and by SMILES why others have none.

    Args:
        smiles: the molecules.
        engine: of the accurate level.
        seed: of conformers and displacements.
        progress: whether to draw a bar.
    """
    found, failed = [], {}
    for row, text in enumerate(tqdm(smiles, disable=not progress, unit="molecule")):
        try:
            found.append(_make(text, engine, seed + row))
        except PhysConError as error:
            failed[text] = str(error)
    if not found:
        raise PhysConError(
            f"none of {counted(len(smiles), 'molecule')} could be made; the first failed because: {failed[smiles[0]]}"
        )
    return _pack(found, seed), failed


def _make(smiles: str, engine: EngineFunction, seed: int) -> _Molecule:
    graph = graph_from_smiles(smiles, allow_charged=False)
    start = mmff94_minimize(graph, embed(graph, seed=seed)[0]).positions
    generator = np.random.default_rng(seed)
    numbers = graph.atomic_numbers
    # keep_rigid: the published tables were made so
    factor = hessian_factor(graph, start, keep_rigid=True)
    places = [start, *thermal_displacements(start, factor, generator, N_THERMAL)]
    batch = make_batch([numbers], [start], dtype=torch.float64)
    ended = relax(engine_forces(engine), batch, fmax=_FMAX, max_steps=_MAX_STEPS, bonds=[graph.bonds])
    if ended.statuses[0] is not RelaxStatus.CONVERGED:
        raise PhysConError(f"relaxation did not converge: {ended.statuses[0]}")
    places.append(ended.positions[0].numpy())
    for place in (places[0], places[-1]):
        if not (bonds_intact(graph, place).intact and stereo_intact(graph, place).intact):
            raise PhysConError("a minimum has other bonds or another configuration than the graph")
    labels = [engine(Molecule(numbers, place, graph.charge, graph.multiplicity)) for place in places]
    energies, forces = [label.energy for label in labels], [label.forces for label in labels]
    return _Molecule(graph, places, energies, forces)


def _pack(molecules: Sequence[_Molecule], seed: int) -> Store:
    # geometry by geometry of all molecules: the order in which the published tables were made
    rows = [
        GeometryRow(
            row, own.positions[place], kind, minimum_of, {ACCURATE: Label(own.energies[place], own.forces[place])}
        )
        for place, (kind, minimum_of) in enumerate(zip(_KINDS, _MINIMA, strict=True))
        for row, own in enumerate(molecules)
    ]
    return store_from_rows(
        [molecule_row(own.graph, f"study-{row}") for row, own in enumerate(molecules)],
        rows,
        source="study",
        licence="CC0",
        doi="10.1038/sdata.2014.22",
        provenance=f"studies/shared/selfmade.py, seed {seed}: ETKDG, MMFF94 (RDKit), GFN2-xTB (tblite)",
    )


def split_smiles(smiles: Sequence[str], n_train: int, n_test: int) -> list[str]:
    """So many molecules of the training and of the test split, and a tenth of the test split for validation."""
    wanted = {"train": n_train, "test": n_test, "validation": max(n_test // 10, 1)}
    chosen: dict[str, list[str]] = {split: [] for split in wanted}
    for text in smiles:
        split = split_of(key_hash(canonical_key(text)))
        if len(chosen[split]) < wanted[split]:
            chosen[split].append(text)
    short = {split: len(rows) for split, rows in chosen.items() if len(rows) < wanted[split]}
    if short:
        raise PhysConError(f"{len(smiles)} molecules give only {short} of {wanted}; ask for fewer")
    return [text for rows in chosen.values() for text in rows]

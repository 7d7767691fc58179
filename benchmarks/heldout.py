"""Held-out molecules: read from a store, evaluated and relaxed in batches, compared with their labels."""

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from physcon_ase.batch import Batch, make_batch, unpad
from physcon_ase.chem.compare import (
    bond_angles_mae,
    bond_lengths_mae,
    bonds_intact,
    rmsd,
    stereo_intact,
    symmetric_rmsd,
)
from physcon_ase.chem.graph import MolGraph
from physcon_ase.chem.smiles import canonical_key
from physcon_ase.data.split import key_hash, split_mask, split_of
from physcon_ase.data.store import Store, geometry_offsets, molecule_graph, open_store
from physcon_ase.labelling.engines import engine_forces, tblite_engine
from physcon_ase.labelling.engines.aimnet2 import aimnet2_engine
from physcon_ase.model.config import LevelConfig
from physcon_ase.model.forces import energies_and_forces
from physcon_ase.model.physcon import PhysCon
from physcon_ase.relax.driver import RelaxStatus, relax
from physcon_ase.relax.state import ForceFn

STORES = {
    "wb97m": {
        "displaced": "wb97m_openff_displaced",
        "near": "wb97m_openff_near",
        "rotated": "wb97m_openff_rotated",
        "torsions": "wb97m_openff_torsions",
        "qm9": "wb97m_qm9_displaced",
        "pairs": "wb97m_pairs_5",
        "ions": "wb97m_ions_2",
        "families": "wb97m_families_6",
        "hypervalent": "wb97m_hypervalent",
        "far apart": "separated_wb97m_4",
    },
    "b3lyp-d3": {
        "torsions": "openff_torsions",
        "displaced": "anchored_openff_near",
        "small": "b3lyp_d3_small",
        "far apart": "separated_b3lyp_d3_4",
    },
    "b3lyp": {"displaced": "anchored_qm9_far", "thermal": "b3lyp_thermal"},
}
"""Stores with energies and forces by level and kind: of each kind one that the last stage of the recipe uses."""

FORCES_ONLY = ("b3lyp_thermal",)
"""Stores with PySCF energies, which differ from the QM9 energies that the level is trained on."""

ATOMS_PER_BATCH = 1024
"""Slots of a batch, empty ones included."""


@dataclass(frozen=True)
class Geometry:
    """One geometry of a molecule with its labels."""

    kind: str
    """"minimum of b3lyp", "thermal", "twist", ..."""
    positions: np.ndarray
    """[atoms, 3] [Å]"""
    energies: dict[str, float]
    """Energy [eV] by level of theory; absent labels are left out."""
    forces: dict[str, np.ndarray]
    """Forces [atoms, 3] [eV/Å] by level of theory; absent labels are left out."""


@dataclass(frozen=True)
class Molecule:
    """A molecule with its geometries."""

    name: str
    """Name in its data set."""
    graph: MolGraph
    """In the atom order of the geometries."""
    all_geometries: tuple[Geometry, ...]
    """In the order of the store; there may be several of one kind."""

    @functools.cached_property
    def geometries(self) -> dict[str, Geometry]:
        """The first geometry of each kind."""
        found: dict[str, Geometry] = {}
        for geometry in self.all_geometries:
            found.setdefault(geometry.kind, geometry)
        return found


@dataclass(frozen=True)
class Relaxed:
    """How the relaxation of one molecule ended."""

    positions: np.ndarray
    """[atoms, 3] [Å]"""
    status: RelaxStatus
    """Converged, or the reason why not."""
    steps: int
    """Evaluations after the first."""


def read_test_molecules(
    path: Path,
    *,
    limit: int,
    seed: int,
    split: str = "test",
    with_energy: str | None = None,
    with_geometries: Sequence[str] = (),
    at_least: int = 1,
) -> list[Molecule]:
    """Molecules of the test split of a store in random order.

    Args:
        path: the store.
        limit: number of molecules at most.
        seed: of the order; a smaller limit gives the first of them.
        split: another split, to compare with errors on training molecules.
        with_energy: level at which the molecules must have an energy.
        with_geometries: kinds of geometries that the molecules must have.
        at_least: number of geometries that the molecules must have.
    """
    store = open_store(path)
    rows = np.random.default_rng(seed).permutation(np.flatnonzero(split_mask(store, split)))
    geometries, offsets = _geometries_of(store), geometry_offsets(store)
    chosen: list[Molecule] = []
    for row in rows.tolist():
        if len(chosen) >= limit:
            break
        if len(geometries[row]) < at_least:
            continue
        molecule = _read(store, row, geometries[row], offsets)
        has_energy = with_energy is None or any(with_energy in g.energies for g in molecule.all_geometries)
        if has_energy and all(kind in molecule.geometries for kind in with_geometries):
            chosen.append(molecule)
    return chosen


def is_held_out(smiles: str) -> bool:
    """Whether a molecule is in the test split, so that no training has seen it."""
    return split_of(key_hash(canonical_key(smiles))) == "test"


def covered(molecules: Sequence[Molecule], level: LevelConfig) -> list[Molecule]:
    """Those whose elements and charge the level covers."""
    return [
        molecule
        for molecule in molecules
        if set(molecule.graph.atomic_numbers.tolist()) <= set(level.elements) and molecule.graph.charge in level.charges
    ]


def by_size(sizes: Sequence[int]) -> Iterator[np.ndarray]:
    """Indices in batches of similar size and at most `ATOMS_PER_BATCH` slots."""
    order, begin = np.argsort(sizes, kind="stable"), 0
    while begin < len(order):
        end = begin + 1
        while end < len(order) and (end + 1 - begin) * sizes[order[end]] <= ATOMS_PER_BATCH:
            end += 1
        yield order[begin:end]
        begin = end


def model_forces(model: PhysCon, level: str) -> ForceFn:
    """Energies and forces of a batch at a level."""
    return functools.partial(energies_and_forces, model.energy_fn(level))


def gfn2_forces() -> ForceFn:
    """Energies and forces of GFN2-xTB, molecule by molecule; NaN where the calculation fails."""
    return engine_forces(tblite_engine())


def aimnet2_forces(path: Path | None = None, *, member: int | None = None, max_spread: float = float("inf")) -> ForceFn:
    """Energies and forces of AIMNet2; NaN where the networks disagree by more than `max_spread`.

    Args:
        path: the wheel; by default that of the environment variable PHYSCON_AIMNET2.
        member: one of the four networks; their mean by default.
        max_spread: disagreement [eV/Å] of the networks above which energies of the mean are NaN.
    """
    return engine_forces(aimnet2_engine(path, member=member, mean=member is None, max_spread=max_spread))


def predict_all(
    force_fn: ForceFn, graphs: Sequence[MolGraph], positions: Sequence[np.ndarray]
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Energies [eV] and forces [eV/Å] of all geometries, in their order; both NaN where the energy is not finite."""
    energies, forces = np.zeros(len(graphs)), [np.zeros(0)] * len(graphs)
    for chosen in by_size([graph.n_atoms for graph in graphs]):
        batch = _batch([graphs[i] for i in chosen], [positions[i] for i in chosen])
        batch_energies, batch_forces = force_fn(batch)
        energies[chosen] = batch_energies.numpy()
        for index, own in zip(chosen, unpad(batch, batch_forces), strict=True):
            forces[index] = own if np.isfinite(energies[index]) else np.full_like(own, np.nan)
    return energies, forces


def relax_all(
    force_fn: ForceFn,
    graphs: Sequence[MolGraph],
    positions: Sequence[np.ndarray],
    *,
    fmax: float,
    max_steps: int,
    noisy: bool = False,
) -> list[Relaxed]:
    """Relaxes all molecules with the package's batched optimiser, in batches of similar size.

    Args:
        force_fn: energies and forces of a batch.
        graphs: the molecules.
        positions: start geometries [Å].
        fmax: end of relaxations [eV/Å].
        max_steps: number of evaluations after the first at most.
        noisy: whether energies have the noise of float32 (AIMNet2), which would end relaxations as stalled.
    """
    results: list[Relaxed | None] = [None] * len(graphs)
    for chosen in by_size([graph.n_atoms for graph in graphs]):
        batch = _batch([graphs[i] for i in chosen], [positions[i] for i in chosen])
        bonds = [graphs[i].bonds for i in chosen]
        used = functools.partial(_rounded, force_fn) if noisy else force_fn
        ended = relax(used, batch, fmax=fmax, max_steps=max_steps, bonds=bonds)
        places = unpad(batch, ended.positions)
        for index, place, status, steps in zip(chosen, places, ended.statuses, ended.steps.tolist(), strict=True):
            results[index] = Relaxed(place.astype(np.float64), status, steps)
    return [result for result in results if result is not None]


def _rounded(force_fn: ForceFn, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """Energies in float32: the optimiser allows for the noise of the format that it is given."""
    energies, forces = force_fn(batch)
    return energies.float(), forces


def differences(graph: MolGraph, a: np.ndarray, b: np.ndarray) -> dict[str, float]:
    """How two geometries of a molecule differ: RMSD [Å], mean absolute differences of bonds [Å] and angles [°]."""
    return {
        "rmsd": rmsd(a, b),
        "heavy_rmsd": symmetric_rmsd(graph, a, b),
        "heavy_bonds": bond_lengths_mae(graph, a, b),
        "hydrogen_bonds": _hydrogen_bonds_mae(graph, a, b),
        "angles": bond_angles_mae(graph, a, b),
    }


def is_intact(graph: MolGraph, positions: np.ndarray) -> bool:
    """Whether a geometry has the bonds and the stereo of its graph."""
    return bonds_intact(graph, positions).intact and stereo_intact(graph, positions).intact


def _batch(graphs: Sequence[MolGraph], positions: Sequence[np.ndarray]) -> Batch:
    return make_batch(
        [graph.atomic_numbers for graph in graphs],
        positions,
        charges=[graph.charge for graph in graphs],
        multiplicities=[graph.multiplicity for graph in graphs],
    )


def _geometries_of(store: Store) -> list[np.ndarray]:
    order = np.argsort(store.geometries.molecule, kind="stable")
    counts = np.bincount(store.geometries.molecule, minlength=len(store.molecules))
    return np.split(order, np.cumsum(counts)[:-1])


def _read(store: Store, row: int, geometries: np.ndarray, offsets: np.ndarray) -> Molecule:
    found = tuple(_read_geometry(store, index, offsets) for index in geometries.tolist())
    return Molecule(str(store.molecules.name[row]), molecule_graph(store, row), found)


def _read_geometry(store: Store, index: int, offsets: np.ndarray) -> Geometry:
    atoms = slice(offsets[index], offsets[index + 1])
    kind, minimum_of = str(store.geometries.kind[index]), str(store.geometries.minimum_of[index])
    energies, forces = {}, {}
    for level, labels in store.labels.items():
        if np.isfinite(labels.energy[index]):
            energies[level] = float(labels.energy[index])
        if labels.forces is not None and np.isfinite(labels.forces[atoms]).all():
            forces[level] = labels.forces[atoms]
    positions = store.geometries.positions[atoms].astype(np.float64)
    return Geometry(f"minimum of {minimum_of}" if minimum_of else kind, positions, energies, forces)


def _hydrogen_bonds_mae(graph: MolGraph, a: np.ndarray, b: np.ndarray) -> float:
    bonds = graph.bonds[(graph.atomic_numbers[graph.bonds] == 1).any(axis=1)]
    if len(bonds) == 0:
        return float("nan")
    first, second = bonds.T
    lengths = [np.linalg.norm(place[first] - place[second], axis=1) for place in (a, b)]
    return float(np.abs(lengths[0] - lengths[1]).mean())

"""Forces around the minima of a method of which nothing but the minima is known.

A zero force at a minimum x₀ says where the well is, not how steep, and a model that cannot place it exactly does better
with a flatter one. Another energy T knows the slopes around it: its force at x = x₀ + d, less that which it has at x₀
itself, vanishes where it should and has the curvature of T,

    F(x) = F_T(x) - F_T(x₀).

T needs to be right about curvature only: the same molecules at a cheap level, or an accurate one taught by few forces.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np
from jaxtyping import Float
from tqdm import tqdm

from physcon_ase.batch import in_chunks, make_batch
from physcon_ase.chem.compare import bonds_intact
from physcon_ase.chem.graph import MolGraph
from physcon_ase.data.store import Geometries, LevelLabels, Store, geometry_offsets, molecule_graph
from physcon_ase.errors import LabelError
from physcon_ase.labelling.geometries import hessian_factor, thermal_displacements
from physcon_ase.model.forces import energies_and_forces
from physcon_ase.model.physcon import LoadedModel

_SLOTS: Final = 1024


def anchored_forces(
    store: Store,
    minima: Sequence[int],
    teacher: LoadedModel,
    teacher_level: str,
    *,
    n: int = 1,
    max_kelvin: float = 400.0,
    seed: int = 0,
) -> Store:
    """A store with thermal displacements (kind "anchored") of minima, and such forces at the level that they are of.

    Minima with elements or charges that the teacher does not cover are left out, as are displacements that break or
    form a bond.

    Args:
        store: where the minima are.
        minima: their geometries, minima of one level.
        teacher: what knows the curvature.
        teacher_level: at which of its levels.
        n: displacements of each minimum.
        max_kelvin: highest temperature [K] of a displacement.
        seed: of the displacements.

    Raises:
        LabelError: the geometries are not minima of one level, or none is left.
    """
    offsets, generator = geometry_offsets(store), np.random.default_rng(seed)
    levels = {str(store.geometries.minimum_of[row]) for row in minima}
    if len(levels) != 1 or "" in levels:
        raise LabelError(f"the geometries are minima of {sorted(levels)}; choose those of one level")
    (level,) = levels
    config = teacher.model.level(teacher_level)
    elements = set(config.elements)
    anchors: list[tuple[MolGraph, np.ndarray]] = []
    moved: list[tuple[MolGraph, np.ndarray]] = []
    anchor_of, molecule_of = [], []
    for row in minima:
        molecule = int(store.geometries.molecule[row])
        graph, place = molecule_graph(store, molecule), store.geometries.positions[offsets[row] : offsets[row + 1]]
        if graph.charge not in config.charges or not elements.issuperset(graph.atomic_numbers.tolist()):
            continue
        anchors.append((graph, place))
        start = place.astype(float)
        for hot in thermal_displacements(start, hessian_factor(graph, start), generator, n, max_kelvin=max_kelvin):
            if bonds_intact(graph, hot).intact:
                moved.append((graph, hot.astype(np.float32)))
                anchor_of.append(len(anchors) - 1)
                molecule_of.append(molecule)
    if not moved:
        raise LabelError(f"level {teacher_level!r} of {teacher.name} covers none of the {len(minima)} minima")
    at_minima = forces_of(anchors, teacher, teacher_level)
    forces = [own - at_minima[i] for own, i in zip(forces_of(moved, teacher, teacher_level), anchor_of, strict=True)]
    tqdm.write(f"{len(moved)} displacements of {len(anchors)} of {len(minima)} minima of {store.source}")
    return Store(
        molecules=store.molecules,
        geometries=Geometries(
            molecule=np.array(molecule_of, dtype=np.int32),
            kind=np.full(len(moved), "anchored"),
            minimum_of=np.full(len(moved), "", dtype=str),
            positions=np.concatenate([place for _, place in moved]),
        ),
        labels={level: LevelLabels(np.full(len(moved), np.nan), np.concatenate(forces).astype(np.float32))},
        source=f"{store.source}, anchored",
        licence=store.licence,
        doi=store.doi,
        provenance=f"forces of {teacher.name} {teacher.revision[:12]}, level {teacher_level}, less those at the minima",
    )


def forces_of(
    molecules: Sequence[tuple[MolGraph, np.ndarray]], teacher: LoadedModel, level: str
) -> list[Float[np.ndarray, "atoms 3"]]:
    """Forces [eV/Å] of a level on each of these molecules at these positions [Å], many at a time."""
    found: list[np.ndarray] = [np.zeros((0, 3))] * len(molecules)
    energy_fn = teacher.model.energy_fn(level)
    bar = tqdm(total=len(molecules), unit="geometry", disable=None)

    def work(rows: list[int]) -> None:
        batch = make_batch(
            [molecules[i][0].atomic_numbers for i in rows],
            [molecules[i][1] for i in rows],
            charges=[molecules[i][0].charge for i in rows],
        )
        _, forces = energies_and_forces(energy_fn, batch)
        for i, own in zip(rows, forces, strict=True):
            found[i] = own[: molecules[i][0].n_atoms].numpy()
        bar.update(len(rows))

    with bar:
        in_chunks([graph.n_atoms for graph, _ in molecules], _SLOTS, work)
    return found

"""Minima of a teacher, reached by relaxation from those of an inexpensive method."""

from collections.abc import Sequence
from typing import Final

import numpy as np
from tqdm import tqdm

from physcon_ase.batch import in_chunks, make_batch
from physcon_ase.chem.compare import bonds_intact, stereo_intact
from physcon_ase.data.store import Geometries, Store, geometry_offsets, molecule_graph
from physcon_ase.model.forces import energies_and_forces
from physcon_ase.model.physcon import LoadedModel
from physcon_ase.relax.driver import RelaxStatus, relax

_FMAX: Final = 0.01
_MAX_STEPS: Final = 150
_SLOTS: Final = 1024


def taught_minima(store: Store, geometries: Sequence[int], teacher: LoadedModel, level: str) -> Store:
    """A store with the minima that the teacher reaches from these geometries; those that it does not reach (no
    convergence, other bonds, another configuration) are left out.

    Args:
        store: where the geometries are.
        geometries: their rows.
        teacher: the energy model.
        level: its level of theory, of which the new geometries are called minima.
    """
    offsets, energy_fn = geometry_offsets(store), teacher.model.energy_fn(level)
    graphs = [molecule_graph(store, int(store.geometries.molecule[row])) for row in geometries]
    starts = [store.geometries.positions[offsets[row] : offsets[row + 1]] for row in geometries]
    minima: dict[int, np.ndarray] = {}
    bar = tqdm(total=len(graphs), unit="molecule", disable=None)

    def work(rows: list[int]) -> None:
        batch = make_batch(
            [graphs[i].atomic_numbers for i in rows],
            [starts[i] for i in rows],
            charges=[graphs[i].charge for i in rows],
        )
        bonds = [graphs[i].bonds for i in rows]
        ended = relax(lambda b: energies_and_forces(energy_fn, b), batch, fmax=_FMAX, max_steps=_MAX_STEPS, bonds=bonds)
        for i, places, status in zip(rows, ended.positions, ended.statuses, strict=True):
            place = places[: graphs[i].n_atoms].numpy()
            intact = bonds_intact(graphs[i], place).intact and stereo_intact(graphs[i], place).intact
            if status is RelaxStatus.CONVERGED and intact:
                minima[i] = place
        bar.update(len(rows))

    with bar:
        in_chunks([graph.n_atoms for graph in graphs], _SLOTS, work)
    tqdm.write(f"{teacher.name} has {len(minima)} minima for {len(graphs)} molecules")
    kept = sorted(minima)
    return Store(
        molecules=store.molecules,
        geometries=Geometries(
            molecule=store.geometries.molecule[[geometries[i] for i in kept]],
            kind=np.full(len(kept), "minimum"),
            minimum_of=np.full(len(kept), level),
            positions=np.concatenate([minima[i] for i in kept]).astype(np.float32),
        ),
        labels={},
        source=store.source,
        licence=store.licence,
        doi=store.doi,
        provenance=f"minima of {teacher.name} {teacher.revision[:12]}, level {level}, from {store.source}",
    )

"""Geometries on the way of a checkpoint to its minima, from ETKDG geometries or near minima, with another one's forces.

    python recipes/physcon-1/paths.py runs/b3lyp-3/b3lyp-3 runs/energy-9/energy-9 stores/qm9_b3lyp.h5 stores/paths-2.h5

A level that has learned from few geometries has holes where there were none. Whoever relaxes with it finds them, and
so does this, on training molecules of which most have two rings or more. --disagreement keeps what the two differ on.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the clone: studies are no part of the package

from physcon_ase.batch import in_chunks, make_batch
from physcon_ase.chem.conformers import embed
from physcon_ase.chem.graph import MolGraph
from physcon_ase.data.split import split_mask
from physcon_ase.data.store import (
    Geometries,
    LevelLabels,
    Store,
    geometry_offsets,
    molecule_graph,
    open_store,
    write_store,
)
from physcon_ase.errors import EmbeddingError
from physcon_ase.labelling.geometries import Origin, thermal
from physcon_ase.model.forces import energies_and_forces
from physcon_ase.model.physcon import load_model
from physcon_ase.relax.driver import relax
from studies.shared.anchored import forces_of

KEPT = (0, 1, 2, 3, 5, 8, 12, 16, 20, 24)
"""Steps whose geometries are kept, beside the last one."""
RINGLESS = 0.3
"""Share of the molecules with fewer than two rings that are taken."""
LARGEST_FORCE = 30.0
"""[eV/Å] Frames with larger ones of the teacher are left out."""
SLOTS = 1024


def starts(
    store: Store, n: int, seed: int, elements: set[int], least_rings: int, minima_of: str
) -> list[tuple[int, MolGraph, np.ndarray]]:
    """Molecule, graph and geometry of so many training molecules: ETKDG's, or minima of a level displaced by heat."""
    bounds, at_minimum = geometry_offsets(store), np.flatnonzero(store.geometries.minimum_of == minima_of)
    minimum = dict(zip(store.geometries.molecule[at_minimum].tolist(), at_minimum.tolist(), strict=True))
    generator, found = np.random.default_rng(seed), []
    for molecule in generator.permutation(np.flatnonzero(split_mask(store, "train"))).tolist():
        graph = molecule_graph(store, molecule)
        n_rings = len(graph.bonds) - graph.n_atoms + 1
        if not elements.issuperset(graph.atomic_numbers.tolist()) or n_rings < least_rings:
            continue
        if minima_of and molecule not in minimum:
            continue
        if n_rings < 2 and generator.uniform() > RINGLESS:
            continue
        try:
            if minima_of:
                row = minimum[molecule]
                place = store.geometries.positions[bounds[row] : bounds[row + 1]].astype(float)
                ((_, place),) = thermal(Origin(graph, 0, place), int(generator.integers(2**31)), 1)
            else:
                place = embed(graph, seed=seed)[0]
            found.append((molecule, graph, place))
        except EmbeddingError as error:
            tqdm.write(f"molecule {molecule} left out: {error}")
        if len(found) == n:
            break
    return found


def main() -> None:
    """Relaxes, labels, writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", help="whose way is gone")
    parser.add_argument("teacher", help="checkpoint whose forces are the labels, at the same level")
    parser.add_argument("store", help="where the molecules come from")
    parser.add_argument("output")
    parser.add_argument("--level", default="b3lyp")
    parser.add_argument("-n", type=int, default=1800, help="molecules (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=30, help="of each relaxation (default: %(default)s)")
    parser.add_argument(
        "--disagreement", type=float, default=0.0, help="least difference of the force on any atom [eV/Å] (default: 0)"
    )
    parser.add_argument("--rings", type=int, default=0, help="least number of rings of a molecule (default: 0)")
    parser.add_argument("--from-minima", action="store_true", help="begin at minima in the store, displaced by heat")
    parser.add_argument("--seed", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(1)
    student, teacher = load_model(options.checkpoint), load_model(options.teacher)
    energy_fn = student.model.energy_fn(options.level)
    store = open_store(options.store)
    elements, minima_of = set(student.model.level(options.level).elements), options.level if options.from_minima else ""
    chosen = starts(store, options.n, options.seed, elements, options.rings, minima_of)
    frames: list[tuple[int, MolGraph, np.ndarray]] = []

    def go(rows: list[int]) -> None:
        graphs = [chosen[i][1] for i in rows]
        batch = make_batch([graph.atomic_numbers for graph in graphs], [chosen[i][2] for i in rows])
        bonds = [graph.bonds for graph in graphs]
        ended = relax(
            lambda b: energies_and_forces(energy_fn, b),
            batch,
            fmax=0.05,
            max_steps=options.steps,
            bonds=bonds,
            history=True,
        )
        for i, trajectory in zip(rows, ended.trajectories or (), strict=True):
            molecule, graph, _ = chosen[i]
            places = np.asarray(trajectory.positions)[:, : graph.n_atoms]
            kept = sorted({*(k for k in KEPT if k < len(places)), len(places) - 1})
            frames.extend((molecule, graph, places[k]) for k in kept if np.isfinite(places[k]).all())

    in_chunks([graph.n_atoms for _, graph, _ in chosen], SLOTS, go)
    places = [(graph, place) for _, graph, place in frames]
    forces = forces_of(places, teacher, options.level)
    differences = [
        np.linalg.norm(ours - own, axis=1).max()
        for ours, own in zip(forces_of(places, student, options.level), forces, strict=True)
    ]
    rows = [
        i
        for i, own in enumerate(forces)
        if np.abs(own).max() < LARGEST_FORCE and differences[i] >= options.disagreement
    ]
    tqdm.write(f"{len(rows)} of {len(frames)} geometries of {len(chosen)} molecules kept")
    found = Store(
        molecules=store.molecules,
        geometries=Geometries(
            molecule=np.array([frames[i][0] for i in rows], dtype=np.int32),
            kind=np.full(len(rows), "path"),
            minimum_of=np.full(len(rows), "", dtype=str),
            positions=np.concatenate([frames[i][2] for i in rows]).astype(np.float32),
        ),
        labels={
            options.level: LevelLabels(
                np.full(len(rows), np.nan), np.concatenate([forces[i] for i in rows]).astype(np.float32)
            )
        },
        source=f"{store.source}, paths",
        licence=store.licence,
        doi=store.doi,
        provenance=f"forces of {teacher.name} {teacher.revision[:12]}, level {options.level}",
    )
    write_store(options.output, found)


if __name__ == "__main__":
    main()

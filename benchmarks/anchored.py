"""Errors of anchored labels where the true labels can be computed: GFN2-xTB as the teacher of AIMNet2.

    PHYSCON_AIMNET2=WHEEL python benchmarks/anchored.py [--limit 10]

Each molecule is relaxed with one AIMNet2 network, which takes the part of the accurate level, and displaced; the labels
that `physcon_ase.labelling.anchored.anchor` makes of those of GFN2-xTB are compared with those of the network at the
same geometries.
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.optimize import BFGS
from rates import geometry
from reporting import Clock, Row, Table, finish, make_parser

from physcon_ase.chem.graph import MolGraph
from physcon_ase.data.store import Store, geometry_offsets, molecule_graph, open_store
from physcon_ase.labelling.anchored import anchor
from physcon_ase.labelling.engines import Engine, Molecule, aimnet2_engine, tblite_engine
from physcon_ase.labelling.engines.engine import EngineCalculator
from physcon_ase.labelling.inputs import KnownGeometry
from physcon_ase.labelling.pipeline import label
from physcon_ase.labelling.samplings import parse_samplings

SMILES = (
    "CC(=O)Nc1ccc(O)cc1",
    "CC(C)Cc1ccc(cc1)C(C)C(=O)O",
    "CN1CCC[C@H]1c1cccnc1",
    "CCOC(=O)c1ccc(N)cc1",
    "O=C(NCCO)c1ccccc1",
    "CCN(CC)CC(=O)Nc1c(C)cccc1C",
    "COc1ccc(CCN)cc1",
    "O=S(=O)(NC1CCCC1)c1ccccc1",
    "CC(C)NCC(O)COc1ccccc1",
    "Fc1ccc(cc1)C(=O)N1CCOCC1",
)
"""Drug-like molecules of 20 to 39 atoms."""

LEVEL = "accurate"
GEOMETRIES = "start,newton,thermal:20,twist:20,torsion:20"
MAX_KELVIN = 600.0
FMAX = 0.005
MEV = 1000.0


def main(argv: Sequence[str] | None = None) -> None:
    parser = make_parser(__doc__, limit=len(SMILES), checkpoint=False)
    arguments = parser.parse_args(argv)
    clock, accurate, teacher = Clock.now(), aimnet2_engine(member=0), tblite_engine()
    graphs, places = zip(*(relaxed(smiles, accurate) for smiles in SMILES[: arguments.limit]), strict=True)
    with tempfile.TemporaryDirectory() as folder:
        minima = [
            KnownGeometry(graph, place, 0, smiles, "", LEVEL, accurate(_molecule(graph, place)).energy)
            for graph, place, smiles in zip(graphs, places, SMILES, strict=False)
        ]
        path = Path(folder, "labels.h5")
        samplings = parse_samplings(GEOMETRIES, max_kelvin=MAX_KELVIN)
        label(minima, teacher, samplings, path, seed=arguments.seed, processes=0, progress_bar=False)
        anchored, _ = anchor(open_store(path), LEVEL, teacher.record.level)
    rows = [row(kind, anchored, accurate) for kind in ("twist", "torsion", "thermal")]
    note = f"Mean absolute errors; energies of the minima are exact; {GEOMETRIES}, to {MAX_KELVIN:g} K."
    finish("anchored", arguments, clock, [Table(f"Anchored labels of {len(graphs)} molecules", rows, note)])


def relaxed(smiles: str, engine: Engine) -> tuple[MolGraph, np.ndarray]:
    """A molecule and the minimum [Å] of the engine."""
    graph, place = geometry(smiles)
    atoms = Atoms(graph.atomic_numbers, place, calculator=EngineCalculator(engine))
    BFGS(atoms, logfile=None).run(fmax=FMAX, steps=500)
    return graph, atoms.positions


def row(kind: str, anchored: Store, engine: Engine) -> Row:
    """Errors of the labels of one kind of geometry."""
    labels, offsets = anchored.labels[LEVEL], geometry_offsets(anchored)
    assert labels.forces is not None
    energies, forces = [], []
    for index in np.flatnonzero(anchored.geometries.kind == kind).tolist():
        atoms = slice(*offsets[index : index + 2])
        graph = molecule_graph(anchored, int(anchored.geometries.molecule[index]))
        true = engine(_molecule(graph, anchored.geometries.positions[atoms]))
        energies.append(labels.energy[index] - true.energy)  # those of the minima are exact
        forces.append(labels.forces[atoms] - true.forces)
    return {
        "displacement": kind,
        "geometries": len(energies),
        "energy [meV]": MEV * np.abs(energies).mean(),
        "forces [meV/Å]": MEV * np.abs(np.concatenate(forces)).mean(),
    }


def _molecule(graph: MolGraph, positions: np.ndarray) -> Molecule:
    return Molecule(graph.atomic_numbers, positions.astype(np.float64), graph.charge, graph.multiplicity)


if __name__ == "__main__":
    main()

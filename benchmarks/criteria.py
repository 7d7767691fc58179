"""Forces of density-functional theory at guesses and relaxed structures, against the convergence criteria of Gaussian.

    python criteria.py --stores STORES [--limit 100] [--geometries relaxed guess mmff94]

Held-out molecules of QM9 with 9 to 25 atoms. Geometries are the lowest MMFF94 minimum of four conformers, the default
guess, and the minimum of level b3lyp-d3 relaxed from the former; PySCF computes the forces of each at B3LYP-D3(BJ)/DZVP
(15 to 30 s per geometry).
"""

from collections.abc import Callable, Sequence

import numpy as np
from heldout import covered, model_forces, predict_all, read_test_molecules, relax_all
from reporting import Row, Table, add_stores, finish, make_parser, start

from physcon_ase.chem.graph import MolGraph
from physcon_ase.errors import PhysConError
from physcon_ase.inference.embedding import embed_many
from physcon_ase.inference.generator import N_CONFORMERS, StructureGenerator
from physcon_ase.labelling.engines import pyscf_engine
from physcon_ase.labelling.engines.engine import engine_forces
from physcon_ase.model.physcon import LoadedModel
from physcon_ase.units import ANGSTROM_PER_BOHR, EV_PER_HARTREE

LEVEL = "b3lyp-d3"
SIZES = range(9, 26)
"""Number of atoms of the molecules."""

CRITERIA = {"loose": (2.5e-3, 1.67e-3), "default": (4.5e-4, 3.0e-4)}
"""Largest and root mean square force [hartree/bohr]."""

Place = Callable[[Sequence[MolGraph], LoadedModel, int], list[np.ndarray | None]]
"""(molecules, model, seed) -> positions [Å], None where there are none."""


def main(argv: Sequence[str] | None = None) -> None:
    parser = make_parser(__doc__, limit=100)
    add_stores(parser)
    parser.add_argument("--geometries", nargs="+", choices=PLACES, default=list(PLACES), help="default: all")
    arguments = parser.parse_args(argv)
    loaded, clock = start(arguments)
    found = read_test_molecules(arguments.stores / "qm9_b3lyp.h5", limit=10 * arguments.limit, seed=arguments.seed)
    molecules = [m for m in covered(found, loaded.model.level(LEVEL)) if m.graph.n_atoms in SIZES]
    graphs = [molecule.graph for molecule in molecules][: arguments.limit]
    rows = [_row(name, PLACES[name](graphs, loaded, arguments.seed), graphs) for name in arguments.geometries]
    limits = "; ".join(f"{name}: {most:g} and {rms:g}" for name, (most, rms) in CRITERIA.items())
    note = f"Criteria: largest and root mean square Cartesian force component [hartree/bohr], {limits}."
    title = f"Forces at B3LYP-D3(BJ)/DZVP (PySCF), {len(graphs)} molecules"
    finish("criteria", arguments, clock, [Table(title, rows, note)], loaded)


def _mmff94(graphs: Sequence[MolGraph], loaded: LoadedModel, seed: int) -> list[np.ndarray | None]:
    places = embed_many(graphs, [seed] * len(graphs), n_conformers=N_CONFORMERS)
    return [None if isinstance(place, PhysConError) else place for place in places]


def _guesses(graphs: Sequence[MolGraph], loaded: LoadedModel, seed: int) -> list[np.ndarray | None]:
    guesses = StructureGenerator(loaded, level=LEVEL).generate_many(graphs, seed=seed)
    return [None if isinstance(guess, PhysConError) else guess.positions for guess in guesses]


def _relaxed(graphs: Sequence[MolGraph], loaded: LoadedModel, seed: int) -> list[np.ndarray | None]:
    places = _mmff94(graphs, loaded, seed)
    known = [index for index, place in enumerate(places) if place is not None]
    starts = [place for place in places if place is not None]
    force_fn = model_forces(loaded.model, LEVEL)
    ended = relax_all(force_fn, [graphs[i] for i in known], starts, fmax=0.005, max_steps=500)
    for index, own in zip(known, ended, strict=True):
        places[index] = own.positions
    return places


PLACES: dict[str, Place] = {"mmff94": _mmff94, "guess": _guesses, "relaxed": _relaxed}


def _row(name: str, places: Sequence[np.ndarray | None], graphs: Sequence[MolGraph]) -> Row:
    known = [(graph, place) for graph, place in zip(graphs, places, strict=True) if place is not None]
    force_fn = engine_forces(pyscf_engine(LEVEL))
    _, forces = predict_all(force_fn, [graph for graph, _ in known], [place for _, place in known])
    atomic = [own * ANGSTROM_PER_BOHR / EV_PER_HARTREE for own in forces]
    largest = np.array([np.abs(own).max() for own in atomic])
    rms = np.array([np.sqrt((own**2).mean()) for own in atomic])
    met = {
        f"{kind} criteria met [%]": 100 * float(np.mean((largest <= most) & (rms <= mean)))
        for kind, (most, mean) in CRITERIA.items()
    }
    return {
        "geometry": name,
        "molecules": len(known),
        "failed": int(np.isnan(largest).sum()),
        "largest force, median [hartree/bohr]": float(np.nanmedian(largest)),
        "RMS force, median": float(np.nanmedian(rms)),
        **met,
    }


if __name__ == "__main__":
    main()

"""Distance of relaxed geometries from the minimum of the requested level, on held-out molecules.

    python minima.py --stores STORES [--tblite]

a) level b3lyp from the GFN2 minimum, against the B3LYP minimum of the same conformer;
b) level gfn2 from the B3LYP minimum, against the GFN2 minimum;
d) level m062x from the GFN2 minimum of drug-like molecules, against the M06-2X minimum of the same conformer, if the
   model has this level;
c) level gfn2 from the MMFF94 minimum of drug-like molecules, against the GFN2 minimum. With --tblite, the same
   relaxations are done with GFN2-xTB itself and the same optimiser: its deviation is due to changes of the basin and
   not to an error of the model.
"""

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from heldout import (
    Molecule,
    Relaxed,
    covered,
    differences,
    is_intact,
    model_forces,
    read_test_molecules,
    relax_all,
    tblite_forces,
)
from reporting import Row, Table, add_stores, finish, make_parser, start, statistics

from physcon_ase.chem.graph import MolGraph
from physcon_ase.model.physcon import PhysCon
from physcon_ase.relax.state import ForceFn

B3LYP, GFN2 = "minimum of b3lyp", "minimum of gfn2"
M062X, MMFF94 = "minimum of m062x", "minimum of mmff94"
NOTE = (
    "All molecules count, those that did not converge with the geometry they reached. RMSD: all atoms, identity map, "
    "after superposition; heavy RMSD: heavy atoms, symmetry-aware; bonds and angles: mean over molecules of the mean "
    "absolute difference in a molecule. Intact: bonds and stereo of the graph."
)


def main(argv: Sequence[str] | None = None) -> None:
    parser = make_parser(__doc__, limit=1000, what="molecules of each kind")
    add_stores(parser)
    parser.add_argument("--fmax", type=float, default=0.01, help="a) and b) [eV/Å] (default: %(default)s)")
    parser.add_argument("--tight-fmax", type=float, default=0.005, help="c) [eV/Å] (default: %(default)s)")
    parser.add_argument("--max-steps", type=int, default=1000, help="per molecule (default: %(default)s)")
    parser.add_argument("--tblite", action="store_true", help="c) also with GFN2-xTB itself (needs tblite)")
    parser.add_argument("--tblite-limit", type=int, default=60, help="molecules for that (default: %(default)s)")
    arguments = parser.parse_args(argv)
    loaded, clock = start(arguments)
    small = read_test_molecules(
        arguments.stores / "gfn2_qm9.h5", limit=arguments.limit, seed=arguments.seed, with_geometries=(B3LYP, GFN2)
    )
    tables = []
    parts = [("a", "b3lyp", small, GFN2, B3LYP), ("b", "gfn2", small, B3LYP, GFN2)]
    if "m062x" in loaded.model.level_names:
        large = read_test_molecules(
            arguments.stores / "gfn2_dft8k.h5",
            limit=arguments.limit,
            seed=arguments.seed,
            with_geometries=(M062X, GFN2),
        )
        parts.append(("d", "m062x", large, GFN2, M062X))
    for part, level, molecules, begin, goal in parts:
        usable = covered(molecules, loaded.model.level(level))
        starts = [molecule.geometries[begin].positions for molecule in usable]
        tables.append(_compare(part, level, loaded.model, usable, starts, begin, goal, arguments))
    drugs, starts = _with_mmff94(arguments.stores, arguments.limit, arguments.seed)
    keep = set(map(id, covered(drugs, loaded.model.level("gfn2"))))
    starts = [place for molecule, place in zip(drugs, starts, strict=True) if id(molecule) in keep]
    drugs = [molecule for molecule in drugs if id(molecule) in keep]
    tables.append(_compare("c", "gfn2", loaded.model, drugs, starts, MMFF94, GFN2, arguments))
    if arguments.tblite:
        tables.append(_same_way(loaded.model, drugs, starts, arguments))
    tables[-1] = replace(tables[-1], note=NOTE)
    finish("minima", arguments, clock, tables, loaded)


def _compare(
    part: str,
    level: str,
    model: PhysCon,
    molecules: list[Molecule],
    starts: list[np.ndarray],
    begin: str,
    goal: str,
    arguments,
) -> Table:
    """The start and the end of the relaxation from it, both compared with the reference minimum."""
    fmax = arguments.tight_fmax if part == "c" else arguments.fmax
    graphs, goals = [m.graph for m in molecules], [m.geometries[goal].positions for m in molecules]
    relaxed, seconds = _timed(model_forces(model, level), graphs, starts, fmax, arguments.max_steps)
    title = (
        f"{part}) Relaxed at level {level} from the {begin} to fmax {fmax:g} eV/Å, against the {goal}; "
        f"{len(molecules)} molecules"
    )
    rows = [
        _row(f"{begin}, not relaxed", graphs, starts, goals),
        _row(f"relaxed at level {level}", graphs, _places(relaxed), goals, relaxed, seconds),
    ]
    return Table(title, rows)


def _same_way(model: PhysCon, molecules: list[Molecule], starts: list[np.ndarray], arguments) -> Table:
    """Model and GFN2-xTB from the same starts with the same optimiser."""
    fmax, max_steps, count = arguments.tight_fmax, arguments.max_steps, arguments.tblite_limit
    molecules, starts = molecules[:count], starts[:count]
    graphs, goals = [m.graph for m in molecules], [m.geometries[GFN2].positions for m in molecules]
    ours, seconds = _timed(model_forces(model, "gfn2"), graphs, starts, fmax, max_steps)
    theirs, their_seconds = _timed(tblite_forces, graphs, starts, fmax, max_steps)
    rows = [
        _row(f"{MMFF94}, not relaxed", graphs, starts, goals),
        _row("relaxed with the model", graphs, _places(ours), goals, ours, seconds),
        _row("relaxed with GFN2-xTB (tblite)", graphs, _places(theirs), goals, theirs, their_seconds),
        _row("the model's end against GFN2-xTB's", graphs, _places(ours), _places(theirs)),
    ]
    title = f"c') The same way with the same optimiser, against the {GFN2} of the data set; {len(molecules)} molecules"
    return Table(title, rows)


def _with_mmff94(stores: Path, limit: int, seed: int) -> tuple[list[Molecule], list[np.ndarray]]:
    """Drug-like molecules with their GFN2 minima, and the MMFF94 minima of the same conformers."""
    everything = 10**9
    labelled = read_test_molecules(stores / "gfn2_dft8k.h5", limit=everything, seed=seed, with_geometries=(GFN2,))
    pairs = read_test_molecules(stores / "dft8k_m062x.h5", limit=everything, seed=seed, with_geometries=(MMFF94,))
    by_name = {molecule.name: molecule for molecule in pairs}
    both = [(m, by_name[m.name]) for m in labelled if m.name in by_name and _same_order(m.graph, by_name[m.name].graph)]
    both = both[:limit]
    return [m for m, _ in both], [other.geometries[MMFF94].positions for _, other in both]


def _same_order(a: MolGraph, b: MolGraph) -> bool:
    return np.array_equal(a.atomic_numbers, b.atomic_numbers) and np.array_equal(a.bonds, b.bonds)


def _timed(
    force_fn: ForceFn, graphs: list[MolGraph], starts: list[np.ndarray], fmax: float, max_steps: int
) -> tuple[list[Relaxed], float]:
    """Results, and processor seconds for all molecules together."""
    before = time.process_time()
    relaxed = relax_all(force_fn, graphs, starts, fmax=fmax, max_steps=max_steps)
    return relaxed, time.process_time() - before


def _places(relaxed: list[Relaxed]) -> list[np.ndarray]:
    return [own.positions for own in relaxed]


def _row(
    name: str,
    graphs: list[MolGraph],
    places: list[np.ndarray],
    goals: list[np.ndarray],
    relaxed: list[Relaxed] | None = None,
    seconds: float | None = None,
) -> Row:
    found = [differences(*own) for own in zip(graphs, places, goals, strict=True)]
    columns = {
        key: [own[key] for own in found] for key in ("rmsd", "heavy_rmsd", "heavy_bonds", "hydrogen_bonds", "angles")
    }
    statuses = [] if relaxed is None else [own.status.name.lower() for own in relaxed]
    failures = {status: statuses.count(status) for status in sorted(set(statuses) - {"converged"})}
    n = len(graphs)
    return {
        "geometry": name,
        "molecules": n,
        "converged": None if relaxed is None else statuses.count("converged"),
        "failed": None if relaxed is None else ", ".join(f"{k} {v}" for k, v in failures.items()) or "0",
        "intact": sum(map(is_intact, graphs, places)),
        **statistics(columns["rmsd"], "RMSD", "Å"),
        "heavy RMSD, median [Å]": float(np.median(columns["heavy_rmsd"])) if n else float("nan"),
        "heavy bonds MAE [Å]": _mean(columns["heavy_bonds"]),
        "X-H bonds MAE [Å]": _mean(columns["hydrogen_bonds"]),
        "angles MAE [°]": _mean(columns["angles"]),
        "steps, median": None if not relaxed else float(np.median([own.steps for own in relaxed])),
        "processor ms per molecule": None if seconds is None or not n else 1000 * seconds / n,
    }


def _mean(values: list[float]) -> float:
    known = [value for value in values if not np.isnan(value)]
    return float(np.mean(known)) if known else float("nan")


if __name__ == "__main__":
    main()

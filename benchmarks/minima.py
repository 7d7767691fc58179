"""Distance of relaxed geometries from the B3LYP minimum, on held-out molecules of QM9.

    python minima.py --stores STORES [--level LEVEL]

Relaxations at level b3lyp begin at the GFN2 minimum and end near the B3LYP minimum of the same conformer. Drug-like
molecules: peers.py.
"""

import time
from collections.abc import Sequence

import numpy as np
from heldout import Relaxed, covered, differences, is_intact, model_forces, read_test_molecules, relax_all
from reporting import Row, Table, add_stores, finish, make_parser, mean_of_known, start, statistics

from physcon_ase.chem.graph import MolGraph
from physcon_ase.relax.state import ForceFn

START, GOAL = "minimum of gfn2", "minimum of b3lyp"
NOTE = (
    "All molecules count, those that did not converge with the geometry they reached. RMSD: all atoms, identity map, "
    "after superposition; heavy RMSD: heavy atoms, symmetry-aware; bonds and angles: mean over molecules of the mean "
    "absolute difference in a molecule. Intact: bonds and stereo of the graph."
)


def main(argv: Sequence[str] | None = None) -> None:
    parser = make_parser(__doc__, limit=1000)
    add_stores(parser)
    parser.add_argument("--level", default="b3lyp", help="level of the model (default: %(default)s)")
    parser.add_argument("--fmax", type=float, default=0.01, help="end of relaxations [eV/Å] (default: %(default)s)")
    parser.add_argument("--max-steps", type=int, default=1000, help="per molecule (default: %(default)s)")
    arguments = parser.parse_args(argv)
    loaded, clock = start(arguments)
    level, fmax = arguments.level, arguments.fmax
    molecules = read_test_molecules(
        arguments.stores / "gfn2_qm9.h5", limit=arguments.limit, seed=arguments.seed, with_geometries=(START, GOAL)
    )
    molecules = covered(molecules, loaded.model.level(level))
    graphs = [molecule.graph for molecule in molecules]
    starts, goals = ([molecule.geometries[kind].positions for molecule in molecules] for kind in (START, GOAL))
    relaxed, seconds = _timed(model_forces(loaded.model, level), graphs, starts, fmax, arguments.max_steps)
    rows = [
        _row(f"{START}, not relaxed", graphs, starts, goals),
        _row(f"relaxed at level {level}", graphs, [own.positions for own in relaxed], goals, relaxed, seconds),
    ]
    title = (
        f"Relaxed at level {level} from the {START} to fmax {fmax:g} eV/Å, against the {GOAL}; {len(graphs)} molecules"
    )
    finish("minima", arguments, clock, [Table(title, rows, NOTE)], loaded)


def _timed(
    force_fn: ForceFn, graphs: list[MolGraph], starts: list[np.ndarray], fmax: float, max_steps: int
) -> tuple[list[Relaxed], float]:
    """Results, and processor seconds for all molecules together."""
    before = time.process_time()
    relaxed = relax_all(force_fn, graphs, starts, fmax=fmax, max_steps=max_steps)
    return relaxed, time.process_time() - before


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
        "heavy bonds MAE [Å]": mean_of_known(columns["heavy_bonds"]),
        "X-H bonds MAE [Å]": mean_of_known(columns["hydrogen_bonds"]),
        "angles MAE [°]": mean_of_known(columns["angles"]),
        "steps, median": None if not relaxed else float(np.median([own.steps for own in relaxed])),
        "processor ms per molecule": None if seconds is None or not n else 1000 * seconds / n,
    }


if __name__ == "__main__":
    main()

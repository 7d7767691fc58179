"""Energy and force errors on held-out molecules, for each kind of geometry: level gfn2, and forces at level b3lyp.

    python errors.py --stores STORES

Missing stores are named below the tables.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from heldout import Molecule, covered, model_forces, predict_all, read_test_molecules
from reporting import Row, Table, add_stores, finish, make_parser, start

from physcon_ase.model.physcon import PhysCon

HOT = ("thermal", "conformer")
STORES = {"gfn2": ("gfn2_qm9", "gfn2_dft8k", "ions", "halogens", "silicon"), "b3lyp": ("b3lyp_thermal",)}
FORCES_ONLY = ("b3lyp_thermal",)
"""Stores with PySCF energies, which differ from the QM9 energies that the level is trained on."""


def main(argv: Sequence[str] | None = None) -> None:
    parser = make_parser(__doc__, limit=2500, what="molecules of each store")
    add_stores(parser)
    arguments = parser.parse_args(argv)
    loaded, clock = start(arguments)
    tables, absent = [], []
    for level, names in STORES.items():
        rows = []
        for name in names:
            path = arguments.stores / f"{name}.h5"
            if not path.exists():
                absent.append(path.name)
                continue
            molecules = read_test_molecules(path, limit=arguments.limit, seed=arguments.seed)
            rows += error_rows(name, loaded.model, level, molecules)
        if rows:
            tables.append(Table(f"Errors at level {level}, test split", rows))
    note = (
        "Errors of total energies and Cartesian force components. Force quantiles are over the MAE of each geometry; "
        "failed: an energy or force that is not finite, or an element or charge that the level does not cover."
    )
    note += f" Not there: {', '.join(absent)}." if absent else ""
    finish("errors", arguments, clock, [*tables[:-1], replace(tables[-1], note=note)], loaded)


def error_rows(store: str, model: PhysCon, level: str, molecules: list[Molecule]) -> list[Row]:
    """One row for each kind of geometry, and one for all hot geometries if there are both kinds."""
    usable = covered(molecules, model.level(level))
    pairs = [
        (m, kind, g) for m in usable for kind, g in m.geometries.items() if level in g.forces and level in g.energies
    ]
    force_fn = model_forces(model, level)
    energies, forces = predict_all(force_fn, [m.graph for m, _, _ in pairs], [g.positions for _, _, g in pairs])
    energy_errors = np.abs(energies - np.array([g.energies[level] for _, _, g in pairs]))
    force_errors = [np.abs(own - g.forces[level]) for own, (_, _, g) in zip(forces, pairs, strict=True)]
    kinds = [kind for _, kind, _ in pairs]
    n_uncovered = len(molecules) - len(usable)
    rows = [
        _row(store, kind, [i for i, own in enumerate(kinds) if own == kind], energy_errors, force_errors, n_uncovered)
        for kind in sorted(set(kinds), key=lambda kind: (kind in HOT, kind))
    ]
    if set(HOT).issubset(kinds):
        hot = [i for i, own in enumerate(kinds) if own in HOT]
        rows.append(_row(store, " + ".join(HOT), hot, energy_errors, force_errors, len(HOT) * n_uncovered))
    return rows


def _row(
    store: str,
    kind: str,
    chosen: list[int],
    energy_errors: np.ndarray,
    force_errors: list[np.ndarray],
    n_uncovered: int,
) -> Row:
    good = [i for i in chosen if np.isfinite(energy_errors[i]) and np.isfinite(force_errors[i]).all()]
    energy = 1000 * energy_errors[good if store not in FORCES_ONLY else []]
    per_geometry = 1000 * np.array([force_errors[i].mean() for i in good])
    components = 1000 * np.concatenate([np.zeros(0), *(force_errors[i].ravel() for i in good)])
    return {
        "store": store,
        "geometry": kind,
        "geometries": len(good),
        "failed": len(chosen) - len(good) + n_uncovered,
        "energy MAE [meV]": _or_nan(np.mean, energy),
        "median": _or_nan(np.median, energy),
        "90 %": _or_nan(lambda values: np.quantile(values, 0.9), energy),
        "force MAE [meV/Å]": _or_nan(np.mean, components),
        "median of geometries": _or_nan(np.median, per_geometry),
        "90 % of geometries": _or_nan(lambda values: np.quantile(values, 0.9), per_geometry),
    }


def _or_nan(statistic, values: np.ndarray) -> float:
    return float(statistic(values)) if len(values) else float("nan")


if __name__ == "__main__":
    main()

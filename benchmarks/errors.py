"""Energy and force errors on held-out molecules, by level of theory, store, and kind of geometry.

    python errors.py --stores STORES [--levels wb97m b3lyp-d3 b3lyp]

Ions (total charge not 0) have rows of their own. Missing stores are named below the tables.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from heldout import FORCES_ONLY, STORES, Molecule, covered, model_forces, predict_all, read_test_molecules
from reporting import Row, Table, add_stores, finish, make_parser, start

from physcon_ase.model.physcon import PhysCon

NOTE = (
    "Errors of total energies and Cartesian force components. Force quantiles are over the MAE of each geometry; "
    "failed: an energy or force that is not finite; left out: molecules with an element or charge that the level does "
    "not cover. Labels of anchored_* off the minima are those of docs/data.md, not of the level itself."
)


def main(argv: Sequence[str] | None = None) -> None:
    parser = make_parser(__doc__, limit=2500, what="molecules of each store")
    add_stores(parser)
    parser.add_argument("--levels", nargs="+", choices=tuple(STORES), help="default: all of the checkpoint")
    arguments = parser.parse_args(argv)
    loaded, clock = start(arguments)
    tables, absent = [], []
    for level in arguments.levels or [own for own in STORES if own in loaded.model.level_names]:
        rows = []
        for name in STORES[level].values():
            path = arguments.stores / f"{name}.h5"
            if not path.exists():
                absent.append(path.name)
                continue
            molecules = read_test_molecules(path, limit=arguments.limit, seed=arguments.seed)
            rows += error_rows(name, loaded.model, level, molecules)
        if rows:
            tables.append(Table(f"Errors at level {level}, test split", rows))
    note = NOTE + (f" Not there: {', '.join(absent)}." if absent else "")
    tables = tables or [Table("Errors, test split", [])]
    finish("errors", arguments, clock, [*tables[:-1], replace(tables[-1], note=note)], loaded)


def error_rows(store: str, model: PhysCon, level: str, molecules: list[Molecule]) -> list[Row]:
    """One row for each kind of geometry of neutral molecules, and of ions if there are any."""
    usable = covered(molecules, model.level(level))
    left_out = set(map(id, molecules)) - set(map(id, usable))
    n_left_out = {ions: sum(id(m) in left_out and _is_ion(m) == ions for m in molecules) for ions in (False, True)}
    pairs = [(m, g) for m in usable for g in m.all_geometries if level in g.forces and level in g.energies]
    force_fn = model_forces(model, level)
    energies, forces = predict_all(force_fn, [m.graph for m, _ in pairs], [g.positions for _, g in pairs])
    energy_errors = np.abs(energies - np.array([g.energies[level] for _, g in pairs]))
    force_errors = [np.abs(own - g.forces[level]) for own, (_, g) in zip(forces, pairs, strict=True)]
    groups: dict[tuple[bool, str], list[int]] = {}
    for index, (molecule, geometry) in enumerate(pairs):
        groups.setdefault((_is_ion(molecule), geometry.kind), []).append(index)
    return [
        {
            "store": store,
            "molecules": "ions" if ions else "neutral",
            "geometry": kind,
            **_statistics(store, chosen, energy_errors, force_errors),
            "left out": n_left_out[ions],
        }
        for (ions, kind), chosen in sorted(groups.items())
    ]


def _is_ion(molecule: Molecule) -> bool:
    return molecule.graph.charge != 0


def _statistics(
    store: str, chosen: list[int], energy_errors: np.ndarray, force_errors: list[np.ndarray]
) -> dict[str, float]:
    good = [i for i in chosen if np.isfinite(energy_errors[i]) and np.isfinite(force_errors[i]).all()]
    energy = 1000 * energy_errors[good if store not in FORCES_ONLY else []]
    per_geometry = 1000 * np.array([force_errors[i].mean() for i in good])
    components = 1000 * np.concatenate([np.zeros(0), *(force_errors[i].ravel() for i in good)])
    return {
        "geometries": len(good),
        "failed": len(chosen) - len(good),
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

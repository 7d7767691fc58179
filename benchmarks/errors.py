"""Energy and force errors on held-out molecules, by level of theory, store, and kind of geometry.

    python errors.py --stores STORES [--levels wb97m b3lyp-d3 b3lyp] [--aimnet2 WHEEL]

Ions (total charge not 0) have rows of their own. Missing stores are named below the tables. Stores that are labelled by
the four AIMNet2 networks in turn are compared with the mean of the four if the wheel is given.
"""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from heldout import (
    FORCES_ONLY,
    STORES,
    ForceFn,
    Molecule,
    aimnet2_forces,
    covered,
    model_forces,
    predict_all,
    read_test_molecules,
)
from reporting import Row, Table, add_stores, finish, make_parser, start

from physcon_ase.data.store import open_store
from physcon_ase.labelling.engines.aimnet2 import LEVEL as AIMNET2_LEVEL
from physcon_ase.model.physcon import PhysCon

NOTE = (
    "Errors of total energies and Cartesian force components. Force quantiles are over the MAE of each geometry; "
    "failed: an energy or force that is not finite; left out: molecules with an element or charge that the level does "
    "not cover. Labels of anchored_* off the minima are those of docs/data.md, not of the level itself."
)
ONE_NETWORK = "one network [meV/Å]"
"""Column of the errors of labels of single networks."""

OF_THE_MEAN = (
    " One network: force MAE of the labels themselves, where they are those of one AIMNet2 network per molecule; the "
    "errors of the model in these rows are those from the mean of the four networks."
)


def main(argv: Sequence[str] | None = None) -> None:
    parser = make_parser(__doc__, limit=2500, what="molecules of each store")
    add_stores(parser)
    parser.add_argument("--levels", nargs="+", choices=tuple(STORES), help="default: all of the checkpoint")
    parser.add_argument("--aimnet2", type=Path, metavar="WHEEL", help="compare with the mean of the AIMNet2 networks")
    arguments = parser.parse_args(argv)
    loaded, clock = start(arguments)
    ensemble = aimnet2_forces(arguments.aimnet2) if arguments.aimnet2 else None
    tables, absent = [], []
    for level in arguments.levels or [own for own in STORES if own in loaded.model.level_names]:
        rows = []
        for name in STORES[level].values():
            path = arguments.stores / f"{name}.h5"
            if not path.exists():
                absent.append(path.name)
                continue
            molecules = read_test_molecules(path, limit=arguments.limit, seed=arguments.seed)
            mean = ensemble if ensemble and level == AIMNET2_LEVEL and is_of_single_networks(path) else None
            rows += error_rows(name, loaded.model, level, molecules, mean)
        if rows:
            tables.append(Table(f"Errors at level {level}, test split", _without_empty(ONE_NETWORK, rows)))
    note = NOTE + OF_THE_MEAN * bool(ensemble) + (f" Not there: {', '.join(absent)}." if absent else "")
    tables = tables or [Table("Errors, test split", [])]
    finish("errors", arguments, clock, [*tables[:-1], replace(tables[-1], note=note)], loaded)


def is_of_single_networks(path: Path) -> bool:
    """Whether the labels of a store are those of the AIMNet2 networks in turn."""
    provenance = open_store(path).provenance
    made = json.loads(provenance) if provenance.startswith("{") else {}
    return made.get("engine", {}).get("settings", {}).get("members") == "in turn"


def error_rows(
    store: str, model: PhysCon, level: str, molecules: list[Molecule], reference: ForceFn | None = None
) -> list[Row]:
    """One row for each kind of geometry of neutral molecules, and of ions if there are any.

    Args:
        store: its name.
        model: the model.
        level: level of theory.
        molecules: molecules of the store.
        reference: energies and forces to compare with instead of the labels.
    """
    usable = covered(molecules, model.level(level))
    left_out = set(map(id, molecules)) - set(map(id, usable))
    n_left_out = {ions: sum(id(m) in left_out and _is_ion(m) == ions for m in molecules) for ions in (False, True)}
    pairs = [(m, g) for m in usable for g in m.all_geometries if level in g.forces and level in g.energies]
    graphs, places = [m.graph for m, _ in pairs], [g.positions for _, g in pairs]
    labels = np.array([g.energies[level] for _, g in pairs]), [g.forces[level] for _, g in pairs]
    wanted = labels if reference is None else predict_all(reference, graphs, places)
    energies, forces = predict_all(model_forces(model, level), graphs, places)
    energy_errors, force_errors = np.abs(energies - wanted[0]), _differences(forces, wanted[1])
    label_errors = _differences(labels[1], wanted[1]) if reference is not None else []
    groups: dict[tuple[bool, str], list[int]] = {}
    for index, (molecule, geometry) in enumerate(pairs):
        groups.setdefault((_is_ion(molecule), geometry.kind), []).append(index)
    return [
        {
            "store": store,
            "molecules": "ions" if ions else "neutral",
            "geometry": kind,
            **_statistics(store, chosen, energy_errors, force_errors),
            ONE_NETWORK: 1000 * _mean_of([label_errors[i] for i in chosen if label_errors]),
            "left out": n_left_out[ions],
        }
        for (ions, kind), chosen in sorted(groups.items())
    ]


def _without_empty(column: str, rows: Sequence[Row]) -> list[Row]:
    """The rows without a column that is NaN in all of them."""
    if any(np.isfinite(row[column]) for row in rows):
        return list(rows)
    return [{name: value for name, value in row.items() if name != column} for row in rows]


def _differences(ones: Sequence[np.ndarray], others: Sequence[np.ndarray]) -> list[np.ndarray]:
    return [np.abs(one - other) for one, other in zip(ones, others, strict=True)]


def _mean_of(errors: Sequence[np.ndarray]) -> float:
    """Mean over all components; NaN without any."""
    return _or_nan(np.mean, np.concatenate([np.zeros(0), *(own.ravel() for own in errors)]))


def _is_ion(molecule: Molecule) -> bool:
    return molecule.graph.charge != 0


def _statistics(
    store: str, chosen: list[int], energy_errors: np.ndarray, force_errors: list[np.ndarray]
) -> dict[str, float]:
    good = [i for i in chosen if np.isfinite(energy_errors[i]) and np.isfinite(force_errors[i]).all()]
    energy = 1000 * energy_errors[good if store not in FORCES_ONLY else []]
    per_geometry = 1000 * np.array([force_errors[i].mean() for i in good])
    return {
        "geometries": len(good),
        "failed": len(chosen) - len(good),
        "energy MAE [meV]": _or_nan(np.mean, energy),
        "median": _or_nan(np.median, energy),
        "90 %": _or_nan(lambda values: np.quantile(values, 0.9), energy),
        "force MAE [meV/Å]": 1000 * _mean_of([force_errors[i] for i in good]),
        "median of geometries": _or_nan(np.median, per_geometry),
        "90 % of geometries": _or_nan(lambda values: np.quantile(values, 0.9), per_geometry),
    }


def _or_nan(statistic, values: np.ndarray) -> float:
    return float(statistic(values)) if len(values) else float("nan")


if __name__ == "__main__":
    main()

"""Energy differences between held-out molecules of equal composition, at the minima of the labels.

    python isomers.py --stores STORES [--level LEVEL]

Errors are over pairs within a composition: B3LYP/6-31G(2df,p) minima of QM9, and the lowest B3LYP-D3(BJ)/DZVP minimum
of each drug-like molecule. The labels of the C7H10O2 isomers are on another scale; see the note below the table.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from heldout import Geometry, covered, model_forces, predict_all, read_test_molecules
from reporting import Row, Table, add_stores, finish, make_parser, start

from physcon_ase.chem.graph import MolGraph
from physcon_ase.model.physcon import PhysCon


@dataclass(frozen=True)
class Isomers:
    """A store with energies at minima."""

    store: str
    """Its name."""
    level: str
    """Level of the model that the labels are compared with."""
    labels: str
    """Level of the labels."""

    @property
    def kind(self) -> str:
        """Kind of the geometries."""
        return f"minimum of {self.level}"


SETS = (
    Isomers("openff_minima_dzvp", "b3lyp-d3", "b3lyp-d3"),
    Isomers("qm9_b3lyp", "b3lyp", "b3lyp"),
    Isomers("c7h10o2_b3lyp", "b3lyp", "b3lyp_c7h10o2"),
)

NOTE = (
    "Every pair of molecules of one composition counts once; molecules of different charge are not compared. Rows of "
    "other levels of the model show by how much the levels differ, at the same geometries; spread: mean |ΔE| of the "
    "labels of the pairs. Failed: energy not finite, or element or charge not covered. The labels of c7h10o2_b3lyp "
    "contain about three zero-point energies, which no model of electronic energies can reproduce: for the 218 "
    "molecules that QM9 labels too they lie 12.81 eV above its labels with a spread of 128 meV, which is 144 meV per "
    "pair."
)


def main(argv: Sequence[str] | None = None) -> None:
    parser = make_parser(__doc__, limit=2500, what="molecules of each store")
    add_stores(parser)
    parser.add_argument("--level", help="level shown beside that of the labels (default: that of the checkpoint)")
    arguments = parser.parse_args(argv)
    loaded, clock = start(arguments)
    beside = arguments.level or loaded.model.level_names[0]
    rows = [row for own in SETS for row in _rows(own, dict.fromkeys((own.level, beside)), loaded.model, arguments)]
    title = "Energy differences between molecules of equal composition, test split"
    finish("isomers", arguments, clock, [Table(title, rows, NOTE)], loaded)


def _rows(isomers: Isomers, levels: Iterable[str], model: PhysCon, arguments) -> list[Row]:
    molecules = read_test_molecules(
        arguments.stores / f"{isomers.store}.h5",
        limit=arguments.limit,
        seed=arguments.seed,
        with_energy=isomers.labels,
        with_geometries=(isomers.kind,),
    )
    rows = []
    for level in levels:
        usable = covered(molecules, model.level(level))
        lowest = [
            min(
                (own for own in molecule.all_geometries if isomers.labels in own.energies),
                key=lambda own: own.energies[isomers.labels],
            )
            for molecule in usable
        ]
        graphs, n_uncovered = [molecule.graph for molecule in usable], len(molecules) - len(usable)
        rows.append(_row(isomers, level, model, graphs, lowest, n_uncovered))
    return rows


def _row(
    isomers: Isomers,
    level: str,
    model: PhysCon,
    graphs: list[MolGraph],
    geometries: list[Geometry],
    n_uncovered: int,
) -> Row:
    energies, _ = predict_all(model_forces(model, level), graphs, [own.positions for own in geometries])
    labels = np.array([own.energies[isomers.labels] for own in geometries])
    good = np.isfinite(energies)
    groups: dict[tuple[int, ...], list[int]] = {}
    for index in np.flatnonzero(good).tolist():
        graph = graphs[index]
        groups.setdefault((graph.charge, *sorted(graph.atomic_numbers.tolist())), []).append(index)
    groups = {composition: members for composition, members in groups.items() if len(members) > 1}
    errors = np.concatenate([np.zeros(0), *(np.abs(pair_differences((energies - labels)[m])) for m in groups.values())])
    spread = np.concatenate([np.zeros(0), *(np.abs(pair_differences(labels[m])) for m in groups.values())])
    has_pairs = len(errors) > 0
    return {
        "store": isomers.store,
        "level": level,
        "molecules": sum(map(len, groups.values())),
        "failed": int((~good).sum()) + n_uncovered,
        "compositions": len(groups),
        "pairs": len(errors),
        "MAE [meV]": 1000 * errors.mean() if has_pairs else float("nan"),
        "median": 1000 * np.median(errors) if has_pairs else float("nan"),
        "90 %": 1000 * np.quantile(errors, 0.9) if has_pairs else float("nan"),
        "spread [meV]": 1000 * spread.mean() if has_pairs else float("nan"),
    }


def pair_differences(values: np.ndarray) -> np.ndarray:
    """Differences of all pairs, each once."""
    first, second = np.triu_indices(len(values), k=1)
    return values[first] - values[second]


if __name__ == "__main__":
    main()

"""Status of `optimize_many` for held-out molecules of unusual families, compared with errors relative to AIMNet2.

    PHYSCON_AIMNET2=WHEEL python hard.py [--limit 240]

The molecules are those of the test split in recipes/physcon-2/families, from each family in turn. AIMNet2 (the mean of
its networks) judges each result by the largest of

    strain            energy that a relaxation with AIMNet2 from this geometry gains, or with GFN2-xTB where the former
                      breaks or forms bonds
    energy, wb97m     difference of the energies of both at this geometry
    energy, b3lyp-d3  the same at level b3lyp-d3 for neutral molecules, without the contribution of the composition,
                      which a robust regression over all of them determines

Results on which the networks disagree are not judged.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

import numpy as np
from heldout import aimnet2_forces, gfn2_forces, is_held_out, predict_all, relax_all
from reporting import Row, Table, finish, make_parser, start
from scipy.optimize import least_squares

from physcon_ase.chem.compare import bonds_intact
from physcon_ase.chem.graph import MolGraph
from physcon_ase.chem.smiles import graph_from_smiles
from physcon_ase.inference.calculator import PhysConCalculator
from physcon_ase.inference.many import optimize_many
from physcon_ase.inference.results import Record
from physcon_ase.labelling.engines.aimnet2 import LEVEL as AIMNET2_LEVEL
from physcon_ase.labelling.engines.aimnet2 import MAX_SPREAD
from physcon_ase.relax.state import ForceFn

FAMILIES = Path(__file__).parents[1] / "recipes" / "physcon-2" / "families"
KINDS = ("strain", f"energy, {AIMNET2_LEVEL}", "energy, b3lyp-d3")
"""Kinds of errors, as described above."""

WRONG, FAR_OFF = 0.3, 1.0
"""Thresholds [eV] of the tables."""

MAX_STEPS = 200
"""Of relaxations with AIMNet2."""


@dataclass(frozen=True)
class Judged:
    """A molecule with its record and the judgement."""

    family: str
    """Name of the family."""
    smiles: str
    """The molecule."""
    record: Record
    """Result of `optimize_many`."""
    errors: dict[str, float]
    """Errors [eV] by kind; empty if it is not judged."""

    @property
    def worst(self) -> float:
        """Largest error [eV]; NaN if it is not judged."""
        return max(self.errors.values(), default=float("nan"))


def main(argv: Sequence[str] | None = None) -> None:
    parser = make_parser(__doc__, limit=240)
    parser.add_argument("--families", type=Path, default=FAMILIES, help="folder of the lists (default: %(default)s)")
    arguments = parser.parse_args(argv)
    loaded, clock = start(arguments)
    molecules = held_out(arguments.families, arguments.limit)
    smiles = [own for _, own in molecules]
    records = optimize_many(smiles, checkpoint=loaded, seed=arguments.seed, progress_bar=False)
    judged = judge(molecules, records, PhysConCalculator(loaded, level=AIMNET2_LEVEL))
    tables = [
        Table(
            f"optimize_many on {len(smiles)} held-out molecules of {len(dict(molecules))} families", _by_status(judged)
        ),
        Table(f"Wrong by more than {FAR_OFF:g} eV", _worst(judged)),
        Table("Without result", _failures(judged)),
    ]
    finish("hard", arguments, clock, [table for table in tables if table.rows], loaded)


def held_out(folder: Path, limit: int) -> list[tuple[str, str]]:
    """Family and SMILES of molecules of the test split, from each family in turn."""
    lists = [[(path.stem, own) for own in _test_smiles(path)] for path in sorted(folder.glob("*.smi"))]
    return [entry for turn in zip_longest(*lists) for entry in turn if entry is not None][:limit]


def _test_smiles(path: Path) -> Iterator[str]:
    for line in path.read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#") and is_held_out(line.split()[0]):
            yield line.split()[0]


def judge(
    molecules: Sequence[tuple[str, str]], records: Sequence[Record], calculator: PhysConCalculator
) -> list[Judged]:
    """Errors of all results that AIMNet2 covers."""
    rows = [row for row, record in enumerate(records) if record.result is not None]
    results = [record.result for record in records if record.result is not None]
    graphs = [graph_from_smiles(molecules[row][1]) for row in rows]
    places = [result.atoms.positions for result in results]
    teacher = aimnet2_forces(max_spread=MAX_SPREAD)
    energies, _ = predict_all(teacher, graphs, places)
    relaxed = relax_all(aimnet2_forces(), graphs, places, fmax=0.05, max_steps=MAX_STEPS, noisy=True)
    lower, _ = predict_all(aimnet2_forces(), graphs, [own.positions for own in relaxed])
    strains = energies - lower
    for row, (graph, place, own) in enumerate(zip(graphs, places, relaxed, strict=True)):
        if not bonds_intact(graph, own.positions).intact:
            strains[row] = _strain(gfn2_forces(), graph, place)
    predictions = calculator.predict([result.atoms for result in results])
    own = np.array([np.nan if found.energy is None else found.energy for found in predictions])
    excess = np.array(
        [
            result.energy - energy if result.level != AIMNET2_LEVEL and graph.charge == 0 else np.nan
            for result, energy, graph in zip(results, energies, graphs, strict=True)
        ]
    )
    of_kinds = np.maximum(strains, 0), np.abs(own - energies), np.abs(_without_composition(excess, graphs))
    errors = dict(zip(KINDS, of_kinds, strict=True))
    found = {
        row: {name: float(values[place]) for name, values in errors.items() if np.isfinite(values[place])}
        for place, row in enumerate(rows)
        if np.isfinite(energies[place])
    }
    return [
        Judged(family, smiles, record, found.get(row, {}))
        for row, ((family, smiles), record) in enumerate(zip(molecules, records, strict=True))
    ]


def _strain(force_fn: ForceFn, graph: MolGraph, positions: np.ndarray) -> float:
    """Energy [eV] that a relaxation gains."""
    (relaxed,) = relax_all(force_fn, [graph], [positions], fmax=0.05, max_steps=MAX_STEPS)
    (before, after), _ = predict_all(force_fn, [graph, graph], [positions, relaxed.positions])
    return before - after


def _without_composition(energies: np.ndarray, graphs: Sequence[MolGraph]) -> np.ndarray:
    """Residuals [eV] of a robust regression on the numbers of atoms of each element; NaN stays NaN."""
    elements = sorted({number for graph in graphs for number in graph.atomic_numbers.tolist()})
    counts = np.array([[int((graph.atomic_numbers == z).sum()) for z in elements] for graph in graphs], dtype=float)
    known = np.isfinite(energies)
    if not known.any():
        return energies
    guess = np.linalg.lstsq(counts[known], energies[known], rcond=None)[0]
    fit = least_squares(lambda x: counts[known] @ x - energies[known], guess, loss="soft_l1", f_scale=0.1)
    return energies - counts @ fit.x


def _by_status(judged: Sequence[Judged]) -> list[Row]:
    rows: list[Row] = []
    for status, n_molecules in Counter(entry.record.status for entry in judged).most_common():
        own = [entry for entry in judged if entry.record.status == status]
        worst = np.array([entry.worst for entry in own])
        rows.append(
            {
                "status": status,
                "molecules": n_molecules,
                "judged": int(np.isfinite(worst).sum()),
                "error, median [eV]": float(np.nanmedian(worst)) if np.isfinite(worst).any() else float("nan"),
                f"above {WRONG:g} eV": int((worst > WRONG).sum()),
                f"above {FAR_OFF:g} eV": int((worst > FAR_OFF).sum()),
            }
        )
    return rows


def _worst(judged: Sequence[Judged]) -> list[Row]:
    order = sorted((entry for entry in judged if entry.worst > FAR_OFF), key=lambda entry: -entry.worst)
    return [
        {
            "family": entry.family,
            "SMILES": f"`{entry.smiles}`",
            "status": entry.record.status,
            "level": entry.record.result.level if entry.record.result is not None else None,
            **{f"{name} [eV]": entry.errors.get(name) for name in KINDS},
        }
        for entry in order
    ]


def _failures(judged: Sequence[Judged]) -> list[Row]:
    return [
        {"family": entry.family, "SMILES": f"`{entry.smiles}`", "reason": entry.record.reason}
        for entry in judged
        if entry.record.result is None
    ]


if __name__ == "__main__":
    main()

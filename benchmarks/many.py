"""Outcomes and time of `optimize_many` for a thousand held-out SMILES.

    python many.py --smiles smiles_union.tsv.xz [--starts mmff94 guess etkdg]

The SMILES are drawn at random from the neutral molecules of the test split whose elements the level covers. Each kind
of start geometries has a row; the tables by status are those of the first.
"""

import argparse
import time
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from reporting import Row, Table, finish, make_parser, percent, start, statistics

from physcon_ase.chem.smiles import canonical_key, graph_from_smiles
from physcon_ase.data.importers.smiles_list import read_smiles_list
from physcon_ase.data.split import key_hash, split_of
from physcon_ase.errors import PhysConError
from physcon_ase.inference.many import optimize_many
from physcon_ase.inference.results import Record
from physcon_ase.inference.starts import STARTS
from physcon_ase.model.physcon import LoadedModel
from physcon_ase.relax.driver import RelaxStatus


def main(argv: Sequence[str] | None = None) -> None:
    parser = make_parser(__doc__, limit=1000)
    parser.add_argument("--smiles", type=Path, required=True, help="list for `read_smiles_list`")
    parser.add_argument("--level", help="(default: that of the checkpoint)")
    parser.add_argument(
        "--starts", nargs="+", choices=STARTS, default=STARTS[:1], help="start geometries (default: %(default)s)"
    )
    parser.add_argument("--fmax", type=float, default=0.01, help="[eV/Å] (default: %(default)s)")
    parser.add_argument("--max-atoms", type=int, default=60, help="hydrogens included (default: %(default)s)")
    arguments = parser.parse_args(argv)
    loaded, clock = start(arguments)
    level = loaded.model.level(arguments.level or loaded.model.level_names[0])
    smiles = held_out_smiles(arguments.smiles, arguments.limit, arguments.max_atoms, arguments.seed, level.elements)
    runs = {name: relax(smiles, name, level.name, loaded, arguments) for name in arguments.starts}
    records = next(iter(runs.values())).records
    tables = [
        Table(
            f"optimize_many on {len(smiles)} held-out SMILES, level {level.name}",
            [_summary(name, run, records) for name, run in runs.items()],
            _NOTE,
        ),
        Table("Records by status", _by_status(records)),
        Table("Molecules that are not ok", _others(records)),
    ]
    finish("many", arguments, clock, [table for table in tables if table.rows], loaded)


@dataclass(frozen=True)
class Run:
    """Records of all molecules from one kind of start geometry."""

    records: list[Record]
    """One per SMILES."""
    wall: float
    """Time [s]."""
    processor: float
    """Processor time [s]."""


def relax(smiles: Sequence[str], kind: str, level: str, loaded: LoadedModel, arguments: argparse.Namespace) -> Run:
    """Relaxes all molecules from one kind of start geometry."""
    before = time.perf_counter(), time.process_time()
    records = optimize_many(
        smiles,
        level=level,
        checkpoint=loaded,
        fmax=arguments.fmax,
        start=kind,
        seed=arguments.seed,
        progress_bar=False,
    )
    return Run(records, time.perf_counter() - before[0], time.process_time() - before[1])


def held_out_smiles(path: Path, limit: int, max_atoms: int, seed: int, elements: Collection[int]) -> list[str]:
    """Random SMILES of the list whose molecules are in the test split and made of `elements`, each molecule once."""
    rows, _ = read_smiles_list(path)
    chosen: dict[str, str] = {}
    for index in np.random.default_rng(seed).permutation(len(rows)).tolist():
        if len(chosen) >= limit:
            break
        row = rows[index]
        if row.n_heavy_atoms > max_atoms:
            continue
        try:
            key = canonical_key(row.smiles)
            if split_of(key_hash(key)) != "test" or key in chosen:
                continue
            graph = graph_from_smiles(row.smiles)
        except PhysConError:  # the list is checked elsewhere; here a molecule is needed whose key can be computed
            continue
        if graph.n_atoms <= max_atoms and set(graph.atomic_numbers.tolist()) <= set(elements):
            chosen[key] = row.smiles
    return list(chosen.values())


_NOTE = (
    "Intact: with the bonds and the stereo of the SMILES. Uncertain: converged and intact, with a rare atomic "
    "environment or a large estimated error. Exploded: an atom left the molecule in the attempt that the record keeps. "
    "Times include reading the SMILES and making the start geometries."
)


def _summary(name: str, run: Run, first: list[Record]) -> Row:
    n = len(run.records)
    results = [record.result for record in run.records if record.result is not None]
    pairs = zip(run.records, first, strict=True)
    excess = [own.result.energy - other.result.energy for own, other in pairs if own.result and other.result]
    return {
        "start": name,
        "records": n,
        "converged, intact": percent(sum(result.is_minimum for result in results), n),
        "uncertain": sum(record.status == "uncertain" for record in run.records),
        "converged": percent(sum(result.converged for result in results), n),
        "exploded": sum(record.reason == RelaxStatus.EXPLODED for record in run.records),
        "second start": sum(record.attempts > 1 for record in run.records),
        "atoms, median": float(np.median([len(result.atoms) for result in results])) if results else float("nan"),
        **statistics([result.steps for result in results], "steps"),
        "energy above first start, mean [meV]": 1000 * float(np.mean(excess)) if excess else float("nan"),
        "wall per molecule [ms]": 1000 * run.wall / max(1, n),
        "processor per molecule [ms]": 1000 * run.processor / max(1, n),
    }


def _by_status(records: list[Record]) -> list[Row]:
    counts = Counter((record.status, _cause(record).partition(" have ")[0]) for record in records)
    return [{"status": status, "reason": cause, "molecules": count} for (status, cause), count in counts.most_common()]


def _others(records: list[Record]) -> list[Row]:
    return [
        {
            "SMILES": f"`{record.name}`",
            "status": record.status,
            "reason": _cause(record),
            "steps": None if record.result is None else record.result.steps,
            "fmax [eV/Å]": None if record.result is None else record.result.fmax,
        }
        for record in records
        if record.status != "ok"
    ]


def _cause(record: Record) -> str:
    """The reason of the status without the remedy, or the name of the error."""
    reason = record.reason.removeprefix(f"{record.status}: ")
    return record.error or reason.split(":")[0] or "-"


if __name__ == "__main__":
    main()

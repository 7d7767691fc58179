"""Rate of each engine with `label` on one core, compared with the bare engine on the same geometries.

    python benchmarks/labelling.py [--engines gfn2 pm7 pyscf] [--limit 200] [--json labelling.json]

The bare engine is called in a loop, AIMNet2 (one network; PHYSCON_AIMNET2 names its wheel) with batches of equal
molecules. Both are timed alternately in one process with one thread. The geometries are sampled before timing starts;
the overhead of `label` consists of its journal, the check of the bonds, and writing the store.
"""

import dataclasses
import functools
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from rates import ISOMER, MOLECULES, geometry
from reporting import Clock, Row, Table, finish, make_parser

from physcon_ase.errors import EngineError
from physcon_ase.labelling.displacements import hessian_factor, thermal_displacements
from physcon_ase.labelling.engines import (
    Engine,
    Molecule,
    aimnet2_engine,
    mopac_engine,
    pyscf_engine,
    tblite_engine,
)
from physcon_ase.labelling.geometries import Geometry
from physcon_ase.labelling.pipeline import label
from physcon_ase.labelling.samplers import Origin
from physcon_ase.labelling.samplings import Sampling


@dataclasses.dataclass(frozen=True)
class Case:
    """Molecule and number of geometries for an engine."""

    make: Callable[[], Engine]
    """Makes the engine."""
    smiles: str
    """The molecule."""
    part: int
    """Factor by which `--limit` is divided to obtain the number of geometries."""


CASES = {
    "gfn2": Case(tblite_engine, ISOMER, 1),
    "pm7": Case(mopac_engine, ISOMER, 4),
    "pyscf": Case(lambda: pyscf_engine("b3lyp_small", functional="b3lypg", basis="6-31G*", grid_level=1), "O", 20),
} | {
    f"aimnet2-{n_atoms}": Case(functools.partial(aimnet2_engine, member=0), MOLECULES[name], 1)
    for name, n_atoms in (("aspirin", 21), ("ibuprofen", 33), ("methandienone", 50))
}
"""tblite and MOPAC on 19 atoms, PySCF on water, which is fast enough for a benchmark, and AIMNet2 on three sizes."""

TURNS = 4
"""Parts into which the geometries are divided, so that both are timed under the same load."""


@dataclasses.dataclass(frozen=True)
class Given:
    """A sampler that returns precomputed geometries."""

    geometries: Sequence[Geometry] = dataclasses.field(repr=False)  # it would be printed for the provenance
    """Of one molecule."""

    def __call__(self, origin: Origin, seed: int, n: int) -> list[Geometry]:
        """The geometries."""
        return list(self.geometries)


def seconds() -> np.ndarray:
    """Wall and processor time [s] so far, including that of finished child processes (MOPAC)."""
    spent = os.times()
    return np.array([time.perf_counter(), spent.user + spent.system + spent.children_user + spent.children_system])


def row(name: str, case: Case, limit: int, seed: int) -> Row:
    """The line of one engine."""
    n = max(TURNS, limit // case.part)
    try:
        engine = case.make()
    except EngineError as error:
        return _cells(name, str(error).split(":")[0], 0, np.full(2, np.nan), np.full(2, np.nan))
    graph, start = geometry(case.smiles)
    generator = np.random.default_rng(seed)
    places = thermal_displacements(start, hessian_factor(graph, start), generator, n, max_kelvin=300.0)
    through, bare = np.zeros(2), np.zeros(2)
    engine(Molecule(graph.atomic_numbers, start))  # imports the program
    with tempfile.TemporaryDirectory() as folder:
        for number, part in enumerate(np.array_split(np.arange(n), TURNS)):
            chosen = [places[index] for index in part.tolist()]
            sampling = Sampling("thermal", len(chosen), Given([("thermal", place) for place in chosen]))
            began = seconds()
            per_call = max(1, engine.batch_slots // graph.n_atoms)
            for first in range(0, len(chosen), per_call):
                engine.label_many([Molecule(graph.atomic_numbers, x) for x in chosen[first : first + per_call]])
            bare += seconds() - began
            began = seconds()
            label([case.smiles], engine, [sampling], Path(folder) / f"{number}.h5", processes=0, progress_bar=False)
            through += seconds() - began
    return _cells(name, f"{engine.record.program} {engine.record.version}", graph.n_atoms, bare / n, through / n)


def _cells(name: str, program: str, n_atoms: int, bare: np.ndarray, through: np.ndarray) -> Row:
    overhead = 100 * (through / bare - 1)
    return {
        "engine": name,
        "program": program,
        "atoms": n_atoms,
        "bare engine [1/s]": float(1 / bare[1]),
        "physcon label [1/s]": float(1 / through[1]),
        "overhead [%]": float(overhead[1]),
        "overhead, wall [%]": float(overhead[0]),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints the table."""
    parser = make_parser(__doc__, limit=200, what="geometries", checkpoint=False)
    parser.add_argument("--engines", nargs="+", choices=tuple(CASES), default=tuple(CASES), help="default: all")
    options = parser.parse_args(arguments)
    clock = Clock.now()
    rows = [row(name, CASES[name], options.limit, options.seed) for name in options.engines]
    note = "Geometries per processor second. An engine whose program is not installed has no rate."
    finish("labelling", options, clock, [Table("What labelling costs beside the engine", rows, note)])


if __name__ == "__main__":
    main()

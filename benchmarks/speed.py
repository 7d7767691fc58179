"""Time of energies and forces, of construction and of training, on one thread.

    python speed.py

Single calls use ASE calculators, and the atoms are moved before each, so that no result is cached. The calculators are
timed alternately in one run, so that all are measured under the same load. GFN2-xTB (tblite) and ANI-2x (torchani) are
timed if they are installed, one network of AIMNet2 if its wheel is named by the environment variable PHYSCON_AIMNET2.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from importlib.util import find_spec

import numpy as np
import torch
from ase import Atoms
from ase.calculators.calculator import Calculator
from heldout import model_forces
from rates import MOLECULES, batched_rate, geometry, interleaved, jittered, training_rate
from reporting import Row, Table, finish, make_parser, start

from physcon_ase.chem.graph import MolGraph
from physcon_ase.inference.calculator import PhysConCalculator
from physcon_ase.labelling.engines import EngineCalculator, aimnet2_engine
from physcon_ase.labelling.engines.aimnet2 import PATH_VARIABLE
from physcon_ase.model.physcon import LoadedModel

OURS = "PhysCon"
BATCHED = ("ethanol", "aspirin", "methandienone")

CONSTRUCTION = """
import json, sys, time
clocks = lambda: [time.perf_counter(), time.process_time()]
begin = clocks()
import torch
with_torch = clocks()
from physcon_ase.inference.calculator import PhysConCalculator
calculator = PhysConCalculator(sys.argv[1])
built = clocks()
from ase.build import molecule
atoms = molecule("CH3CH2OH")
atoms.calc = calculator
atoms.get_forces()
print(json.dumps([begin, with_torch, built, clocks()]))
"""


def main(argv: Sequence[str] | None = None) -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--calls", type=int, default=50, help="of each calculator (default: %(default)s)")
    parser.add_argument("--level", help="(default: that of the checkpoint)")
    parser.add_argument("--processes", type=int, default=5, help="for the construction time (default: %(default)s)")
    arguments = parser.parse_args(argv)
    loaded, clock = start(arguments)
    level = arguments.level = arguments.level or loaded.model.level_names[0]
    generator = np.random.default_rng(arguments.seed)
    calls = [_calls_row(name, arguments, generator) for name in MOLECULES]
    force_fn = model_forces(loaded.model, level)
    batches = [
        {
            "molecule": name,
            "atoms": geometry(MOLECULES[name])[0].n_atoms,
            "molecules/s": batched_rate(force_fn, MOLECULES[name]),
        }
        for name in BATCHED
    ]
    tables = [
        Table(
            f"Energy + forces through the ASE calculator at level {level}, median of {arguments.calls} calls",
            calls,
            "Wall time in ms, in brackets processor time; ratio: time of GFN2-xTB (tblite) over that of PhysCon."
            " PhysCon is what a user gets, in float32.",
        ),
        Table("Energy + forces in batches of 1024 slots, float32", batches, "Molecules per processor second."),
        Table(
            "Construction of PhysConCalculator in fresh processes",
            [_construction_row(arguments)],
            "Wall time, in brackets processor time, median.",
        ),
        Table(
            "Training with forces, molecules of 19 atoms", [_training_row(loaded)], "Molecules per processor second."
        ),
    ]
    finish("speed", arguments, clock, tables, loaded)


def _calls_row(name: str, arguments, generator: np.random.Generator) -> Row:
    graph, positions = geometry(MOLECULES[name])
    found = {own: _call(make, graph, positions, generator) for own, make in _calculators(arguments).items()}
    seconds = interleaved(found, arguments.calls)
    columns = {
        f"{own} [ms]": f"{1000 * wall:.2f} ({1000 * processor:.2f})" for own, (wall, processor) in seconds.items()
    }
    wall, processor = seconds.get("GFN2-xTB", (float("nan"), float("nan")))
    ratio = f"{wall / seconds[OURS][0]:.2f} ({processor / seconds[OURS][1]:.2f})"
    return {"molecule": name, "atoms": graph.n_atoms, **columns, "ratio": ratio}


def _calculators(arguments) -> dict[str, Callable[[], Calculator]]:
    """The installed calculators; that of this package in float32 and float64."""
    found: dict[str, Callable[[], Calculator]] = {
        OURS: lambda: PhysConCalculator(arguments.checkpoint, level=arguments.level),
        f"{OURS} float64": lambda: PhysConCalculator(arguments.checkpoint, level=arguments.level, dtype=torch.float64),
    }
    if find_spec("tblite") is not None:
        found["GFN2-xTB"] = _tblite
    if find_spec("torchani") is not None:
        found["ANI-2x"] = _ani
    if os.environ.get(PATH_VARIABLE):
        found["AIMNet2"] = lambda: EngineCalculator(aimnet2_engine(member=0))
    return found


def _tblite() -> Calculator:
    from tblite.ase import TBLite

    return TBLite(method="GFN2-xTB", verbosity=0)


def _ani() -> Calculator:
    import torchani

    return torchani.models.ANI2x(periodic_table_index=True).ase()


def _call(
    make: Callable[[], Calculator], graph: MolGraph, positions: np.ndarray, generator: np.random.Generator
) -> Callable[[], object]:
    atoms = Atoms(graph.atomic_numbers, positions, calculator=make())

    def call() -> tuple[float, np.ndarray]:
        atoms.positions = jittered(positions, generator)
        return atoms.get_potential_energy(), atoms.get_forces()

    return call


def _construction_row(arguments) -> Row:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    command = [sys.executable, "-c", CONSTRUCTION, str(arguments.checkpoint)]
    seconds = np.array(
        [
            json.loads(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout)
            for _ in range(arguments.processes)
        ]
    )
    stages = {
        "import and construction [s]": seconds[:, 2] - seconds[:, 0],
        "without `import torch` [s]": seconds[:, 2] - seconds[:, 1],
        "first energy and forces [s]": seconds[:, 3] - seconds[:, 2],
    }
    shown = {name: "{:.2f} ({:.2f})".format(*np.median(found, axis=0)) for name, found in stages.items()}
    return {"processes": arguments.processes, **shown}


def _training_row(loaded: LoadedModel) -> Row:
    rate = training_rate(loaded.model.config)
    return {"model": loaded.name, "levels": len(loaded.model.level_names), "training [molecules/s]": rate}


if __name__ == "__main__":
    main()

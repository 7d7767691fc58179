"""Lowest conformers of flexible drugs, compared with those of Auto3D with AIMNet2.

    python ensembles.py --auto3d PYTHON [--seconds 600] [--jobs 2]
    python ensembles.py

The first form runs Auto3D 2.3.1 in its own environment on the drugs of drugs.smi that auto3d.sdf does not contain yet,
the smallest first, one molecule per process and one thread, until the time is over. PYTHON is the interpreter of that
environment, which needs Auto3D==2.3.1, torch, torchani, rdkit, ase, pandas and setuptools<81. The settings are those of
its documentation (k = 1, AIMNet2, no GPU), except for the convergence threshold: that of `ensemble`, 0.01 instead of
0.003 eV/Å, with which valproic acid took 974 s. The second form compares `ensemble` with all drugs of auto3d.sdf.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from heldout import gfn2_forces, model_forces, predict_all, relax_all
from rdkit import Chem
from reporting import Row, Table, finish, make_parser, start

from physcon_ase.chem.graph import MolGraph
from physcon_ase.chem.smiles import graph_from_rdkit, graph_from_smiles
from physcon_ase.inference.ensembles.search import ensemble
from physcon_ase.model.physcon import LoadedModel
from physcon_ase.relax.state import ForceFn
from physcon_ase.units import EV_PER_KCAL_PER_MOL

DRUGS, FOUND = (Path(__file__).with_name(name) for name in ("drugs.smi", "auto3d.sdf"))
SECONDS = "processor_seconds"
"""Property of auto3d.sdf: processor time of the whole run."""

AUTO3D = """
import sys
from Auto3D.auto3D import main, options
if __name__ == "__main__":
    main(options(sys.argv[1], k=1, use_gpu=False, mpi_np=1, memory=8, convergence_threshold=0.01))
"""

SAME = 0.05
"""Energies [kcal/mol] that count as equal."""


@dataclass(frozen=True)
class Lowest:
    """Lowest conformer of a search."""

    graph: MolGraph
    """In the atom order of the positions."""
    positions: np.ndarray
    """[atoms, 3] [Å]"""
    seconds: float
    """Processor time [s] of the search."""


def main(argv: Sequence[str] | None = None) -> None:
    parser = make_parser(__doc__, limit=30)
    parser.add_argument("--auto3d", metavar="PYTHON", help="interpreter that has Auto3D; only adds to auto3d.sdf")
    parser.add_argument("--seconds", type=float, default=600.0, help="time for Auto3D [s] (default: %(default)s)")
    parser.add_argument("--jobs", type=int, default=1, help="drugs at a time for Auto3D (default: %(default)s)")
    arguments = parser.parse_args(argv)
    drugs = dict(reversed(line.split()) for line in DRUGS.read_text(encoding="utf-8").splitlines())
    if arguments.auto3d is not None:
        run_auto3d(arguments.auto3d, drugs, time.monotonic() + arguments.seconds, arguments.jobs)
        return
    loaded, clock = start(arguments)
    theirs = dict(list(read_found(FOUND).items())[: arguments.limit])
    ours = {name: search(drugs[name], loaded, arguments.seed) for name in theirs}
    tables = compared(ours, theirs, {"b3lyp-d3": model_forces(loaded.model, "b3lyp-d3"), "GFN2-xTB": gfn2_forces()})
    finish("ensembles", arguments, clock, tables, loaded)


def run_auto3d(interpreter: str, drugs: dict[str, str], until: float, jobs: int) -> None:
    """Appends the result of each drug to auto3d.sdf as soon as there is one; no drug is begun after `until`."""
    known = read_found(FOUND) if FOUND.exists() else {}
    missing = sorted(drugs.keys() - known.keys(), key=lambda name: (graph_from_smiles(drugs[name]).n_atoms, name))
    with ThreadPoolExecutor(jobs) as pool:
        for found in pool.map(partial(_run_auto3d, interpreter, drugs, until), missing):
            if found is None:
                continue
            with FOUND.open("a", encoding="utf-8") as file, Chem.SDWriter(file) as writer:
                writer.write(found)
            print(f"{found.GetProp('_Name')}: {found.GetProp(SECONDS)} s", flush=True)


def _run_auto3d(interpreter: str, drugs: dict[str, str], until: float, name: str) -> Chem.Mol | None:
    """Lowest conformer of Auto3D; None after `until`."""
    if time.monotonic() > until:
        return None
    with tempfile.TemporaryDirectory() as folder:
        script, source, log = (Path(folder, own) for own in ("run.py", "drug.smi", "log"))
        script.write_text(AUTO3D, encoding="utf-8")
        source.write_text(f"{drugs[name]} {name}\n", encoding="utf-8")
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": ""}
        with log.open("w", encoding="utf-8") as output:
            process = subprocess.Popen(
                [interpreter, script, source], cwd=folder, env=environment, stdout=output, stderr=output
            )
            _, status, used = os.wait4(process.pid, 0)  # with the processor time of this process alone
        molecules = [
            mol for path in Path(folder).glob("*/*_out.sdf") for mol in Chem.SDMolSupplier(path, removeHs=False)
        ]
        if status or len(molecules) != 1:
            sys.exit(f"Auto3D found {len(molecules)} conformers of {name}:\n{log.read_text(encoding='utf-8')[-4000:]}")
    (mol,) = molecules
    mol.SetProp("_Name", name)
    mol.SetProp(SECONDS, f"{used.ru_utime + used.ru_stime:.1f}")
    return mol


def read_found(path: Path) -> dict[str, Lowest]:
    """Results of Auto3D by name."""
    molecules = Chem.SDMolSupplier(str(path), removeHs=False)
    return {
        mol.GetProp("_Name"): Lowest(
            graph_from_rdkit(mol), mol.GetConformer().GetPositions(), mol.GetDoubleProp(SECONDS)
        )
        for mol in molecules
    }


def search(smiles: str, loaded: LoadedModel, seed: int) -> Lowest:
    """Lowest conformer of `ensemble`."""
    before = time.process_time()
    found = ensemble(smiles, checkpoint=loaded, level="b3lyp-d3", seed=seed, progress_bar=False)
    return Lowest(found.graph, found.conformers[0].atoms.positions, time.process_time() - before)


def compared(ours: dict[str, Lowest], theirs: dict[str, Lowest], judges: dict[str, ForceFn]) -> list[Table]:
    """Energies after a relaxation of both conformers with each judge, and times."""
    seconds = [[own.seconds for own in found.values()] for found in (ours, theirs)]
    gaps = {judge: _relaxed(force_fn, ours) - _relaxed(force_fn, theirs) for judge, force_fn in judges.items()}
    rows: list[Row] = [
        {
            "judge": judge,
            "drugs": len(gap),
            "lower": int((gap < -SAME).sum()),
            "equal": int((abs(gap) <= SAME).sum()),
            "higher": int((gap > SAME).sum()),
            "difference, mean [kcal/mol]": gap.mean(),
            "lowest": gap.min(),
            "highest": gap.max(),
            "ensemble, median [s]": np.median(seconds[0]),
            "Auto3D, median [s]": np.median(seconds[1]),
        }
        for judge, gap in gaps.items()
    ]
    each: list[Row] = [
        {
            "drug": name,
            "atoms": ours[name].graph.n_atoms,
            **{f"difference, {judge} [kcal/mol]": gap[index] for judge, gap in gaps.items()},
            "ensemble [s]": ours[name].seconds,
            "Auto3D [s]": theirs[name].seconds,
        }
        for index, name in enumerate(ours)
    ]
    note = (
        "Energy of the lowest conformer of `ensemble` less that of Auto3D, both relaxed further with the judge; equal: "
        f"within {SAME:g} kcal/mol. Both relax to 0.01 eV/Å. Processor time on one core, that of "
        "Auto3D with its start."
    )
    return [Table("Lowest conformers, ensemble against Auto3D with AIMNet2", rows, note), Table("Each drug", each)]


def _relaxed(force_fn: ForceFn, found: dict[str, Lowest]) -> np.ndarray:
    """Energies [kcal/mol] of the conformers after a relaxation."""
    graphs = [own.graph for own in found.values()]
    ended = relax_all(force_fn, graphs, [own.positions for own in found.values()], fmax=0.01, max_steps=500)
    energies, _ = predict_all(force_fn, graphs, [own.positions for own in ended])
    return energies / EV_PER_KCAL_PER_MOL


if __name__ == "__main__":
    main()

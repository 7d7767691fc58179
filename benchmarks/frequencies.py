"""Harmonic frequencies of small molecules against B3LYP/6-31G(2df,p), each method at its own minimum.

    python frequencies.py [--level LEVEL] [--tblite]
    python frequencies.py --archives DATA [--level LEVEL] [--limit 300]

The reference (benchmarks/frequencies.json, made by recipes/b3lyp-frequencies) consists of the smallest molecules of
QM9 that are not used in any training; with --archives, of molecules of the test split in qm9_frequencies.npz, whose
minima are in qm9_b3lyp.npz.
"""

import functools
import json
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from ase import Atoms, units
from ase.calculators.calculator import Calculator
from ase.optimize import BFGS
from ase.vibrations import Vibrations as FiniteDifferences
from heldout import is_held_out
from reporting import Row, Table, finish, make_parser, start

from physcon_ase import vibrations
from physcon_ase.inference.vibrations.normal_modes import modes_of_hessian
from physcon_ase.labelling.engines import EngineCalculator, tblite_engine
from physcon_ase.model.physcon import LoadedModel, load_model

REFERENCE = Path(__file__).with_name("frequencies.json")
STEP = 0.005
"""Displacement [Å] of the finite differences, with two points on either side."""


def main(argv: Sequence[str] | None = None) -> None:
    parser = make_parser(__doc__, limit=20)
    parser.add_argument("--level", help="only this level (default: all that cover the molecules)")
    parser.add_argument("--archives", type=Path, help="folder of qm9_frequencies.npz and qm9_b3lyp.npz")
    parser.add_argument("--tblite", action="store_true", help="also GFN2-xTB itself (needs tblite)")
    arguments = parser.parse_args(argv)
    loaded, clock = start(arguments)
    model = load_model(arguments.checkpoint, dtype="float64")
    if arguments.archives is None:
        records = json.loads(REFERENCE.read_text(encoding="utf-8"))[: arguments.limit]
    else:
        records = held_out_records(arguments.archives, arguments.limit, arguments.seed)
    methods: dict[str, Callable[[Atoms], np.ndarray]] = {
        f"level {level}": functools.partial(_of_model, model, level)
        for level in ([arguments.level] if arguments.level else model.model.level_names)
        if all(set(record["atomic_numbers"]) <= set(model.model.level(level).elements) for record in records)
    }
    if arguments.tblite:
        methods["GFN2-xTB (tblite)"] = functools.partial(frequencies, calculator=EngineCalculator(tblite_engine()))
    rows = [_row(name, method, records) for name, method in methods.items()]
    n_modes = sum(len(record["frequencies"]) for record in records)
    title = f"Harmonic frequencies against B3LYP/6-31G(2df,p); {len(records)} molecules, {n_modes} modes"
    note = (
        "Modes are compared in the order of their frequencies. Imaginary: modes of molecules relaxed to a saddle point."
    )
    finish("frequencies", arguments, clock, [Table(title, rows, note)], loaded)


def held_out_records(folder: Path, limit: int, seed: int) -> list[dict]:
    """Elements, positions [Å] and frequencies [1/cm] of random molecules of the test split."""
    with np.load(folder / "qm9_frequencies.npz") as archive:
        gdb, n_modes, all_frequencies = (archive[name] for name in ("gdb", "n_modes", "frequencies"))
    frequencies_of = dict(zip(gdb.tolist(), np.split(all_frequencies, np.cumsum(n_modes)[:-1]), strict=True))
    with np.load(folder / "qm9_b3lyp.npz") as archive:
        names = ("gdb", "n_atoms", "smiles", "atomic_numbers", "positions")
        gdb, n_atoms, smiles, numbers, positions = (archive[name] for name in names)
    ends, records = np.cumsum(n_atoms), []
    for row in np.random.default_rng(seed).permutation(len(gdb)).tolist():
        if len(records) == limit:
            break
        if gdb[row] not in frequencies_of or not is_held_out(str(smiles[row])):
            continue
        atoms = slice(ends[row] - n_atoms[row], ends[row])
        found = frequencies_of[int(gdb[row])]
        if len(found) > 3 * n_atoms[row]:  # 17 of 6,000 molecules have their modes twice
            found = found[: len(found) // 2]
        record = {"atomic_numbers": numbers[atoms].tolist(), "positions": positions[atoms].astype(float)}
        records.append(record | {"frequencies": found})
    return records


def _of_model(model: LoadedModel, level: str, atoms: Atoms) -> np.ndarray:
    return vibrations(atoms, checkpoint=model, level=level).frequencies


def frequencies(atoms: Atoms, calculator: Calculator) -> np.ndarray:
    """Harmonic frequencies [1/cm] of a relaxed copy of the atoms by finite differences; imaginary ones negative."""
    relaxed = atoms.copy()
    relaxed.calc = calculator
    BFGS(relaxed, logfile=None).run(fmax=1e-3, steps=300)
    with tempfile.TemporaryDirectory() as folder:
        numerical = FiniteDifferences(relaxed, name=f"{folder}/modes", delta=STEP, nfree=4)
        numerical.run()
        hessian = numerical.get_vibrations().get_hessian_2d()
    return modes_of_hessian(relaxed, hessian).frequencies


def _row(name: str, method: Callable[[Atoms], np.ndarray], records: list[dict]) -> Row:
    errors, zero_points, n_imaginary, n_saddle_points = [], [], 0, 0
    for record in records:
        found = method(Atoms(record["atomic_numbers"], record["positions"]))
        n_imaginary += int((found < 0).sum())
        n_saddle_points += int((found < 0).any())
        errors.append(found - np.array(record["frequencies"]))
        zero_points.append(0.5 * units.invcm * (found.clip(min=0).sum() - np.sum(record["frequencies"])))
    flat = np.concatenate(errors)
    return {
        "method": name,
        "MAE [1/cm]": float(np.abs(flat).mean()),
        "mean error [1/cm]": float(flat.mean()),
        "90 % below [1/cm]": float(np.percentile(np.abs(flat), 90)),
        "worst molecule [1/cm]": max(float(np.abs(own).mean()) for own in errors),
        "zero-point energy MAE [meV]": 1000 * float(np.abs(zero_points).mean()),
        "imaginary": n_imaginary,
        "molecules with imaginary": n_saddle_points,
    }


if __name__ == "__main__":
    main()

"""Distance from the true minimum of cheap minima and of predicted structures after relaxation with the energy alone.

    python studies/consistency/run.py --folder study --scale small --seeds 0 --rows multi-task
    python studies/consistency/limits.py --folder study --checkpoint TEACHER

Two limits for the study of consistency on its self-made data: MMFF94 minima of the test molecules after Newton steps of
a checkpoint with the level gfn2 (approximate Hessian of `losses.consistency`), or after relaxation to its minimum; and
samples of the baseline relaxed with GFN2-xTB itself, the limit of any local method for these samples.
"""

import functools
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))  # no part of the package
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the clone: neither are studies

from heldout import relax_all
from reporting import Row, Table, finish, make_parser, start

from physcon_ase.batch import EnergyFn, make_batch, unpad
from physcon_ase.chem.compare import rmsd
from physcon_ase.data.store import open_store
from physcon_ase.labelling.engines import engine_forces, tblite_engine
from physcon_ase.model.forces import energies_and_forces
from physcon_ase.model.physcon import load_model
from physcon_ase.relax.driver import RelaxStatus
from physcon_ase.training.losses.consistency import teacher_steps
from studies.consistency.structures import Truth, sample_structures
from studies.consistency.study import selfmade_study, truths
from studies.shared.selfmade import ACCURATE, CHEAP

N_NEWTON = (1, 8)
NEAR = 0.3
"""RMSD [Å] below which a sample has found the conformer."""
MODE = "ddim, refined"
BASELINE = "row0-{seed}"
"""Folder of the study's first row."""
MAX_STEPS = 500


def main(argv: Sequence[str] | None = None) -> None:
    """Measures and prints the tables."""
    parser = make_parser(__doc__, limit=60)
    parser.add_argument("--folder", type=Path, required=True, help="of run.py")
    parser.add_argument("--samples", type=int, default=10, help="of each molecule (default: %(default)s)")
    parser.add_argument("--fmax", type=float, default=0.01, help="end of relaxations [eV/Å] (default: %(default)s)")
    arguments = parser.parse_args(argv)
    loaded, clock = start(arguments)
    store = open_store(arguments.folder / selfmade_study().true_structures.store)
    # both in the same order, since every molecule has both
    molecules, cheap = (truths(store, level, arguments.limit) for level in (ACCURATE, CHEAP))
    tables = [
        _minima(molecules, [own.positions for own in cheap], loaded.model.energy_fn(ACCURATE), arguments.fmax),
        _samples(molecules, arguments),
    ]
    finish("limits", arguments, clock, tables, loaded)


def _minima(molecules: list[Truth], places: list[np.ndarray], energy_fn: EnergyFn, fmax: float) -> Table:
    graphs = [molecule.graph for molecule in molecules]
    rows, moved = [_distances("MMFF94 minimum", molecules, places)], places
    for step in range(1, max(N_NEWTON) + 1):
        batch = make_batch([graph.atomic_numbers for graph in graphs], moved)
        moved = unpad(batch, batch.positions + teacher_steps(energy_fn, batch))
        if step in N_NEWTON:
            rows.append(_distances(f"after {step} Newton step{'s' * (step > 1)}", molecules, moved))
    force_fn = functools.partial(energies_and_forces, energy_fn)
    ended = relax_all(force_fn, graphs, places, fmax=fmax, max_steps=MAX_STEPS)
    rows.append(_distances("relaxed with the same energy", molecules, [own.positions for own in ended]))
    return Table(f"MMFF94 minima of {len(molecules)} molecules against GFN2-xTB minima", rows)


def _distances(name: str, molecules: list[Truth], places: Sequence[np.ndarray]) -> Row:
    found = [rmsd(place, molecule.positions) for place, molecule in zip(places, molecules, strict=True)]
    return {"geometry": name, "RMSD, mean [Å]": float(np.mean(found)), "median": float(np.median(found))}


def _samples(molecules: list[Truth], arguments) -> Table:
    slug = BASELINE.format(seed=arguments.seed)
    model = load_model(arguments.folder / slug / slug).model
    assert model.structure is not None
    config, denoiser = model.structure.config, model.denoiser(ACCURATE)
    drawn = sample_structures(denoiser, config, molecules, MODE, arguments.samples, seed=0)
    flat = [(molecule, place) for molecule, own in zip(molecules, drawn, strict=True) for place in own]
    ended = relax_all(
        engine_forces(tblite_engine(ACCURATE)),
        [molecule.graph for molecule, _ in flat],
        [place for _, place in flat],
        fmax=arguments.fmax,
        max_steps=MAX_STEPS,
    )
    rows = [
        _sampled("sample of the baseline", flat, [place for _, place in flat], len(molecules)),
        _sampled("relaxed with GFN2-xTB", flat, [own.positions for own in ended], len(molecules)),
    ]
    n_converged = sum(own.status is RelaxStatus.CONVERGED for own in ended)
    note = (
        f"Mode {MODE!r}, {arguments.samples} samples of each molecule, RMSD of all atoms, identity map. Near: within "
        f"{NEAR} Å. {n_converged} of {len(ended)} relaxations converged; the others count as where they ended."
    )
    return Table(f"Samples of {len(molecules)} molecules against GFN2-xTB minima, seed {arguments.seed}", rows, note)


def _sampled(name: str, flat: list[tuple[Truth, np.ndarray]], places: Sequence[np.ndarray], n_molecules: int) -> Row:
    pairs = zip(places, flat, strict=True)
    found = np.reshape([rmsd(place, molecule.positions) for place, (molecule, _) in pairs], (n_molecules, -1))
    return {
        "structure": name,
        "RMSD, mean [Å]": float(found.mean()),
        "smallest of the samples": float(found.min(axis=1).mean()),
        "molecules with one near [%]": 100 * float((found.min(axis=1) < NEAR).mean()),
    }


if __name__ == "__main__":
    main()

"""Study of direct forces: errors, speed, relaxations and dynamics in comparison with conservative forces.

    python studies/direct-forces/run.py --checkpoint FOLDER --stores STORES [--runs RUNS] [--plot drift.png]

The checkpoint has direct-force heads (pretrained.toml makes one). Conservative and direct forces of the same
checkpoint are compared on held-out molecules; then direct forces are used in the inner steps of multiple time stepping.
With --runs, the folder of the trainings with the three recipes, force errors at equal processor time are compared, too.
Bigi, Langer and Ceriotti, ICML 2025, doi 10.48550/arXiv.2412.11569.
"""

import functools
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from ase import Atoms
from ase.md.md import MolecularDynamics
from ase.md.verlet import VelocityVerlet
from ase.optimize import BFGS
from ase.units import fs, kB

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))  # which is no part of the package

from encoders import at_time, validations
from heldout import Molecule, covered, model_forces, predict_all, read_test_molecules, relax_all
from rates import MOLECULES, geometry, interleaved, jittered, latency, training_step
from reporting import Row, Table, add_stores, finish, make_parser, percent, start

from physcon_ase.batch import Batch, make_batch
from physcon_ase.checks import asymmetry, direct_forces_of, drift_of, forces_of, loop_work, nve_energies
from physcon_ase.chem.compare import bonds_intact
from physcon_ase.errors import PhysConError
from physcon_ase.inference.calculator import PhysConCalculator
from physcon_ase.inference.dynamics import MultipleTimeStepping
from physcon_ase.inference.results import FORCES_FROM
from physcon_ase.model.physcon import LoadedModel, load_model
from physcon_ase.relax.driver import RelaxStatus
from physcon_ase.relax.state import ForceFn
from physcon_ase.training.recipe import LossRecipe

KINDS = tuple(FORCES_FROM)
"""Conservative and direct."""

START = "thermal"
"""Kind of the start geometries of relaxations and trajectories."""

STEP_FS = 0.5
"""Time step."""

FMAX, MAX_STEPS = 0.02, 300
"""Convergence threshold [eV/Å] and maximum number of steps of relaxations."""

BETWEEN_MEANS = 0.8
"""Fraction of a trajectory between the centres of its first and last fifth, which `drift_of` compares."""

ROUNDS = 20
"""Number of segments of a trajectory; integrators are run alternately, so that all are timed under the same load."""

MakeCalculator: TypeAlias = Callable[..., PhysConCalculator]
"""A calculator of the checkpoint and level, given `forces`."""

LOSSES = {
    "energies and direct forces": LossRecipe(energy=0.2, forces=0.0, direct_forces=1.0),
    "energies and conservative forces": LossRecipe(energy=0.2, forces=1.0),
    "energies and both": LossRecipe(energy=0.2, forces=1.0, direct_forces=0.3),
}


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the comparison and prints the tables."""
    parser = make_parser(__doc__, limit=200, what="molecules for errors and relaxations")
    add_stores(parser)
    parser.add_argument("--level", default="gfn2", help="(default: %(default)s)")
    parser.add_argument("--checked", type=int, default=10, help="molecules for λ and loops (default: %(default)s)")
    parser.add_argument("--moved", type=int, default=4, help="molecules for the drift (default: %(default)s)")
    parser.add_argument("--ase-limit", type=int, default=50, help="relaxations with ASE (default: %(default)s)")
    parser.add_argument("--ps", type=float, default=2.0, help="of each trajectory (default: %(default)s)")
    parser.add_argument("--every", type=int, nargs="+", default=[1, 2, 4, 8], help="fast steps per accurate one")
    parser.add_argument("--trajectories", type=int, default=2, help="of multiple time stepping (default: %(default)s)")
    parser.add_argument("--calls", type=int, default=50, help="timed evaluations (default: %(default)s)")
    parser.add_argument("--batch-slots", type=int, default=512, help="of a training step (default: %(default)s)")
    parser.add_argument("--runs", type=Path, help="folder of the trainings direct, pretrained and conservative")
    parser.add_argument("--plot", type=Path, help="also draw the energies of multiple time stepping")
    arguments = parser.parse_args(argv)
    loaded, clock = start(arguments)
    make = functools.partial(PhysConCalculator, loaded, level=arguments.level)
    molecules = read_test_molecules(
        arguments.stores / "gfn2_qm9.h5", limit=arguments.limit, seed=arguments.seed, with_geometries=(START,)
    )
    molecules = covered(molecules, loaded.model.level(arguments.level))
    trajectories = _trajectories(make, arguments)
    tables = [
        _side_by_side(loaded, make, molecules, arguments),
        _stepping(trajectories, arguments),
        _training(loaded, arguments),
    ]
    if arguments.runs is not None:
        tables.append(_pretraining(arguments.runs))
    if arguments.plot is not None:
        _plot(trajectories, arguments.plot)
    finish("direct", arguments, clock, tables, loaded)


# ---- conservative and direct forces of one checkpoint


def _side_by_side(loaded: LoadedModel, make: MakeCalculator, molecules: list[Molecule], arguments) -> Table:
    level, calculators = arguments.level, {kind: make(forces=kind) for kind in KINDS}
    force_fns = _force_fns(loaded, level)
    precise = load_model(arguments.checkpoint, dtype="float64")
    fields = {
        "conservative": functools.partial(forces_of, precise.model.energy_fn(level)),
        "direct": functools.partial(direct_forces_of, precise.model, level),
    }
    checked = [_batch(molecule) for molecule in molecules[: arguments.checked]]
    asymmetries = {kind: [asymmetry(fields[kind](batch), batch) for batch in checked] for kind in KINDS}
    exact_fns = _force_fns(precise, level)
    works = {
        kind: [1000 * loop_work(force_fn, batch, arguments.seed) for batch in checked]
        for kind, force_fn in exact_fns.items()
    }
    moved = [_batch(molecule) for molecule in molecules[: arguments.moved]]
    drifts = {kind: [_drift(force_fn, batch, arguments) for batch in moved] for kind, force_fn in exact_fns.items()}
    fates = {kind: _fates(force_fns[kind], molecules) for kind in KINDS}
    ase_failures = {kind: _ase_failures(calculators[kind], molecules[: arguments.ase_limit]) for kind in KINDS}
    n_ase = len(molecules[: arguments.ase_limit])
    seconds = _seconds(calculators, arguments)
    of_kinds = {
        "force MAE [meV/Å]": {kind: 1000 * _force_error(force_fns[kind], molecules, level) for kind in KINDS},
        "asymmetry λ, median": {kind: np.median(asymmetries[kind]) for kind in KINDS},
        "work round a loop, median [meV]": {kind: np.median(works[kind]) for kind in KINDS},
        "NVE drift, median [meV/atom/ps]": {kind: np.median(np.abs(drifts[kind])) for kind in KINDS},
        "NVE drift, largest [meV/atom/ps]": {kind: np.max(np.abs(drifts[kind])) for kind in KINDS},
        "relaxations that fail": {kind: percent(len(fates[kind]), len(molecules)) for kind in KINDS},
        "of these": {kind: _counted(fates[kind]) for kind in KINDS},
        "the same with ASE's BFGS": {kind: percent(len(ase_failures[kind]), n_ase) for kind in KINDS},
        "of these, ASE": {kind: _counted(ase_failures[kind]) for kind in KINDS},
        "energy + forces of aspirin in ASE [ms]": {kind: 1000 * seconds[kind] for kind in KINDS},
        "the model alone [ms]": {kind: 1000 * latency(force_fns[kind], MOLECULES["aspirin"]) for kind in KINDS},
    }
    note = (
        f"Force MAE: all geometries of the molecules. λ and loops: {len(checked)} thermal geometries, float64. Drift: "
        f"{len(moved)} molecules from thermal geometries and velocities of 300 K, {arguments.ps:g} ps in steps of "
        f"{STEP_FS} fs, float64, of the checkpoint's own energy. Relaxations: from thermal geometries; one fails that "
        f"has a force above {FMAX} eV/Å after {MAX_STEPS} steps, stops before, or has other bonds than its graph. The "
        f"package's optimiser refuses steps that raise the energy; ASE's looks at forces alone ({n_ase} molecules). "
        "Time: processor, median, float32, one molecule."
    )
    rows: list[Row] = [
        {"quantity": name, **{kind: _text(value) for kind, value in values.items()}}
        for name, values in of_kinds.items()
    ]
    return Table(f"Conservative and direct forces of one checkpoint; {len(molecules)} held-out molecules", rows, note)


def _force_fns(loaded: LoadedModel, level: str) -> dict[str, ForceFn]:
    return {
        "conservative": model_forces(loaded.model, level),
        "direct": functools.partial(loaded.model.energies_and_direct_forces, level=level),
    }


def _batch(molecule: Molecule) -> Batch:
    positions = molecule.geometries[START].positions
    return make_batch([molecule.graph.atomic_numbers], [positions - positions.mean(axis=0)], dtype=torch.float64)


def _drift(force_fn: ForceFn, batch: Batch, arguments) -> float:
    """[meV/atom/ps]"""
    n_steps = max(2, round(1000 * arguments.ps / STEP_FS))
    energies = nve_energies(force_fn, batch, np.random.default_rng(arguments.seed), n_steps)[:, 0]
    return drift_of(energies, batch.positions.shape[1]) / (BETWEEN_MEANS * arguments.ps)


def _force_error(force_fn: ForceFn, molecules: list[Molecule], level: str) -> float:
    """Mean absolute error of a Cartesian component [eV/Å]."""
    labelled = [(m.graph, g) for m in molecules for g in m.geometries.values() if level in g.forces]
    _, found = predict_all(force_fn, [graph for graph, _ in labelled], [g.positions for _, g in labelled])
    errors = [np.abs(own - g.forces[level]).ravel() for own, (_, g) in zip(found, labelled, strict=True)]
    return float(np.concatenate(errors).mean())


def _fates(force_fn: ForceFn, molecules: list[Molecule]) -> list[str]:
    """Reason of each failed relaxation."""
    graphs = [m.graph for m in molecules]
    starts = [m.geometries[START].positions for m in molecules]
    ended = relax_all(force_fn, graphs, starts, fmax=FMAX, max_steps=MAX_STEPS)
    fates = [
        "other bonds" if not bonds_intact(graph, own.positions).intact else own.status.name.lower().replace("_", " ")
        for graph, own in zip(graphs, ended, strict=True)
    ]
    return [fate for fate in fates if fate != RelaxStatus.CONVERGED.name.lower()]


def _ase_failures(calculator: PhysConCalculator, molecules: list[Molecule]) -> list[str]:
    failures = []
    for molecule in molecules:
        atoms = Atoms(molecule.graph.atomic_numbers, molecule.geometries[START].positions, calculator=calculator)
        try:
            converged = BFGS(atoms, logfile=None).run(fmax=FMAX, steps=MAX_STEPS)
        except PhysConError as error:
            failures.append(type(error).__name__)
            continue
        if not bonds_intact(molecule.graph, atoms.positions).intact:
            failures.append("other bonds")
        elif not converged:
            failures.append("step limit")
    return failures


def _seconds(calculators: dict[str, PhysConCalculator], arguments) -> dict[str, float]:
    graph, positions = geometry(MOLECULES["aspirin"])
    generator = np.random.default_rng(arguments.seed)

    def call(calculator: PhysConCalculator) -> object:
        return calculator.get_forces(Atoms(graph.atomic_numbers, jittered(positions, generator)))

    calls = {kind: functools.partial(call, calculator) for kind, calculator in calculators.items()}
    return {kind: processor for kind, (_, processor) in interleaved(calls, arguments.calls).items()}


def _counted(fates: list[str]) -> str:
    return ", ".join(f"{fate} {fates.count(fate)}" for fate in sorted(set(fates))) or "-"


def _text(value: str | float) -> str:
    return value if isinstance(value, str) else f"{value:.3g}"


# ---- multiple time stepping


@dataclass
class Trajectory:
    """NVE dynamics of aspirin, advanced piece by piece."""

    name: str
    """Of the integrator."""
    atoms: Atoms
    """Atoms with the calculator of the conservative energy."""
    dynamics: MolecularDynamics
    """The integrator."""
    every: int
    """Steps of `STEP_FS` per step of the integrator."""
    energies: list[float]
    """Total energy [eV] after each step of the integrator, until the molecule dissociates."""
    seconds: float = 0.0
    """Processor time [s] so far."""
    ended: bool = False
    """Whether atoms have collided or dissociated."""

    def run(self, n_steps: int) -> None:
        """Performs this number of steps of the integrator, unless the trajectory has ended."""
        for _ in range(0 if self.ended else n_steps):
            before = time.process_time()
            try:
                self.dynamics.run(1)
                energy = self.atoms.get_total_energy()
            except PhysConError:  # overlapping atoms, or positions that are no numbers
                energy = np.nan
            self.ended = not np.isfinite(energy)
            if self.ended:
                return
            self.energies.append(energy)
            self.seconds += time.process_time() - before

    @property
    def picoseconds(self) -> float:
        """Length [ps] so far."""
        return len(self.energies) * self.every * STEP_FS / 1000

    @property
    def drift(self) -> float:
        """Drift [meV/atom/ps]; NaN if the trajectory ended early."""
        if self.ended:
            return np.nan
        return drift_of(self.energies, len(self.atoms)) / (BETWEEN_MEANS * self.picoseconds)

    @property
    def milliseconds(self) -> float:
        """Processor time [ms] per `STEP_FS` of dynamics."""
        return STEP_FS * self.seconds / self.picoseconds if self.energies else np.nan


def _trajectories(make: MakeCalculator, arguments) -> list[list[Trajectory]]:
    """For each start, a trajectory with each integrator."""
    start = _relaxed_aspirin(make(forces="conservative"))
    found = []
    for seed in range(arguments.seed, arguments.seed + arguments.trajectories):
        own = _integrators(_heated(start, seed), make, arguments.every)
        n_steps = 1000 * arguments.ps / STEP_FS
        for _ in range(ROUNDS):
            for trajectory in own:
                trajectory.run(max(1, round(n_steps / ROUNDS / trajectory.every)))
        found.append(own)
    return found


def _relaxed_aspirin(calculator: PhysConCalculator) -> Atoms:
    graph, positions = geometry(MOLECULES["aspirin"])
    atoms = Atoms(graph.atomic_numbers, positions, calculator=calculator)
    BFGS(atoms, logfile=None).run(fmax=FMAX, steps=MAX_STEPS)
    return atoms


def _heated(start: Atoms, seed: int) -> Atoms:
    """The molecule with velocities of 600 K, half of which becomes potential energy."""
    atoms, generator = start.copy(), np.random.default_rng(seed)
    masses = atoms.get_masses()[:, None]
    velocities = generator.normal(size=(len(atoms), 3)) * np.sqrt(600 * kB / masses)
    atoms.set_velocities(velocities - (masses * velocities).sum(axis=0) / masses.sum())
    return atoms


def _integrators(start: Atoms, make: MakeCalculator, every: Sequence[int]) -> list[Trajectory]:
    """One trajectory of each kind, with separate calculators, because calculators cache the last structure."""
    found = []
    for kind in KINDS:
        atoms = start.copy()
        atoms.calc = make(forces=kind)
        found.append(Trajectory(kind, atoms, VelocityVerlet(atoms, STEP_FS * fs), 1, []))
    for n_fast in every:
        atoms = start.copy()
        atoms.calc = make(forces="conservative")
        dynamics = MultipleTimeStepping(atoms, STEP_FS * fs, fast=make(forces="direct"), every=n_fast)
        found.append(Trajectory(f"M = {n_fast}", atoms, dynamics, n_fast, []))
    return found


def _stepping(trajectories: list[list[Trajectory]], arguments) -> Table:
    rows = []
    reference = np.mean([own[0].milliseconds for own in trajectories])
    for same in zip(*trajectories, strict=True):
        milliseconds = np.mean([own.milliseconds for own in same])
        drifts = np.array([own.drift for own in same])
        ends = [own.picoseconds for own in same if own.ended]
        rows.append(
            {
                "integrator": same[0].name,
                f"processor time of {STEP_FS} fs [ms]": milliseconds,
                "speed-up": reference / milliseconds,
                "drift, mean [meV/atom/ps]": float(drifts.mean()),
                "drift, largest": float(drifts[np.abs(drifts).argmax()]),
                "bursts after [ps]": min(ends, default=np.nan),
            }
        )
    note = (
        "M: direct forces in every step, conservative ones in every M-th. Drift: of the conservative energy, for "
        "`direct` of the same energy. Bursts: atoms meet each other (the shortest of the trajectories). Integrators "
        "take turns."
    )
    title = f"NVE dynamics of aspirin at 300 K in ASE, {len(trajectories)} trajectories of {arguments.ps:g} ps"
    return Table(title, rows, note)


def _plot(trajectories: list[list[Trajectory]], path: Path) -> None:
    """Total energy against time of the first trajectories; linear up to 1 meV/atom, logarithmic above."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 3.8), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for own in trajectories[0]:
        energies = np.array(own.energies)
        times = np.arange(1, len(energies) + 1) * own.every * STEP_FS / 1000
        name = f"{own.name} (bursts)" if own.ended else own.name
        axes.plot(times, 1000 * (energies - energies[0]) / len(own.atoms), label=name, lw=0.8)
    axes.set_yscale("symlog", linthresh=1)
    axes.set_xlabel("time [ps]")
    axes.set_ylabel("total energy less that of the start [meV/atom]")
    axes.legend(frameon=False)
    figure.savefig(path, dpi=130)


# ---- training


def _training(loaded: LoadedModel, arguments) -> Table:
    slots = arguments.batch_slots
    steps = {name: training_step(loaded.model.config, loss, atoms_per_batch=slots) for name, loss in LOSSES.items()}
    seconds = {name: processor for name, (_, processor) in interleaved(steps, arguments.calls).items()}
    slowest = seconds["energies and conservative forces"]
    rows = [{"loss": name, "step [ms]": 1000 * own, "times as fast": slowest / own} for name, own in seconds.items()]
    return Table(f"Training steps, batches of {slots} slots, molecules of 19 atoms", rows, "Processor time, median.")


def _pretraining(runs: Path) -> Table:
    """Conservative force errors at equal processor time."""
    before = validations(runs / "direct")[-1, 0]
    alone = validations(runs / "conservative")
    rows = []
    for seconds, _, error in validations(runs / "pretrained"):
        _, same_time = at_time(alone, before + seconds)
        rows.append(
            {
                "processor time [s]": before + seconds,
                "direct, then conservative [meV/Å]": 1000 * error,
                "conservative alone [meV/Å]": 1000 * same_time,
                "conservative alone is there after [s]": _time_of(alone, error),
            }
        )
    note = (
        f"Force MAE on validation molecules; the first {before:.0f} s of the second column are direct.toml. "
        "'-': not trained that long."
    )
    return Table("Conservative force error at equal processor time", rows, note)


def _time_of(found: np.ndarray, error: float) -> float:
    """Processor time [s] at which a force error is reached; NaN if never, or before the first validation."""
    errors = found[:, 2]
    if not errors[-1] <= error <= errors[0]:
        return float("nan")
    return float(np.interp(-error, -errors, found[:, 0]))


if __name__ == "__main__":
    main()

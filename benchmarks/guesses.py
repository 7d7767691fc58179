"""Accuracy of guesses for held-out molecules, compared with ETKDG, MMFF94 and GFN2-xTB on the same molecules.

    python guesses.py --stores STORES [--level LEVEL] [--tblite]
    python guesses.py --stores STORES [--level LEVEL] --evaluations [--limit 40]

Every guess is made from the molecular graph alone and is compared with the nearest minimum of its molecule in the
store: drug-like molecules with several B3LYP-D3(BJ)/DZVP minima at level b3lyp-d3, QM9 molecules with one
B3LYP/6-31G(2df,p) minimum at level b3lyp. The second table counts the steps of `optimize` from each start.

With --evaluations: distance of the default guess from the minimum of the same energies as a function of the number of
evaluations of the structure network, with its cost and the saving in a relaxation; for QM9 molecules and for half as
many drug-like ones.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from ase import Atoms
from heldout import (
    by_size,
    covered,
    gfn2_forces,
    is_intact,
    model_forces,
    predict_all,
    read_test_molecules,
    relax_all,
)
from reporting import Row, Table, add_stores, finish, make_parser, start, statistics

from physcon_ase.batch import make_batch, unpad
from physcon_ase.chem.compare import distance_mae_rmse, rmsd, symmetric_rmsd
from physcon_ase.chem.conformers import mmff94_minimize
from physcon_ase.chem.graph import MolGraph
from physcon_ase.chem.hydrogens import hydrogen_order
from physcon_ase.errors import MissingParametersError, PhysConError
from physcon_ase.inference.embedding import embed_many
from physcon_ase.inference.generator import N_CONFORMERS, REFINE_SIGMA, StructureGenerator
from physcon_ase.inference.one import optimize
from physcon_ase.model.config import LevelConfig
from physcon_ase.model.physcon import LoadedModel, PhysCon, load_model
from physcon_ase.model.structure import refined
from physcon_ase.relax.state import ForceFn

QM9, DRUG_LIKE = "qm9_b3lyp", "openff_minima_dzvp"
STORES = {"b3lyp-d3": DRUG_LIKE, "b3lyp": QM9}
"""Where the minima of each level are."""

MODES: dict[str, str] = {
    "ddim": "guess, DDIM from noise",
    "refine": "guess, MMFF94 refined (default)",
}
MAX_STEPS = 500

SCHEDULES = (*((n, REFINE_SIGMA) for n in (1, 2, 4, 6, 8)), (8, 0.03), (8, 0.05))
"""Numbers of evaluations, and the noise level [Å] given to the head."""


@dataclass(frozen=True)
class Guesses:
    """Guesses of one method for all molecules."""

    method: str
    """Name of the method."""
    samples: list[list[np.ndarray | None]]
    """Positions [atoms, 3] [Å] by molecule and sample; None where the method failed."""
    seconds: float
    """Processor time [s] of one guess of one molecule."""
    n_fallbacks: int = 0
    """Guesses replaced by their start geometry."""


def main(argv: Sequence[str] | None = None) -> None:
    parser = make_parser(__doc__, limit=200)
    add_stores(parser)
    parser.add_argument("--samples", type=int, default=10, help="guesses for each molecule (default: %(default)s)")
    parser.add_argument(
        "--steps-limit", type=int, default=100, help="molecules whose steps are counted (default: %(default)s)"
    )
    parser.add_argument("--fmax", type=float, default=0.01, help="end of relaxations [eV/Å] (default: %(default)s)")
    parser.add_argument("--level", help="one that has minima (default: that of the checkpoint)")
    parser.add_argument("--tblite", action="store_true", help="also relax the lowest MMFF94 minimum with GFN2-xTB")
    parser.add_argument("--evaluations", action="store_true", help="only tell what evaluations cost and save")
    arguments = parser.parse_args(argv)
    loaded, clock = start(arguments)
    level = loaded.model.level(arguments.level or loaded.model.level_names[0])
    if arguments.evaluations:
        finish("guesses", arguments, clock, _evaluations_tables(loaded, level, arguments), loaded)
        return
    if level.name not in STORES:
        parser.error(f"no store has minima of level {level.name}; choose one of {', '.join(STORES)}")
    path, kind = arguments.stores / f"{STORES[level.name]}.h5", f"minimum of {level.name}"
    molecules = read_test_molecules(path, limit=arguments.limit, seed=arguments.seed, with_geometries=(kind,))
    molecules = covered(molecules, level)
    graphs = [m.graph for m in molecules]
    goals = [[own.positions for own in m.all_geometries if own.kind == kind] for m in molecules]
    seeds = range(arguments.seed, arguments.seed + arguments.samples)
    etkdg = _etkdg(graphs, seeds)
    mmff94, lowest = _mmff94(graphs, etkdg)
    methods = [etkdg, mmff94, lowest]
    if arguments.tblite:
        methods.append(_relaxed("that one relaxed with GFN2-xTB", gfn2_forces(), graphs, lowest, arguments.fmax))
    force_fn = model_forces(loaded.model, level.name)
    methods.append(_relaxed(f"that one relaxed at level {level.name}", force_fn, graphs, lowest, arguments.fmax))
    guesses = {}
    if loaded.model.structure is not None:
        guesses = {mode: _generated(loaded, level.name, mode, graphs, seeds) for mode in MODES}
        relaxed = _relaxed(
            f"default guess, relaxed at level {level.name}", force_fn, graphs, guesses["refine"], arguments.fmax
        )
        methods += [*guesses.values(), relaxed, _lowest_of(relaxed, force_fn, graphs)]
    note = (
        "First guess of each molecule: heavy RMSD (heavy atoms, symmetry-aware), D-MAE (mean absolute error of all "
        f"interatomic distances), intact bonds and stereo. All {arguments.samples} samples: RMSD of all atoms with "
        "identity map, mean and smallest of each molecule, averaged over molecules; equivalent hydrogens in the order "
        "of physcon_ase.chem.hydrogens, or as drawn. Of several minima of a molecule "
        "the one with the smallest value counts, each time. Failed: no geometry. Fallback: "
        "start geometries that stand in for guesses with wrong bonds or stereo, of the "
        f"{arguments.samples * len(graphs)} samples. Processor time of all stages of one guess, batched."
    )
    steps = [etkdg, mmff94, *guesses.values()]
    tables = [
        Table(f"Guesses against the {kind}, {len(graphs)} molecules", [_row(m, graphs, goals) for m in methods], note),
        _steps_table(steps, graphs, level.name, arguments),
    ]
    finish("guesses", arguments, clock, tables, loaded)


def _evaluations_tables(loaded: LoadedModel, level: LevelConfig, arguments) -> list[Table]:
    tables = []
    for name, limit in ((QM9, arguments.limit), (DRUG_LIKE, arguments.limit // 2)):
        found = read_test_molecules(arguments.stores / f"{name}.h5", limit=limit, seed=arguments.seed)
        graphs = [molecule.graph for molecule in covered(found, level)]
        places = embed_many(graphs, [arguments.seed] * len(graphs), n_conformers=N_CONFORMERS)
        starts = {i: place for i, place in enumerate(places) if not isinstance(place, PhysConError)}
        chosen = [graphs[i] for i in starts]
        rows = [
            _evaluations_row(loaded.model, level.name, chosen, list(starts.values()), *schedule, arguments.fmax)
            for schedule in ((0, 0.0), *SCHEDULES)
        ]
        note = (
            f"From the lowest MMFF94 minimum of {N_CONFORMERS} conformers, which is what 0 evaluations are. Distance, "
            f"energy and steps (medians) to the end of a batched BFGS of the same energies to {arguments.fmax:g} eV/Å. "
            "Processor time per molecule, in batches; that of the MMFF94 minima is not counted."
        )
        tables.append(Table(f"{len(chosen)} molecules of {name} at level {level.name}", rows, note))
    return tables


def _evaluations_row(
    model: PhysCon, level: str, graphs: list[MolGraph], starts: list[np.ndarray], n: int, sigma: float, fmax: float
) -> Row:
    denoiser, force_fn, places = model.denoiser(level), model_forces(model, level), list(starts)
    before = time.process_time()
    for chosen in by_size([graph.n_atoms for graph in graphs]) if n else ():
        own = [graphs[i] for i in chosen]
        batch = make_batch([graph.atomic_numbers for graph in own], [starts[i] for i in chosen], graphs=own)
        with torch.no_grad():
            drawn = unpad(batch, refined(denoiser, batch, sigma, n))
        for index, place in zip(chosen, drawn, strict=True):
            places[index] = place.astype(np.float64)
    guess = _share(before, len(graphs))
    before = time.process_time()
    ended = relax_all(force_fn, graphs, places, fmax=fmax, max_steps=MAX_STEPS)
    relaxation = _share(before, len(graphs))
    above = np.subtract(*(predict_all(force_fn, graphs, p)[0] for p in (places, [own.positions for own in ended])))
    return {
        "evaluations": n,
        "noise level [Å]": sigma if n else None,
        "distance [Å]": _median([rmsd(a, own.positions) for a, own in zip(places, ended, strict=True)]),
        "energy [meV]": 1000 * _median(above),
        "steps": _median([own.steps for own in ended]),
        "guess [ms]": 1000 * guess,
        "relaxation [ms]": 1000 * relaxation,
        "both [ms]": 1000 * (guess + relaxation),
    }


def _etkdg(graphs: list[MolGraph], seeds: range) -> Guesses:
    before = time.process_time()
    places = [[_or_none(own) for own in embed_many(graphs, [seed] * len(graphs))] for seed in seeds]
    return Guesses("ETKDG", _by_molecule(places), _share(before, len(graphs) * len(seeds)))


def _mmff94(graphs: list[MolGraph], etkdg: Guesses) -> tuple[Guesses, Guesses]:
    """Each ETKDG geometry relaxed with MMFF94, and the lowest of each molecule."""
    before = time.process_time()
    minima = [[_minimize(graph, place) for place in own] for graph, own in zip(graphs, etkdg.samples, strict=True)]
    n_samples = max(map(len, minima), default=0)
    seconds = etkdg.seconds + _share(before, len(graphs) * n_samples)
    places = [[None if m is None else m[0] for m in own] for own in minima]
    lowest = [min((m for m in own if m is not None), key=lambda m: m[1], default=None) for own in minima]
    return (
        Guesses("ETKDG + MMFF94", places, seconds),
        Guesses(f"lowest MMFF94 of {n_samples}", [[None if m is None else m[0]] for m in lowest], n_samples * seconds),
    )


def _minimize(graph: MolGraph, place: np.ndarray | None) -> tuple[np.ndarray, float] | None:
    if place is None:
        return None
    try:
        minimized = mmff94_minimize(graph, place)
    except MissingParametersError:
        return None
    return minimized.positions, minimized.energy


def _generated(loaded: LoadedModel, level: str, mode: str, graphs: list[MolGraph], seeds: range) -> Guesses:
    generator = StructureGenerator(loaded, mode=mode, level=level)
    before = time.process_time()
    made = [generator.generate_many(graphs, seed=seed) for seed in seeds]
    seconds = _share(before, len(graphs) * len(seeds))
    n_fallbacks = sum(not isinstance(guess, PhysConError) and bool(guess.fallback) for own in made for guess in own)
    places = [[None if isinstance(guess, PhysConError) else guess.positions for guess in own] for own in made]
    return Guesses(MODES[mode], _by_molecule(places), seconds, n_fallbacks)


def _relaxed(method: str, force_fn: ForceFn, graphs: list[MolGraph], start: Guesses, fmax: float) -> Guesses:
    """All samples of another method relaxed, in batches."""
    places: list[list[np.ndarray | None]] = [[None] * len(own) for own in start.samples]
    known = [(i, k) for i, own in enumerate(start.samples) for k, place in enumerate(own) if place is not None]
    before = time.process_time()
    ended = relax_all(
        force_fn, [graphs[i] for i, _ in known], [start.samples[i][k] for i, k in known], fmax=fmax, max_steps=MAX_STEPS
    )
    for (i, k), own in zip(known, ended, strict=True):
        places[i][k] = own.positions
    return Guesses(method, places, start.seconds + _share(before, len(known)), start.n_fallbacks)


def _lowest_of(relaxed: Guesses, force_fn: ForceFn, graphs: list[MolGraph]) -> Guesses:
    """Of the relaxed samples of each molecule that still are this molecule, the one of lowest energy."""
    chosen: list[list[np.ndarray | None]] = []
    for graph, own in zip(graphs, relaxed.samples, strict=True):
        usable = [place for place in own if place is not None and is_intact(graph, place)]
        energies, _ = predict_all(force_fn, [graph] * len(usable), usable)
        chosen.append([usable[int(np.argmin(energies))] if usable else None])
    n_samples = max(map(len, relaxed.samples), default=0)
    return Guesses(f"lowest of {n_samples} of these", chosen, n_samples * relaxed.seconds, relaxed.n_fallbacks)


def _row(guesses: Guesses, graphs: list[MolGraph], goals: list[list[np.ndarray]]) -> Row:
    firsts = [
        (g, own[0], minima) for g, own, minima in zip(graphs, guesses.samples, goals, strict=True) if own[0] is not None
    ]
    ordered = [
        [[place[hydrogen_order(graph, place)] for place in places if place is not None] for places in (own, minima)]
        for graph, own, minima in zip(graphs, guesses.samples, goals, strict=True)
    ]
    identity = _identity_rmsd(ordered)
    as_drawn = _identity_rmsd([[own, minima] for own, minima in zip(guesses.samples, goals, strict=True)])
    heavy = np.array([min(symmetric_rmsd(graph, place, goal) for goal in minima) for graph, place, minima in firsts])
    return {
        "method": guesses.method,
        "molecules": len(firsts),
        "failed": len(graphs) - len(firsts),
        "fallback": guesses.n_fallbacks,
        "intact": sum(is_intact(graph, place) for graph, place, _ in firsts),
        "heavy RMSD, mean [Å]": _mean(heavy),
        "median": float(np.median(heavy)) if len(heavy) else float("nan"),
        "90 %": float(np.quantile(heavy, 0.9)) if len(heavy) else float("nan"),
        "RMSD, mean of samples [Å]": _mean([np.mean(own) for own in identity]),
        "smallest of samples": _mean([min(own) for own in identity]),
        "mean, hydrogens as drawn": _mean([np.mean(own) for own in as_drawn]),
        "smallest, as drawn": _mean([min(own) for own in as_drawn]),
        "D-MAE [Å]": _mean([min(distance_mae_rmse(place, goal)[0] for goal in minima) for _, place, minima in firsts]),
        "ms per molecule": 1000 * guesses.seconds,
    }


def _identity_rmsd(samples_and_goals: list[list]) -> list[list[float]]:
    """RMSD [Å] of each sample from the nearest goal, for each molecule with samples."""
    values = [
        [min(rmsd(place, goal) for goal in goals) for place in samples if place is not None]
        for samples, goals in samples_and_goals
    ]
    return [own for own in values if own]


def _steps_table(methods: list[Guesses], graphs: list[MolGraph], level: str, arguments) -> Table:
    """Steps of ASE's BFGS from the first guess of each method, on the molecules for which all methods have one."""
    common = [i for i in range(len(graphs)) if all(own.samples[i][0] is not None for own in methods)]
    common = common[: arguments.steps_limit]
    # float64 is what `optimize` takes unless told otherwise
    loaded = load_model(arguments.checkpoint, dtype=torch.float64)
    rows = []
    for own in methods:
        before = time.process_time()
        results = [
            optimize(
                graphs[i],
                level=level,
                checkpoint=loaded,
                fmax=arguments.fmax,
                max_steps=MAX_STEPS,
                start=Atoms(graphs[i].atomic_numbers, own.samples[i][0]),
            )
            for i in common
        ]
        seconds = _share(before, len(common))
        rows.append(
            {
                "start": own.method,
                "molecules": len(results),
                "converged": sum(result.converged for result in results),
                "intact": sum(result.is_ok for result in results),
                **statistics([result.steps for result in results], "steps"),
                "start above the end, median [eV]": _median([r.energies[0] - r.energy for r in results]),
                "fmax of the start, median [eV/Å]": _median([r.fmax_history[0] for r in results]),
                "ms per molecule": 1000 * seconds,
            }
        )
    title = (
        f"Steps of ASE's BFGS with model Hessian at level {level} to fmax {arguments.fmax:g} eV/Å, "
        f"{len(common)} molecules"
    )
    note = "Intact: converged with bonds and stereo of the graph. Processor time of the relaxation alone, float64."
    return Table(title, rows, note)


def _by_molecule(by_sample: list[list[np.ndarray | None]]) -> list[list[np.ndarray | None]]:
    return [list(own) for own in zip(*by_sample, strict=True)]


def _or_none(outcome: np.ndarray | PhysConError) -> np.ndarray | None:
    return None if isinstance(outcome, PhysConError) else outcome


def _share(before: float, count: int) -> float:
    return (time.process_time() - before) / max(1, count)


def _of(statistic: Callable, values: Sequence[float] | np.ndarray) -> float:
    return float(statistic(values)) if len(values) else float("nan")


def _mean(values: Sequence[float] | np.ndarray) -> float:
    return _of(np.mean, values)


def _median(values: Sequence[float] | np.ndarray) -> float:
    return _of(np.median, values)


if __name__ == "__main__":
    main()

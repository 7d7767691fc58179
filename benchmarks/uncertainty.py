"""Uncertainties of a calibrated checkpoint compared with the errors on held-out molecules, and their cost.

    python uncertainty.py --checkpoint FOLDER --stores STORES [--level LEVEL]

FOLDER is made by `physcon calibrate`. If the environment variable PHYSCON_AIMNET2 names the wheel of AIMNet2, level
wb97m is also evaluated on geometries and molecules outside the training data: held-out molecules displaced at random,
and molecules unlike those of the training. For normally distributed errors 68 % are below one sigma and 95 % below two.
"""

import copy
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from ase import Atoms
from heldout import FORCES_ONLY, STORES, aimnet2_forces, covered, predict_all, read_test_molecules
from rates import MOLECULES, geometry, interleaved, jittered
from reporting import Row, Table, add_stores, finish, make_parser, start
from scipy.stats import spearmanr

from physcon_ase.chem.graph import MolGraph
from physcon_ase.inference.calculator import PhysConCalculator
from physcon_ase.labelling.engines.aimnet2 import LEVEL as AIMNET2_LEVEL
from physcon_ase.labelling.engines.aimnet2 import MAX_SPREAD, PATH_VARIABLE
from physcon_ase.model.physcon import LoadedModel

KINDS = {
    "b3lyp-d3": ("torsions", "displaced"),
    "wb97m": ("displaced", "qm9", "pairs", "families"),
    "b3lyp": ("displaced", "thermal"),
}
"""Kinds of stores with held-out molecules of each level."""

SHAKES = (0.075, 0.1)
"""Random displacements [Å per coordinate] of held-out molecules; that of bonds in thermal motion is about 0.05, and
above 0.1 the networks of AIMNet2 disagree on most molecules."""

UNUSUAL = (
    "N#CC#CC#CC#N", "C1C2CC12", "C12C3C4C1C5C2C3C45", "O=C=C=C=O", "N=[N+]=NC(N=[N+]=[N-])=NN", "S=C=S", "SSSSSSSS",
    "FC(F)(F)C(F)(F)C(F)(F)C(F)(F)F", "ClC(Cl)(Cl)C(Cl)(Cl)Cl", "O=P(O)(O)OP(=O)(O)OP(=O)(O)O", "P12P3P1P23",
    "FS(F)(F)(F)(F)F", "O=[N+]([O-])c1c([N+](=O)[O-])c([N+](=O)[O-])c([N+](=O)[O-])c([N+](=O)[O-])c1[N+](=O)[O-]",
    "NCCCCCCCCCCCCCCCCCCCCCCCCCC(=O)O", "OO", "OOO", "NNNN", "C=C=C=C=C=C", "[H][H]", "FOF",
)  # fmt: skip
"""Cages, cumulenes, chains of heteroatoms, perhalogenated and hypervalent molecules."""


@dataclass(frozen=True)
class Case:
    """A geometry with its labels."""

    atoms: Atoms
    """The geometry."""
    energy: float
    """Label [eV]."""
    forces: np.ndarray | None
    """Labels [atoms, 3] [eV/Å]."""


def main(argv: Sequence[str] | None = None) -> None:
    parser = make_parser(__doc__, limit=500, what="molecules of each store")
    add_stores(parser)
    parser.add_argument("--level", help="only this level (default: all that are calibrated)")
    parser.add_argument("--calls", type=int, default=100, help="timed for aspirin (default: %(default)s)")
    arguments = parser.parse_args(argv)
    loaded, clock = start(arguments)
    generator = np.random.default_rng(arguments.seed)
    energy_rows: list[Row] = []
    force_rows: list[Row] = []
    calibrated = [name for name in loaded.model.config.energy_uncertainty if name in KINDS]
    for level in (name for name in calibrated if arguments.level in (None, name)):
        calculator = PhysConCalculator(loaded, level=level)
        for name, cases in _sets(loaded, level, arguments, generator).items():
            energy_row, force_row = error_rows(calculator, name, cases)
            energy_rows += [] if name in FORCES_ONLY else [energy_row]
            force_rows += [] if force_row is None else [force_row]
    note = "Spearman: rank correlation of sigma with the absolute error, "
    tables = [
        Table("Uncertainty of energies, test split [meV]", energy_rows, f"{note}0 if sigma says nothing."),
        Table("Uncertainty of forces, test split [meV/Å]", force_rows, f"{note}over atoms; shares are of components."),
        Table("Energy + forces of aspirin through the ASE calculator", [_time_row(loaded, arguments, generator)]),
    ]
    finish("uncertainty", arguments, clock, tables, loaded)


def error_rows(calculator: PhysConCalculator, name: str, cases: Sequence[Case]) -> tuple[Row, Row | None]:
    """Sigma and errors of the energies, and of the forces if there are labels and a table for them."""
    found = calculator.predict([case.atoms for case in cases])
    accepted = [row for row, own in enumerate(found) if own.error is None]  # not atoms shaken into each other
    found, cases = [found[row] for row in accepted], [cases[row] for row in accepted]
    sigma = np.array([own.energy_uncertainty for own in found], dtype=float)
    errors = np.array([own.energy for own in found], dtype=float) - [case.energy for case in cases]
    of_energies = _row(calculator.level, name, sigma, errors[:, None])
    pairs = [
        (own.forces_uncertainty, own.forces - case.forces)
        for own, case in zip(found, cases, strict=True)
        if own.forces is not None and own.forces_uncertainty is not None and case.forces is not None
    ]
    if not pairs:
        return of_energies, None
    sigmas, differences = (np.concatenate(column) for column in zip(*pairs, strict=True))
    return of_energies, _row(calculator.level, name, sigmas, differences)


def _row(level: str, name: str, sigma: np.ndarray, errors: np.ndarray) -> Row:
    """One line from standard deviations [rows] and errors [rows, components]."""
    sizes = np.linalg.norm(errors, axis=1)
    return {
        "level": level,
        "set": name,
        "n": len(sigma),
        "sigma, median": 1000 * float(np.median(sigma)),
        "RMSE": 1000 * float(np.sqrt(np.mean(errors**2))),
        "below 1 sigma [%]": 100 * float(np.mean(np.abs(errors) < sigma[:, None])),
        "below 2 sigma [%]": 100 * float(np.mean(np.abs(errors) < 2 * sigma[:, None])),
        "Spearman": float(spearmanr(sigma, sizes).statistic),
    }


def _sets(loaded: LoadedModel, level: str, arguments, generator: np.random.Generator) -> dict[str, list[Case]]:
    """Geometries by the name of their set: one of each kind and molecule of the stores that are there, and others."""
    found: dict[str, list[Case]] = {}
    for store in (STORES[level][kind] for kind in KINDS[level]):
        path = arguments.stores / f"{store}.h5"
        if not path.exists():
            continue
        molecules = read_test_molecules(path, limit=arguments.limit, seed=arguments.seed, with_energy=level)
        found[store] = [
            Case(_atoms(own.graph, place.positions), place.energies[level], place.forces.get(level))
            for own in covered(molecules, loaded.model.level(level))
            for place in own.geometries.values()
            if level in place.energies
        ]
    if level == AIMNET2_LEVEL and os.environ.get(PATH_VARIABLE):
        path = arguments.stores / f"{STORES[level][KINDS[level][0]]}.h5"
        molecules = read_test_molecules(path, limit=arguments.limit // 2, seed=arguments.seed)
        molecules = covered(molecules, loaded.model.level(level))
        graphs = [own.graph for own in molecules]
        for width in SHAKES:
            found[f"shaken by {width} Å"] = _labelled(
                graphs,
                [
                    own.all_geometries[0].positions + generator.normal(scale=width, size=(own.graph.n_atoms, 3))
                    for own in molecules
                ],
            )
        elements = set(loaded.model.level(level).elements)
        unusual = [own for own in map(geometry, UNUSUAL) if elements.issuperset(own[0].atomic_numbers.tolist())]
        found["unusual"] = _labelled([graph for graph, _ in unusual], [place for _, place in unusual])
    return {name: cases for name, cases in found.items() if cases}


def _labelled(graphs: list[MolGraph], places: list[np.ndarray]) -> list[Case]:
    """The structures with labels of AIMNet2, the mean of its networks; those on which they disagree are left out."""
    energies, forces = predict_all(aimnet2_forces(max_spread=MAX_SPREAD), graphs, places)
    return [
        Case(_atoms(graphs[i], places[i]), float(energies[i]), forces[i]) for i in np.flatnonzero(np.isfinite(energies))
    ]


def _atoms(graph: MolGraph, positions: np.ndarray) -> Atoms:
    return Atoms(graph.atomic_numbers, positions, info={"charge": graph.charge})


def _time_row(loaded: LoadedModel, arguments, generator: np.random.Generator) -> Row:
    """Median time of calls, timed alternately with and without the tables."""
    bare = copy.deepcopy(loaded.model)
    bare.energy_rigidity, bare.force_rigidity = torch.nn.ModuleDict(), torch.nn.ModuleDict()
    graph, positions = geometry(MOLECULES["aspirin"])
    calls = {
        name: _call(PhysConCalculator(replace(loaded, model=model)), graph, positions, generator)
        for name, model in (("without", bare), ("with", loaded.model))
    }
    seconds = interleaved(calls, arguments.calls)
    columns = {f"{name} [ms]": 1000 * wall for name, (wall, _) in seconds.items()}
    return {"atoms": graph.n_atoms, **columns, "extra time [%]": 100 * (seconds["with"][0] / seconds["without"][0] - 1)}


def _call(
    calculator: PhysConCalculator, graph: MolGraph, positions: np.ndarray, generator: np.random.Generator
) -> Callable[[], object]:
    atoms = Atoms(graph.atomic_numbers, positions, calculator=calculator)

    def call() -> np.ndarray:
        atoms.positions = jittered(positions, generator)
        return atoms.get_forces()

    return call


if __name__ == "__main__":
    main()

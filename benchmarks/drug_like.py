"""Drug-like molecules against density-functional theory: conformer energies, torsion drives and minima.

    python drug_like.py --stores STORES [--tblite] [--aimnet2 WHEEL] [--parts energies torsions displaced mmff94]

energies   energies of the minima of a molecule, relative to their mean: RMSE per molecule
torsions   the same along torsion drives, and the forces there
displaced  each minimum displaced by 0.05 Å per coordinate, relaxed again: distance from the minimum
mmff94     the same from the MMFF94 minimum next to it; it may lie in another basin

References are the minima and torsion drives of the Open Force Field Initiative at B3LYP-D3(BJ)/DZVP, test split.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from heldout import (
    Relaxed,
    differences,
    is_intact,
    model_forces,
    predict_all,
    relax_all,
    tblite_forces,
)
from reporting import Row, Table, add_stores, finish, make_parser, start, statistics

from physcon_ase.chem.conformers import mmff94_minimize
from physcon_ase.chem.graph import MolGraph
from physcon_ase.data.split import split_mask
from physcon_ase.data.store import geometry_offsets, molecule_graph, open_store
from physcon_ase.errors import PhysConError
from physcon_ase.relax.driver import RelaxStatus
from physcon_ase.relax.state import ForceFn
from physcon_ase.units import EV_PER_KCAL_PER_MOL

LEVEL = "b3lyp-d3"
PARTS = ("energies", "torsions", "displaced", "mmff94")
DISPLACEMENT = 0.05
"""[Å per coordinate]"""
MAX_ATOMS = 60
"""Of molecules that are relaxed."""
FMAX, MAX_STEPS = 0.005, 500
NOTE = (
    "RMSD: all atoms, identity map, after superposition; heavy-atom bonds and angles: mean over molecules of the mean "
    "absolute difference. All molecules count, those that did not converge with the geometry that they reached."
)


@dataclass(frozen=True)
class Conformers:
    """Geometries of one molecule with their labels."""

    graph: MolGraph
    """The molecule."""
    positions: list[np.ndarray]
    """[atoms, 3] each [Å]"""
    energies: np.ndarray
    """[geometries] [eV]"""
    forces: list[np.ndarray] | None
    """[atoms, 3] each [eV/Å]; None for minima."""


def main(argv: Sequence[str] | None = None) -> None:
    parser = make_parser(__doc__, limit=400, what="molecules of each part")
    add_stores(parser)
    parser.add_argument("--level", default=LEVEL, help="level of the model (default: %(default)s)")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--tblite", action="store_true", help="GFN2-xTB too")
    parser.add_argument("--aimnet2", type=Path, metavar="WHEEL", help="one member of AIMNet2 and the mean of all, too")
    parser.add_argument("--peer-limit", type=int, default=60, help="molecules that peers relax (default: %(default)s)")
    arguments = parser.parse_args(argv)
    loaded, clock = start(arguments)
    methods: dict[str, ForceFn] = {loaded.name: model_forces(loaded.model, arguments.level)}
    methods |= peers(arguments)
    minima = read(arguments.stores / "openff_minima_dzvp.h5", arguments, at_least=3)
    tables = []
    if "energies" in arguments.parts:
        tables.append(energies_table(methods, minima))
    if "torsions" in arguments.parts:
        drives = read(arguments.stores / "openff_torsions_dzvp.h5", arguments, at_least=3)
        tables.append(torsions_table(methods, drives))
    relaxed = [part for part in ("displaced", "mmff94") if part in arguments.parts]
    tables += [relaxed_table(part, methods, minima, arguments) for part in relaxed]
    finish("drug_like", arguments, clock, tables, loaded)


def peers(arguments) -> dict[str, ForceFn]:
    """Other methods by name."""
    found: dict[str, ForceFn] = {}
    if arguments.tblite:
        found["GFN2-xTB"] = tblite_forces
    if arguments.aimnet2:
        from physcon_ase.labelling.engines import aimnet2_engine, engine_forces

        found["AIMNet2, one member"] = engine_forces(aimnet2_engine("aimnet2-0", path=arguments.aimnet2))
        found["AIMNet2, mean of four"] = engine_forces(aimnet2_engine("aimnet2-mean", path=arguments.aimnet2))
    return found


def read(path: Path, arguments, *, at_least: int) -> list[Conformers]:
    """Molecules of the test split in random order, each with so many geometries or more."""
    store = open_store(path)
    rows = np.random.default_rng(arguments.seed).permutation(np.flatnonzero(split_mask(store, "test")))
    of_molecule = store.geometries.molecule
    offsets, labels = geometry_offsets(store), store.labels[LEVEL]
    found: list[Conformers] = []
    for row in rows.tolist():
        indices = np.flatnonzero(of_molecule == row)
        if len(indices) < at_least:
            continue
        atoms = [slice(offsets[i], offsets[i + 1]) for i in indices]
        forces = None if labels.forces is None else [labels.forces[own] for own in atoms]
        positions = [store.geometries.positions[own].astype(np.float64) for own in atoms]
        found.append(Conformers(molecule_graph(store, row), positions, labels.energy[indices], forces))
        if len(found) == arguments.limit:
            break
    return found


def energies_table(methods: dict[str, ForceFn], minima: list[Conformers]) -> Table:
    """Relative energies of the minima of each molecule."""
    rows = [{"method": name, **relative(force_fn, minima)[0]} for name, force_fn in methods.items()]
    n = sum(len(own.energies) for own in minima)
    return Table(
        f"Conformer energies at the {LEVEL} minima; {len(minima)} molecules, {n} conformers",
        rows,
        "RMSE per molecule of the energies relative to their mean over the conformers.",
    )


def torsions_table(methods: dict[str, ForceFn], drives: list[Conformers]) -> Table:
    """Energies along torsion drives relative to their mean, and forces."""
    rows = []
    for name, force_fn in methods.items():
        row, forces = relative(force_fn, drives)
        references = [force for own in drives for force in own.forces or ()]
        errors = np.concatenate([np.abs(a - b).ravel() for a, b in zip(forces, references, strict=True)])
        rows.append({"method": name, **row, "force MAE [meV/Å]": 1000 * float(errors.mean())})
    n = sum(len(own.energies) for own in drives)
    return Table(f"Torsion drives at {LEVEL}; {len(drives)} molecules, {n} geometries", rows)


def relative(force_fn: ForceFn, molecules: list[Conformers]) -> tuple[Row, list[np.ndarray]]:
    """Statistics of the RMSE per molecule of relative energies, and all forces."""
    graphs = [own.graph for own in molecules for _ in own.positions]
    energies, forces = predict_all(force_fn, graphs, [place for own in molecules for place in own.positions])
    parts = np.split(energies, np.cumsum([len(own.energies) for own in molecules])[:-1])
    errors = [(part - own.energies) / EV_PER_KCAL_PER_MOL for part, own in zip(parts, molecules, strict=True)]
    rmse = [float(np.std(own)) for own in errors]
    return statistics(rmse, "RMSE", "kcal/mol"), forces


def relaxed_table(part: str, methods: dict[str, ForceFn], minima: list[Conformers], arguments) -> Table:
    """Where relaxations end that begin near a minimum, or at the MMFF94 minimum next to it."""
    generator = np.random.default_rng(arguments.seed)
    graphs, starts, goals = [], [], []
    for own in minima:
        goal = own.positions[0]
        if own.graph.n_atoms > MAX_ATOMS:
            continue
        if part == "displaced":
            begin = goal + generator.normal(scale=DISPLACEMENT, size=goal.shape)
        else:
            try:
                begin = mmff94_minimize(own.graph, goal).positions
            except PhysConError:  # no parameters
                continue
        graphs.append(own.graph)
        starts.append(begin)
        goals.append(goal)
    rows = [_row("start", graphs, starts, goals)]
    for number, (name, force_fn) in enumerate(methods.items()):
        count = len(graphs) if number == 0 else arguments.peer_limit
        ended = relax_all(force_fn, graphs[:count], starts[:count], fmax=FMAX, max_steps=MAX_STEPS)
        rows.append(_row(name, graphs[:count], [own.positions for own in ended], goals[:count], ended))
    title = {"displaced": f"minimum displaced by {DISPLACEMENT} Å", "mmff94": "MMFF94 minimum"}[part]
    return Table(f"Relaxed from the {title} to fmax {FMAX} eV/Å, against the {LEVEL} minimum", rows, NOTE)


def _row(
    name: str,
    graphs: list[MolGraph],
    places: list[np.ndarray],
    goals: list[np.ndarray],
    ended: list[Relaxed] | None = None,
) -> Row:
    found = [differences(*own) for own in zip(graphs, places, goals, strict=True)]
    return {
        "geometry": name,
        "molecules": len(graphs),
        "converged": None if ended is None else sum(own.status is RelaxStatus.CONVERGED for own in ended),
        "intact": sum(map(is_intact, graphs, places)),
        **statistics([own["rmsd"] for own in found], "RMSD", "Å"),
        "heavy bonds [Å]": float(np.nanmean([own["heavy_bonds"] for own in found])),
        "angles [°]": float(np.nanmean([own["angles"] for own in found])),
        "steps, median": None if ended is None else float(np.median([own.steps for own in ended])),
    }


if __name__ == "__main__":
    main()

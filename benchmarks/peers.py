"""The model and its peers on the same drug-like molecules: errors against density-functional theory, and time.

    python peers.py --stores STORES [--tblite] [--aimnet2 WHEEL] [--parts energies torsions displaced mmff94 rates]

energies   energies of the minima of a molecule, relative to their mean: RMSE per molecule
torsions   the same along torsion drives, and the forces there
displaced  the first minimum of each molecule displaced by 0.05 Å per coordinate and relaxed: distance from the minimum
mmff94     the same from the MMFF94 minimum next to it; it may lie in another basin
rates      processor time of energies and forces, for one molecule and for a batch

References are the minima and torsion drives of the Open Force Field Initiative at B3LYP-D3(BJ)/DZVP, test split;
molecules with at least three of these geometries.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from heldout import (
    Molecule,
    Relaxed,
    aimnet2_forces,
    covered,
    differences,
    gfn2_forces,
    is_intact,
    model_forces,
    predict_all,
    read_test_molecules,
    relax_all,
)
from rates import batched_rate, geometry, latency
from reporting import Row, Table, add_stores, finish, make_parser, mean_of_known, start, statistics

from physcon_ase.chem.conformers import mmff94_minimize
from physcon_ase.chem.graph import MolGraph
from physcon_ase.errors import MissingParametersError
from physcon_ase.relax.driver import RelaxStatus
from physcon_ase.relax.state import ForceFn
from physcon_ase.units import EV_PER_KCAL_PER_MOL

LEVEL = "b3lyp-d3"
"""Of the references."""

PARTS = ("energies", "torsions", "displaced", "mmff94", "rates")

AT_LEAST = 3
"""Number of geometries of a molecule below which it is left out."""

DISPLACEMENT = 0.05
"""[Å per coordinate]"""

MAX_ATOMS = 60
"""Largest number of atoms of molecules that are relaxed."""

FMAX, MAX_STEPS = 0.005, 500
"""End of relaxations [eV/Å], and number of evaluations at most."""

SINGLE = {"aspirin": "CC(=O)Oc1ccccc1C(=O)O", "imatinib": "Cc1ccc(NC(=O)c2ccc(CN3CCN(C)CC3)cc2)cc1Nc1nccc(-c2cccnc2)n1"}
"""Molecules that are timed alone."""

TIMED = "CC(C)Cc1ccc(C(C)C(=O)OC)cc1"
"""Molecule of the timed batches: ibuprofen methyl ester, 36 atoms."""

SLOTS_TIMED = 448
"""Slots of the timed batches, at which AIMNet2 is fastest."""

NOTE = (
    "RMSD: all atoms, identity map, after superposition; heavy-atom bonds and angles: mean over molecules of the mean "
    "absolute difference. All molecules count, those that did not converge with the geometry that they reached. "
    "Intact: bonds and stereo of the graph."
)


def main(argv: Sequence[str] | None = None) -> None:
    parser = make_parser(__doc__, limit=400, what="molecules of each part")
    add_stores(parser)
    parser.add_argument("--level", default=LEVEL, help="level of the model (default: %(default)s)")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="default: all")
    parser.add_argument("--tblite", action="store_true", help="also GFN2-xTB (needs tblite)")
    parser.add_argument("--aimnet2", type=Path, metavar="WHEEL", help="also AIMNet2, one network and the mean of four")
    parser.add_argument("--peer-limit", type=int, default=60, help="molecules that peers relax (default: %(default)s)")
    parser.add_argument("--calls", type=int, default=20, help="timed for each rate (default: %(default)s)")
    arguments = parser.parse_args(argv)
    loaded, clock = start(arguments)
    methods = {loaded.name: model_forces(loaded.model, arguments.level), **_peers(arguments)}

    def read(store: str) -> list[Molecule]:
        path = arguments.stores / f"{store}.h5"
        found = read_test_molecules(
            path, limit=arguments.limit, seed=arguments.seed, with_energy=LEVEL, at_least=AT_LEAST
        )
        return covered(found, loaded.model.level(arguments.level))

    minima = read("openff_minima_dzvp")
    tables = []
    if "energies" in arguments.parts:
        tables.append(energies_table(methods, minima))
    if "torsions" in arguments.parts:
        tables.append(torsions_table(methods, read("openff_torsions_dzvp")))
    tables += [relaxed_table(p, methods, minima, arguments) for p in ("displaced", "mmff94") if p in arguments.parts]
    if "rates" in arguments.parts:
        tables.append(rates_table(methods, arguments.calls))
    finish("peers", arguments, clock, tables, loaded)


def _peers(arguments) -> dict[str, ForceFn]:
    """Other methods by name."""
    found: dict[str, ForceFn] = {}
    if arguments.tblite:
        found["GFN2-xTB"] = gfn2_forces()
    if arguments.aimnet2:
        found["AIMNet2, one network"] = aimnet2_forces(arguments.aimnet2, member=0)
        found["AIMNet2, mean of four"] = aimnet2_forces(arguments.aimnet2)
    return found


def energies_table(methods: dict[str, ForceFn], molecules: list[Molecule]) -> Table:
    """Relative energies of the minima of each molecule."""
    rows = [{"method": name, **_relative(force_fn, molecules)[0]} for name, force_fn in methods.items()]
    n = sum(len(molecule.all_geometries) for molecule in molecules)
    return Table(
        f"Conformer energies at the {LEVEL} minima; {len(molecules)} molecules, {n} conformers",
        rows,
        "RMSE per molecule of the energies relative to their mean over the conformers.",
    )


def torsions_table(methods: dict[str, ForceFn], molecules: list[Molecule]) -> Table:
    """Energies along torsion drives relative to their mean, and forces."""
    references = [geometry.forces[LEVEL] for molecule in molecules for geometry in molecule.all_geometries]
    rows = []
    for name, force_fn in methods.items():
        row, forces = _relative(force_fn, molecules)
        errors = np.concatenate([np.abs(a - b).ravel() for a, b in zip(forces, references, strict=True)])
        rows.append({"method": name, **row, "force MAE [meV/Å]": 1000 * float(np.nanmean(errors))})
    title = f"Torsion drives at {LEVEL}; {len(molecules)} molecules, {len(references)} geometries"
    return Table(title, rows, "RMSE per molecule of the energies relative to their mean over all its drives.")


def _relative(force_fn: ForceFn, molecules: list[Molecule]) -> tuple[Row, list[np.ndarray]]:
    """Statistics of the RMSE per molecule of relative energies, and the forces of all geometries."""
    pairs = [(molecule.graph, geometry) for molecule in molecules for geometry in molecule.all_geometries]
    energies, forces = predict_all(force_fn, [graph for graph, _ in pairs], [own.positions for _, own in pairs])
    errors = (energies - np.array([own.energies[LEVEL] for _, own in pairs])) / EV_PER_KCAL_PER_MOL
    ends = np.cumsum([len(molecule.all_geometries) for molecule in molecules])
    rmse = [float(np.std(own)) for own in np.split(errors, ends[:-1])]
    return {**statistics(rmse, "RMSE", "kcal/mol"), "failed molecules": int(np.isnan(rmse).sum())}, forces


def relaxed_table(part: str, methods: dict[str, ForceFn], molecules: list[Molecule], arguments) -> Table:
    """Where relaxations end that begin near a minimum, or at the MMFF94 minimum next to it."""
    generator = np.random.default_rng(arguments.seed)
    graphs, starts, goals = [], [], []
    for molecule in molecules:
        goal = molecule.all_geometries[0].positions
        if molecule.graph.n_atoms > MAX_ATOMS:
            continue
        if part == "displaced":
            begin = goal + generator.normal(scale=DISPLACEMENT, size=goal.shape)
        else:
            try:
                begin = mmff94_minimize(molecule.graph, goal).positions
            except MissingParametersError:
                continue
        graphs.append(molecule.graph)
        starts.append(begin)
        goals.append(goal)
    few, (name, *peers) = slice(arguments.peer_limit), methods
    ended = relax_all(methods[name], graphs, starts, fmax=FMAX, max_steps=MAX_STEPS)
    rows = [_row("start", graphs, starts, goals), _row(name, graphs, _places(ended), goals, ended)]
    if peers and len(graphs[few]) < len(graphs):  # the molecules of the peers
        rows.append(_row("start, fewer molecules", graphs[few], starts[few], goals[few]))
        rows.append(_row(f"{name}, fewer molecules", graphs[few], _places(ended[few]), goals[few], ended[few]))
    for peer in peers:
        noisy = peer.startswith("AIMNet2")
        ended = relax_all(methods[peer], graphs[few], starts[few], fmax=FMAX, max_steps=MAX_STEPS, noisy=noisy)
        rows.append(_row(peer, graphs[few], _places(ended), goals[few], ended))
    title = {"displaced": f"minimum displaced by {DISPLACEMENT} Å", "mmff94": "MMFF94 minimum"}[part]
    return Table(f"Relaxed from the {title} to fmax {FMAX} eV/Å, against the {LEVEL} minimum", rows, NOTE)


def rates_table(methods: dict[str, ForceFn], n_calls: int) -> Table:
    """Processor time of energies and forces; GFN2-xTB computes molecule by molecule."""
    rows: list[Row] = []
    for name, force_fn in methods.items():
        per_second = batched_rate(force_fn, TIMED, atoms_per_batch=SLOTS_TIMED, n_calls=n_calls)
        rows.append(
            {
                "method": name,
                **{
                    f"{label} [ms]": 1000 * latency(force_fn, smiles, n_calls=n_calls)
                    for label, smiles in SINGLE.items()
                },
                "batch [ms/molecule]": 1000 / per_second,
            }
        )
    n_atoms = geometry(TIMED)[0].n_atoms
    note = f"Processor time of energies and forces, one thread, without ASE; batches: {TIMED}, {n_atoms} atoms."
    return Table("Time", rows, note)


def _places(relaxed: list[Relaxed]) -> list[np.ndarray]:
    return [own.positions for own in relaxed]


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
        "heavy bonds [Å]": mean_of_known([own["heavy_bonds"] for own in found]),
        "angles [°]": mean_of_known([own["angles"] for own in found]),
        "steps, median": None if not ended else float(np.median([own.steps for own in ended])),
    }


if __name__ == "__main__":
    main()

"""Effect of physical consistency on the structure network: predictions of two trainings that differ only in it.

    python consistency.py --stores STORES --without CHECKPOINT [--limit 100]

CHECKPOINT is the end of the training without it, with the recipe that studies/consistency/ablation.py writes. Both
networks predict the minima of the same held-out molecules, from the same starts and with the same noise:

    basin given    minimum with noise of 0.3 Å per coordinate; what remains is the local error
    from MMFF94    default guess: lowest MMFF94 minimum of four conformers, refined
    from noise     first guess of mode "ddim"

Each prediction is compared with the minimum of the energy network to which it relaxes: if the structure and energy
networks are consistent, it is this minimum.
"""

from collections.abc import Sequence

import numpy as np
import torch
from guesses import STORES
from heldout import Molecule, by_size, covered, model_forces, predict_all, read_test_molecules, relax_all
from reporting import Row, Table, add_stores, finish, make_parser, start
from scipy.stats import wilcoxon

from physcon_ase.batch import make_batch, unpad, with_positions
from physcon_ase.chem.compare import rmsd
from physcon_ase.chem.hydrogens import hydrogen_order
from physcon_ase.errors import PhysConError
from physcon_ase.inference.generator import N_REFINED, REFINE_SIGMA, StructureGenerator
from physcon_ase.model.noise import gaussian_noise, sigma_schedule
from physcon_ase.model.physcon import LoadedModel, load_model
from physcon_ase.model.structure import ddim, refined
from physcon_ase.relax.driver import RelaxStatus

NOISE = 0.3
"""Noise [Å] per coordinate of the start geometries whose basin is given."""

N_STEPS = 10
"""Noise levels of the predictions from there."""

MODES = {"from MMFF94": "refine", "from noise": "ddim"}
"""Mode of the generator by start."""


def main(argv: Sequence[str] | None = None) -> None:
    parser = make_parser(__doc__, limit=100)
    add_stores(parser)
    parser.add_argument("--without", required=True, help="checkpoint trained without consistency")
    arguments = parser.parse_args(argv)
    loaded, clock = start(arguments)
    networks = {"without": load_model(arguments.without), "with": loaded}
    tables = []
    for level, store in STORES.items():
        kind = f"minimum of {level}"
        found = read_test_molecules(
            arguments.stores / f"{store}.h5", limit=arguments.limit, seed=arguments.seed, with_geometries=(kind,)
        )
        molecules = covered(found, loaded.model.level(level))
        rows: list[Row] = []
        for place in ("basin given", *MODES):
            both = {
                name: _consistency(loaded, level, molecules, _predictions(own, level, molecules, kind, place))
                for name, own in networks.items()
            }
            rows += [_row(place, name, both) for name in both]
        note = (
            "Medians over molecules; distance: RMSD of all atoms from the minimum of the energy network to which the "
            "prediction relaxes; energy: above this minimum; fmax: largest force at the prediction; lower: molecules "
            "whose energy is lower with consistency; p: Wilcoxon test of the energies, paired by molecule."
        )
        tables.append(Table(f"Predictions with and without consistency, level {level}, {store}", rows, note))
    finish("consistency", arguments, clock, tables, loaded)


def _predictions(
    loaded: LoadedModel, level: str, molecules: Sequence[Molecule], kind: str, place: str
) -> list[np.ndarray | None]:
    """Predicted positions [Å] of each molecule; None where there are none with the bonds of the molecule."""
    if place in MODES:
        generator = StructureGenerator(loaded, mode=MODES[place], level=level)
        guesses = generator.generate_many([molecule.graph for molecule in molecules])
        return [None if isinstance(own, PhysConError) or own.fallback else own.positions for own in guesses]
    denoiser, found = loaded.model.denoiser(level), [np.zeros(0)] * len(molecules)
    generator = torch.Generator().manual_seed(0)
    for chosen in by_size([molecule.graph.n_atoms for molecule in molecules]):
        graphs = [molecules[i].graph for i in chosen]
        minima = [molecules[i].geometries[kind].positions for i in chosen]
        minima = [own[hydrogen_order(graph, own)] for graph, own in zip(graphs, minima, strict=True)]
        batch = make_batch([graph.atomic_numbers for graph in graphs], minima, graphs=graphs)
        noisy = with_positions(batch, batch.positions + NOISE * gaussian_noise(batch.atom_mask, generator=generator))
        sigmas = sigma_schedule(NOISE, REFINE_SIGMA, N_STEPS)
        with torch.no_grad():
            drawn = with_positions(batch, ddim(denoiser, noisy, sigmas))
            places = unpad(batch, refined(denoiser, drawn, REFINE_SIGMA, N_REFINED))
        for index, own in zip(chosen, places, strict=True):
            found[index] = own.astype(np.float64)
    return list(found)


def _consistency(
    loaded: LoadedModel,
    level: str,
    molecules: Sequence[Molecule],
    predicted: Sequence[np.ndarray | None],
) -> np.ndarray:
    """Distance [Å], energy [meV] and largest force [eV/Å] of each prediction; NaN without one, or without minimum."""
    values = np.full((len(molecules), 3), np.nan)
    known = [index for index, own in enumerate(predicted) if own is not None]
    graphs, places = [molecules[i].graph for i in known], [own for own in predicted if own is not None]
    force_fn = model_forces(loaded.model, level)
    ends = relax_all(force_fn, graphs, places, fmax=0.01, max_steps=500)
    energies, forces = predict_all(force_fn, graphs, places)
    lowest, _ = predict_all(force_fn, graphs, [own.positions for own in ends])
    for index, place, end, high, low, own in zip(known, places, ends, energies, lowest, forces, strict=True):
        if end.status is RelaxStatus.CONVERGED:
            values[index] = rmsd(place, end.positions), 1000 * (high - low), np.linalg.norm(own, axis=1).max()
    return values


def _row(place: str, name: str, both: dict[str, np.ndarray]) -> Row:
    own = both[name]
    common = np.isfinite(both["with"][:, 1]) & np.isfinite(both["without"][:, 1])
    medians = np.median(own[common], axis=0)
    differences = both["with"][common, 1] - both["without"][common, 1]
    return {
        "start": place,
        "consistency": name,
        "molecules": int(common.sum()),
        "without prediction": int(np.isnan(own[:, 1]).sum()),
        "distance [Å]": float(medians[0]),
        "energy [meV]": float(medians[1]),
        "fmax [eV/Å]": float(medians[2]),
        "lower": int((differences < 0).sum()) if name == "with" else None,
        "p": float(wilcoxon(differences).pvalue) if name == "with" else None,
    }


if __name__ == "__main__":
    main()

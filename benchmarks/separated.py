"""Energies of two molecules far apart, at least one of them an ion, compared with the sum of their energies.

    python separated.py --stores STORES [--limit 120]

The pairs are those of the test split of the stores `separated_*`, 50 to 150 Å apart. The deviation is the energy of the
pair minus those of both molecules alone and the Coulomb energy of their partial charges.
"""

from collections.abc import Sequence

import numpy as np
import torch
from heldout import STORES, read_test_molecules
from reporting import Row, Table, add_stores, finish, make_parser, start
from scipy.spatial.distance import cdist

from physcon_ase.batch import make_batch
from physcon_ase.chem.fragments import fragments_of
from physcon_ase.model.physcon import PhysCon
from physcon_ase.units import COULOMB_EV_ANGSTROM

FAR_APART = {
    "separated_small_b3lyp_d3": "b3lyp-d3",
    **{stores["far apart"]: level for level, stores in STORES.items() if "far apart" in stores},
}
"""Level of each store."""

EXACT = 0.005
"""Deviation [eV] up to which the energies add up."""


def main(argv: Sequence[str] | None = None) -> None:
    parser = make_parser(__doc__, limit=120, what="pairs of each store")
    add_stores(parser)
    arguments = parser.parse_args(argv)
    loaded, clock = start(arguments)
    model = loaded.model.double()
    rows: list[Row] = []
    for store, level in FAR_APART.items():
        pairs = read_test_molecules(arguments.stores / f"{store}.h5", limit=arguments.limit, seed=arguments.seed)
        found: dict[str, list[float]] = {"ion and neutral molecule": [], "two ions": []}
        for pair in pairs:
            parts = fragments_of(pair.graph)
            charges = [part.graph.charge for part in parts]
            positions = [pair.all_geometries[0].positions[part.atoms] for part in parts]
            if len(parts) == 2 and _is_covered(model, level, [*charges, sum(charges)]):
                numbers = [part.graph.atomic_numbers for part in parts]
                kind = "ion and neutral molecule" if 0 in charges else "two ions"
                found[kind].append(deviation(model, level, numbers, positions, charges))
        rows += [
            {
                "store": store,
                "level": level,
                "pair": kind,
                "pairs": len(values),
                f"within {1000 * EXACT:g} meV [%]": 100 * np.mean(np.abs(values) < EXACT),
                "median [meV]": 1000 * np.median(np.abs(values)),
                "90 % [meV]": 1000 * np.quantile(np.abs(values), 0.9),
            }
            for kind, values in found.items()
            if values
        ]
    finish("separated", arguments, clock, [Table("Energy of two molecules far apart, test split", rows)], loaded)


def _is_covered(model: PhysCon, level: str, charges: Sequence[int]) -> bool:
    return set(charges) <= set(model.level(level).charges)


def deviation(
    model: PhysCon,
    level: str,
    numbers: Sequence[np.ndarray],
    positions: Sequence[np.ndarray],
    charges: Sequence[int],
) -> float:
    """Energy [eV] of two molecules without those of each alone and their Coulomb energy."""
    with torch.no_grad():
        alone = model.evaluate(make_batch(numbers, positions, charges=charges, dtype=torch.float64), level)
        together = [np.concatenate(numbers)], [np.concatenate(positions)]
        pair = model.energies(make_batch(*together, charges=[sum(charges)], dtype=torch.float64), level).item()
    if alone.charges is None:
        return pair - alone.energies.sum().item()
    first, second = (own[: len(part)].double().numpy() for own, part in zip(alone.charges, numbers, strict=True))
    coulomb = COULOMB_EV_ANGSTROM * float(first @ (1 / cdist(*positions)) @ second)
    return pair - alone.energies.sum().item() - coulomb


if __name__ == "__main__":
    main()

"""Energies of molecules and ions of up to three heavy atoms at level b3lyp-d3, compared with PySCF.

    python small.py --stores STORES

The stores are b3lyp_d3_small and b3lyp_d3_small_3. Errors are those of total energies at the MMFF94 minimum of each
molecule.
"""

from collections.abc import Sequence

import numpy as np
from ase import Atoms
from heldout import Molecule, read_test_molecules
from reporting import Row, Table, add_stores, finish, make_parser, start

from physcon_ase.inference.calculator import PhysConCalculator
from physcon_ase.inference.results import Prediction

LEVEL = "b3lyp-d3"
STORES = ("b3lyp_d3_small", "b3lyp_d3_small_3")
SPLITS = ("train", "validation", "test")
KIND = "start"


def main(argv: Sequence[str] | None = None) -> None:
    parser = make_parser(__doc__, limit=1000, what="molecules of each store and split")
    add_stores(parser)
    arguments = parser.parse_args(argv)
    loaded, clock = start(arguments)
    calculator = PhysConCalculator(loaded, level=LEVEL)
    rows: list[Row] = []
    each: list[Row] = []
    for name in STORES:
        for split in SPLITS:
            path = arguments.stores / f"{name}.h5"
            options = {"limit": arguments.limit, "seed": arguments.seed, "with_geometries": [KIND]}
            molecules = read_test_molecules(path, split=split, with_energy=LEVEL, **options)
            if not molecules:
                continue
            predictions = calculator.predict([_atoms(molecule) for molecule in molecules])
            errors = np.array([_error(*pair) for pair in zip(molecules, predictions, strict=True)])
            is_doubted = np.array([bool(prediction.doubts) for prediction in predictions])
            rows.append(_row(name, split, errors, is_doubted))
            if split == "test":
                names = [molecule.name for molecule in molecules]
                each += _each(names, errors, is_doubted)
    tables = [
        Table(f"Total energies at level {LEVEL}", rows),
        Table("Held-out molecules", sorted(each, key=lambda row: -abs(row["error [eV]"]))),
    ]
    finish("small", arguments, clock, tables, loaded)


def _atoms(molecule: Molecule) -> Atoms:
    atoms = Atoms(molecule.graph.atomic_numbers, molecule.geometries[KIND].positions)
    atoms.info["charge"] = molecule.graph.charge
    return atoms


def _error(molecule: Molecule, prediction: Prediction) -> float:
    return np.nan if prediction.energy is None else prediction.energy - molecule.geometries[KIND].energies[LEVEL]


def _row(store: str, split: str, errors: np.ndarray, is_doubted: np.ndarray) -> Row:
    sizes = np.abs(errors)
    return {
        "store": store,
        "split": split,
        "molecules": len(errors),
        "MAE [eV]": sizes.mean(),
        "median": np.median(sizes),
        "largest": sizes.max(),
        "uncertain": int(is_doubted.sum()),
        "largest of the others": sizes[~is_doubted].max() if not is_doubted.all() else float("nan"),
    }


def _each(names: Sequence[str], errors: np.ndarray, is_doubted: np.ndarray) -> list[Row]:
    return [
        {"molecule": f"`{name}`", "error [eV]": error, "uncertain": "yes" if doubted else "no"}
        for name, error, doubted in zip(names, errors.tolist(), is_doubted.tolist(), strict=True)
    ]


if __name__ == "__main__":
    main()

"""Writes a store of small drug-like molecules with bonds rotated, labelled with PySCF at B3LYP-D3(BJ)/DZVP.

    python recipes/physcon-2/torsions.py stores/openff_minima_dzvp.h5 stores/b3lyp_d3_torsions.h5 --molecules 100

Molecules are random ones of the training split, of up to `--max-atoms` atoms, that are not among the torsion drives of
openff_torsions. In each geometry one bond, other than those of methyl groups, is rotated by a random angle, and all
other coordinates are relaxed with the shipped checkpoint. Interrupted runs continue.
"""

import argparse
import os
from pathlib import Path
from typing import Final

import numpy as np
from ase import Atoms
from ase.constraints import FixInternals

from physcon_ase.chem.graph import neighbours_of
from physcon_ase.chem.torsions import RotatableBond, rotatable_bonds, turned
from physcon_ase.data.split import split_of
from physcon_ase.data.store import open_store
from physcon_ase.inference.many import optimize_many
from physcon_ase.labelling.engines import pyscf_engine
from physcon_ase.labelling.inputs import KnownGeometry, known_geometries
from physcon_ase.labelling.pipeline import format_labelling_report, label
from physcon_ase.labelling.samplers import start_geometry
from physcon_ase.labelling.samplings import Sampling

LEVEL: Final = "b3lyp-d3"
FMAX: Final = 0.02
"""Convergence threshold of the relaxations [eV/Å]."""


def main() -> None:
    """Makes the geometries and labels them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("minima", type=Path, help="store with minima of the level")
    parser.add_argument("store", type=Path)
    parser.add_argument("--molecules", type=int, default=400)
    parser.add_argument("--first", type=int, default=0, help="number of the first molecule in their random order")
    parser.add_argument("--per-molecule", type=int, default=3)
    parser.add_argument("--max-atoms", type=int, default=24)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--jobs", type=int, help="worker processes, 0 for none besides this one (default: one per core)"
    )
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    known = set(open_store(options.minima.with_name("openff_torsions.h5")).molecules.key_hash.tolist())
    starts = [
        own
        for own in first_minima(options.minima)
        if own.graph.n_atoms <= options.max_atoms and own.key_hash not in known and turnable(own)
    ]
    order = np.random.default_rng(options.seed).permutation(len(starts))
    chosen = [starts[index] for index in order[options.first : options.first + options.molecules]]
    print(f"{len(chosen)} of {len(starts)} molecules")
    geometries = rotated(chosen, options.per_molecule, np.random.default_rng([options.seed, options.first]))
    report = label(
        geometries,
        engine := pyscf_engine(LEVEL),
        [Sampling("start", 1, start_geometry)],
        options.store,
        seed=options.seed,
        processes=options.jobs,
        source="openff_minima with bonds rotated",
        licence="MIT",
    )
    print(format_labelling_report(report, engine))


def first_minima(path: Path) -> list[KnownGeometry]:
    """The first minimum of each molecule of the training split."""
    found: dict[int, KnownGeometry] = {}
    for geometry in known_geometries(open_store(path), minima_of=LEVEL):
        if split_of(geometry.key_hash) == "train":
            found.setdefault(geometry.key_hash, geometry)
    return list(found.values())


def turnable(molecule: KnownGeometry) -> list[RotatableBond]:
    """Rotatable bonds other than those of methyl groups."""
    neighbours, numbers = neighbours_of(molecule.graph), molecule.graph.atomic_numbers
    return [
        rotor
        for rotor in rotatable_bonds(molecule.graph)
        if not any(numbers[end] == 6 and sum(numbers[atom] == 1 for atom in neighbours[end]) == 3 for end in rotor.bond)
    ]


def rotated(molecules: list[KnownGeometry], per_molecule: int, generator: np.random.Generator) -> list[KnownGeometry]:
    """Relaxed geometries of the molecules with one bond rotated, without those whose bonds change."""
    starts, origins = [], []
    for molecule in molecules:
        rotors, neighbours = turnable(molecule), neighbours_of(molecule.graph)
        for index in generator.integers(len(rotors), size=per_molecule).tolist():
            rotor = rotors[index]
            second, third = rotor.bond
            first = next(atom for atom in neighbours[second] if atom != third)
            fourth = next(atom for atom in neighbours[third] if atom != second)
            place = turned(molecule.positions, rotor, generator.uniform(0, 2 * np.pi))
            atoms = Atoms(molecule.graph.atomic_numbers, place, info={"smiles": molecule.smiles})
            angle = atoms.get_dihedral(first, second, third, fourth)
            atoms.set_constraint(FixInternals(dihedrals_deg=[[angle, [first, second, third, fourth]]]))
            starts.append(atoms)
            origins.append(molecule)
    records = optimize_many(starts, level=LEVEL, fmax=FMAX, progress_bar=False)
    print(f"{len(records)} relaxations, {sum(own.status != 'ok' for own in records)} not ok")
    return [
        KnownGeometry(origin.graph, own.result.atoms.positions, origin.key_hash, origin.smiles, origin.name)
        for origin, own in zip(origins, records, strict=True)
        if own.result is not None and own.result.bonds_intact
    ]


if __name__ == "__main__":
    main()

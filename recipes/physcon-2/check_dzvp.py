"""Comparison of PySCF at level b3lyp-d3 with the Psi4 labels of torsion drives: 20 geometries of ten molecules.

Usage: python recipes/physcon-2/check_dzvp.py stores/openff_torsions_dzvp.h5

Labels of both programs may be mixed if energy differences agree within 0.1 kcal/mol and forces within 10 meV/Å.
"""

import argparse

import numpy as np

from physcon_ase.data.store import geometry_offsets, molecule_graph, open_store
from physcon_ase.labelling.engines import Molecule, pyscf_engine
from physcon_ase.units import EV_PER_KCAL_PER_MOL

MOST_ATOMS = 12
N_MOLECULES = 10


def main() -> None:
    """Prints one line per molecule and the largest differences."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store")
    store, engine = open_store(parser.parse_args().store), pyscf_engine("b3lyp-d3")
    labels, offsets, generator = store.labels["b3lyp-d3"], geometry_offsets(store), np.random.default_rng(0)
    assert labels.forces is not None
    small = np.flatnonzero(store.molecules.n_atoms <= MOST_ATOMS)
    worst = np.zeros(3)
    for molecule in generator.permutation(small)[:N_MOLECULES].tolist():
        graph = molecule_graph(store, molecule)
        rows = generator.choice(np.flatnonzero(store.geometries.molecule == molecule), 2, replace=False)
        energies, errors = [], []
        for row in rows.tolist():
            atoms = slice(offsets[row], offsets[row + 1])
            positions = store.geometries.positions[atoms].astype(float)
            found = engine(Molecule(graph.atomic_numbers, positions, graph.charge))
            energies.append(found.energy - labels.energy[row])
            errors.append(np.abs(found.forces - labels.forces[atoms]).max())
        difference = (energies[1] - energies[0]) / EV_PER_KCAL_PER_MOL
        worst = np.maximum(worst, np.abs([max(energies, key=abs), difference, max(errors)]))
        print(
            f"{store.molecules.smiles[molecule]}: energies {energies[0]:+.4f} and {energies[1]:+.4f} eV, difference "
            f"{difference:+.4f} kcal/mol, largest force error {1000 * max(errors):.1f} meV/Å",
            flush=True,
        )
    print(
        f"at most: energy {1000 * worst[0]:.1f} meV, energy difference {worst[1]:.4f} kcal/mol, "
        f"force {1000 * worst[2]:.1f} meV/Å"
    )


if __name__ == "__main__":
    main()

"""A model trained on labels of your own: from an extended XYZ file to a store, a recipe, a training and a calculator.

ASE's EMT takes the place of quantum chemistry here; replace `label` by any calculator, or the first part by your file.

python examples/own_labels.py --folder own_labels
"""

import argparse
from pathlib import Path

import ase.io
import numpy as np
from ase import Atoms
from ase.build import molecule
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator

from physcon_ase import PhysConCalculator
from physcon_ase.data.importers.importing import import_file
from physcon_ase.data.importers.report import format_import_report
from physcon_ase.training.recipe_files import parse_recipe
from physcon_ase.training.trainer import train

RECIPE = """
name = "emt-model"

[[levels]]
name = "emt"
description = "ASE's effective medium theory"

[[data]]
store = "emt.h5"
levels = ["emt"]

[encoder]
channels = 16
mixed_channels = 16
source_scalars = 8
hidden = 32

[optim]
steps = {steps}
warmup = 10
atoms_per_batch = 256
"""

SMILES = {"CH3CH2OH": "CCO", "CH3OH": "CO", "C2H6": "CC", "H2O": "O", "NH3": "N", "CH4": "C", "CH3CN": "CC#N"}


def label(atoms: Atoms) -> Atoms:
    atoms.calc = EMT()
    energy, forces = atoms.get_potential_energy(), atoms.get_forces()
    atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=forces)
    return atoms


parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--folder", type=Path, default=Path("own_labels"), help="where everything goes")
parser.add_argument("--budget", choices=("small", "full"), default="full", help="small: a few steps only")
options = parser.parse_args()
small = options.budget == "small"
options.folder.mkdir(parents=True, exist_ok=True)

# 1. labelled structures; all geometries of a SMILES are in the same split
frames = []
for name, smiles in SMILES.items():
    for seed in range(3 if small else 30):
        atoms = molecule(name)
        atoms.rattle(0.1, rng=np.random.default_rng(seed))
        atoms.info = {"smiles": smiles, "name": name, "kind": "thermal"}
        frames.append(label(atoms))
ase.io.write(options.folder / "emt.xyz", frames, format="extxyz")

# 2. a store
print(format_import_report(import_file(options.folder / "emt.xyz", options.folder / "emt.h5", level="emt")))

# 3. a training; after an interruption it continues where it stopped
recipe = parse_recipe(RECIPE.format(steps=5 if small else 1000))
checkpoint = train(recipe, options.folder / "run", store_root=options.folder)

# 4. the model
atoms = molecule("CH3CH2OH")
atoms.calc = PhysConCalculator(checkpoint, level="emt")
exact = label(atoms.copy())
print(f"{checkpoint}: ethanol {atoms.get_potential_energy():.3f} eV, EMT {exact.get_potential_energy():.3f} eV")

"""A small multi-task training of energy and structure networks on MMFF94 minima, and guesses with the result.

python examples/small_training.py --folder small_training
"""

import argparse
from pathlib import Path

from physcon_ase import StructureGenerator
from physcon_ase.chem.conformers import embed, mmff94_minimize
from physcon_ase.chem.smiles import graph_from_smiles
from physcon_ase.data.importers.report import format_import_report
from physcon_ase.data.importers.structures import Structure, store_from_structures
from physcon_ase.data.store import write_store
from physcon_ase.inference.files import read_molecules
from physcon_ase.training.recipe_files import parse_recipe
from physcon_ase.training.trainer import train

RECIPE = """
name = "small"

[[levels]]
name = "mmff94"
description = "MMFF94"

[[data]]
store = "mmff94.h5"
levels = ["mmff94"]

[loss]
energy = 0.2
forces = 1.0        # zero force at the minima
structure = 1.0

[encoder]
channels = 16
mixed_channels = 16
source_scalars = 8
hidden = 32

[structure]
n_layers = 2
channels = 16
mixed_channels = 16
hidden = 32

[optim]
steps = {steps}
warmup = 10
atoms_per_batch = 256
"""

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--folder", type=Path, default=Path("small_training"), help="where everything goes")
parser.add_argument("--budget", choices=("small", "full"), default="full", help="small: a few steps only")
options = parser.parse_args()
small = options.budget == "small"
options.folder.mkdir(parents=True, exist_ok=True)

# 1. minima: the MMFF94 energies train the energy network, the geometries both networks
structures = []
for smiles in read_molecules(Path(__file__).parent / "data" / "molecules.smi")[2 : 12 if small else None]:
    graph = graph_from_smiles(smiles)
    for positions in embed(graph, n=1 if small else 5):
        minimum = mmff94_minimize(graph, positions)
        what = {"smiles": smiles, "kind": "minimum", "minimum_of": "mmff94"}
        structures.append(Structure(graph.atomic_numbers.astype(int), minimum.positions, minimum.energy, **what))
store, report = store_from_structures(structures, "mmff94", source="small")
write_store(options.folder / "mmff94.h5", store)
print(format_import_report(report))

# 2. training
recipe = parse_recipe(RECIPE.format(steps=5 if small else 2000))
checkpoint = train(recipe, options.folder / "run", store_root=options.folder)

# 3. guesses
guess = StructureGenerator(checkpoint, mode="refine")("CCO")
print(guess, guess.info)

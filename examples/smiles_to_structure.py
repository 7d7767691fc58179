"""From a SMILES to several guesses of its structure, and from the guesses to the relaxed conformers.

python examples/smiles_to_structure.py "C[C@H](N)C(=O)O" --output alanine.xyz
"""

import argparse

from physcon_ase import StructureGenerator, optimize
from physcon_ase.chem.compare import symmetric_rmsd
from physcon_ase.chem.smiles import graph_from_smiles
from physcon_ase.inference.report import write_results

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("smiles", nargs="?", default="C[C@H](N)C(=O)O")
parser.add_argument("--output", default="alanine.xyz", help=".xyz or .sdf")
parser.add_argument("--checkpoint", default="physcon-2", help="name or folder")
parser.add_argument("--budget", choices=("small", "full"), default="full", help="small: two samples, a few steps")
options = parser.parse_args()
small = options.budget == "small"

graph = graph_from_smiles(options.smiles)
generator = StructureGenerator(options.checkpoint)
guesses = generator(graph, n_samples=2 if small else 5, seed=0)

results = []
for guess in guesses:
    result = optimize(graph, start=guess, checkpoint=options.checkpoint, max_steps=5 if small else 500)
    moved = symmetric_rmsd(graph, guess.positions, result.atoms.positions)
    print(
        f"seed {guess.info['seed']}: {result.energy:.4f} eV after {result.steps} steps, guess {moved:.3f} Å away "
        f"(heavy atoms); {result.status}"
    )
    results.append(result)

results.sort(key=lambda result: result.energy)
print(f"{write_results(results, options.output)} structures in {options.output}, the lowest first")

"""Script of `make demo`: paracetamol from its SMILES to a relaxed structure, written to files.

python examples/paracetamol.py
"""

import argparse
from pathlib import Path
from time import perf_counter

began = perf_counter()

from physcon_ase import optimize  # noqa: E402  # the clock starts before the first import
from physcon_ase.inference.report import format_result, plot_result, write_results  # noqa: E402

SMILES = "CC(=O)Nc1ccc(O)cc1"

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--folder", type=Path, default=Path("demo"), help="where the files go")
parser.add_argument("--checkpoint", default="physcon-2", help="name or folder")
parser.add_argument("--budget", choices=("small", "full"), default="full", help="small: a few steps only")
options = parser.parse_args()
options.folder.mkdir(parents=True, exist_ok=True)

print(f"paracetamol, SMILES {SMILES}: from the lowest MMFF94 minimum by L-BFGS to forces below 0.01 eV/Å")
result = optimize(SMILES, checkpoint=options.checkpoint, max_steps=5 if options.budget == "small" else 500)
print(format_result(result))

print("step  energy [eV]    largest force [eV/Å]")
for step, (energy, fmax) in enumerate(zip(result.energies, result.fmax_history, strict=True)):
    print(f"{step:4d}  {energy:.6f}  {fmax:.4f}")

write_results(result, options.folder / "paracetamol.xyz")
write_results(result, options.folder / "paracetamol.sdf")
plot_result(result, options.folder / "paracetamol.png")
print(f"written: {options.folder}/paracetamol.xyz, .sdf and .png; {perf_counter() - began:.1f} s with imports and plot")

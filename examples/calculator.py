"""The ASE calculator: energy and forces, optimisation and harmonic frequencies of ethanol.

python examples/calculator.py
"""

import argparse
import tempfile
from pathlib import Path

import torch
from ase.build import molecule
from ase.optimize import BFGS
from ase.vibrations import Vibrations

from physcon_ase import PhysConCalculator

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--checkpoint", default="physcon-2", help="name or folder")
parser.add_argument("--budget", choices=("small", "full"), default="full", help="small: a few steps only")
options = parser.parse_args()

atoms = molecule("CH3CH2OH")
atoms.calc = PhysConCalculator(options.checkpoint, dtype=torch.float64)
print(f"energy {atoms.get_potential_energy():.4f} eV, largest force {abs(atoms.get_forces()).max():.4f} eV/Å")

BFGS(atoms).run(fmax=0.001, steps=3 if options.budget == "small" else 200)

with tempfile.TemporaryDirectory() as folder:  # Vibrations keeps a file for each displacement
    chosen = [atom.index for atom in atoms if atom.symbol == "O"] if options.budget == "small" else None
    vibrations = Vibrations(atoms, indices=chosen, name=str(Path(folder) / "vib"))
    vibrations.run()
    print("frequencies [1/cm]:", *(f"{frequency.real:.0f}" for frequency in vibrations.get_frequencies()))

"""Writes charged.smi: cations and anions of the neutral molecules of fragments.smi, further molecules for pairs.py.

    python recipes/physcon-2/charged.py > recipes/physcon-2/charged.smi

The first basic group of a molecule is protonated, and the first acidic group deprotonated.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from fragments import is_usable
from rdkit import Chem, rdBase

FRAGMENTS: Final = Path(__file__).parent / "fragments.smi"

BASES: Final = (
    "[NX3;+0;!$(N~[C,S,P,N,O,c,n]=,:,#*);!$(N~[N,O,F,S,P])]",  # amines
    "[NX2;+0;$(N=C(-,=[#6,#7])-[NX3]);!$(N~[N,O,S,P])]",  # amidines and guanidines
    "[nX2;+0;!$(n~[n,o,s])]",  # pyridines, imidazoles, pyrimidines
)
"""Atoms to be protonated."""

ACIDS: Final = (
    "[OX2H;+0;$(O-[C,S,P,Se,N]=[O,S])]",  # carboxylic acids and acids of S and P
    "[OX2H;+0;$(O-c)]",  # phenols
    "[SX2H;+0;$(S-[#6])]",  # thiols
    "[NX3;H1,H2;+0;$(N-S(=O)=O)]",  # sulfonamides
    "[NX3;H1;+0;$(N(-C=[O,S])-C=[O,S])]",  # imides
    "[nH;+0;$(n1nnnc1),$(n1nncn1),$(n1nncc1),$(n1nccn1)]",  # tetrazoles and triazoles
)
"""Atoms to be deprotonated."""


def main() -> None:
    """Prints the list."""
    print("# Cations and anions of the molecules of fragments.smi, from charged.py; further molecules for pairs.py.")
    lines = (line for line in FRAGMENTS.read_text().splitlines() if not line.startswith("#"))
    known = set()
    for smiles, name in map(str.split, lines):
        for ion, sign in ions_of(smiles):
            if ion not in known and is_usable(ion):
                known.add(ion)
                print(ion, f"{name}{sign}")


def ions_of(smiles: str) -> Iterator[tuple[str, str]]:
    """SMILES and sign of the cation and the anion of a neutral molecule, as far as there are any."""
    mol = Chem.MolFromSmiles(smiles)
    if Chem.GetFormalCharge(mol) != 0:
        return
    for patterns, charge, sign in ((BASES, 1, "+"), (ACIDS, -1, "-")):
        for index in [match[0] for text in patterns for match in mol.GetSubstructMatches(Chem.MolFromSmarts(text))]:
            ion = Chem.RWMol(mol)
            atom = ion.GetAtomWithIdx(index)
            hydrogens = atom.GetTotalNumHs() + charge
            atom.SetFormalCharge(charge)
            atom.SetNoImplicit(True)
            atom.SetNumExplicitHs(hydrogens)
            with rdBase.BlockLogs():
                if Chem.SanitizeMol(ion, catchErrors=True) == Chem.SanitizeFlags.SANITIZE_NONE:
                    yield Chem.MolToSmiles(ion), sign
                    break


if __name__ == "__main__":
    main()

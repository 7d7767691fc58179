"""GFN2-xTB labels of ions and of molecules with bromine, iodine and silicon.

    python recipes/gfn2-more/label.py ions smiles_union.tsv.xz stores/ions.h5
    python recipes/gfn2-more/label.py halogens smiles_union.tsv.xz stores/halogens.h5
    python recipes/gfn2-more/label.py silicon smiles_union.tsv.xz stores/silicon.h5

Molecules come from a list of SMILES (columns smiles, heavy, charge, allowed, sets): the ions and the bromine and iodine
compounds in it, ions made from its neutral molecules by adding or removing one proton, and silanes made from them by
replacing one saturated carbon with silicon. Three geometries each: an ETKDG conformer and two thermal displacements of
the MMFF94 minimum (of the conformer where MMFF94 lacks parameters). Interrupted runs continue.
"""

import argparse
import random
from collections.abc import Iterator
from pathlib import Path

from rdkit import Chem, RDLogger

from physcon_ase.data.importers.smiles_list import read_smiles_list
from physcon_ase.labelling.engines import tblite_engine
from physcon_ase.labelling.pipeline import label
from physcon_ase.labelling.samplers import conformers, thermal
from physcon_ase.labelling.samplings import Sampling

ELEMENTS = {1, 6, 7, 8, 9, 14, 15, 16, 17, 35, 53}
HEAVY = range(1, 19)
"""Sizes taken from the list."""

SMALL_IONS = """[OH-] [OH3+] [NH4+] [NH2-] [SH-] [SH3+] [PH4+] [CN-] [N-]=[N+]=[N-] [O-]C=O CC([O-])=O C[NH3+] C[O-]
C[S-] [O-][N+]([O-])=O [O-]C(O)=O [O-]Cl(=O)(=O)=O OS([O-])(=O)=O OP(O)([O-])=O N#CS[-] [S-]C#N [O-]C#N C[N+](C)(C)C
C[N+]#C [NH3+]CC(O)=O [NH3+]CC([O-])=O NCC([O-])=O F[B-](F)(F)F [O-]c1ccccc1 c1cc[nH+]cc1 C[P+](C)(C)C C[S+](C)C
NC(N)=[NH2+] c1c[nH+]c[nH]1 C#[O+] [O-]Br(=O)=O [O-]I(=O)=O C[Si](C)(C)[O-]""".split()

DONORS = [
    "[OX2H1]",
    "[SX2H1]",
    "[nH1]",
    "[NX3;H1,H2;$(N[#6]=[O,S]),$(NS(=O)=O)]",
    "[CX4;H1,H2;$(C(C=O)C=O),$(C(C#N)C#N)]",
]
"""Atoms that give a proton away."""

ACCEPTORS = ["[NX3;!$(N[#6]=[O,S,N]);!$(N~[!#6;!#1]);!$(N-c)]", "[nX2]", "[NX2;$(N=C)]", "[OX1;$(O=C[#7])]", "[PX3]"]
"""Atoms that take one up."""

SEATS = ["[CX4;H0]", "[CX4;H1]", "[CX4;H2]", "[CX4;H3]"]
"""Carbon atoms whose place silicon takes, the most substituted first."""


def rows(path: Path) -> Iterator[tuple[str, int]]:
    """SMILES and total charge of the molecules of the list that have a size in HEAVY and one fragment."""
    for row in read_smiles_list(path, allowed_only=False)[0]:
        if row.n_heavy_atoms in HEAVY and "." not in row.smiles:
            yield row.smiles, row.charge


def usable(smiles: str) -> bool:
    """Whether it is a closed-shell molecule of ELEMENTS."""
    mol = Chem.MolFromSmiles(smiles)
    return mol is not None and all(
        atom.GetAtomicNum() in ELEMENTS and not atom.GetNumRadicalElectrons() and not atom.GetIsotope()
        for atom in Chem.AddHs(mol).GetAtoms()
    )


def changed(
    smiles: str, patterns: list[str], choose: random.Random, *, charge: int = 0, element: int = 0
) -> str | None:
    """The molecule with one atom that matches a pattern charged by a proton, or replaced by another element."""
    mol = Chem.MolFromSmiles(smiles)
    found = [m[0] for p in patterns for m in mol.GetSubstructMatches(Chem.MolFromSmarts(p))] if mol else []
    if not found:
        return None
    editable = Chem.RWMol(mol)
    atom = editable.GetAtomWithIdx(choose.choice(found[:3]))
    if element:
        atom.SetAtomicNum(element)
    else:
        atom.SetFormalCharge(charge)
        atom.SetNumExplicitHs(atom.GetTotalNumHs() + charge)
        atom.SetNoImplicit(True)
    try:
        Chem.SanitizeMol(editable)
    except (Chem.KekulizeException, Chem.AtomValenceException):
        return None
    return Chem.MolToSmiles(editable)


def ions(path: Path, n: int, choose: random.Random) -> list[str]:
    """Ions of the list and ions made from its molecules, charge -1 and +1 in equal parts, and zwitterions."""
    listed = [
        smiles
        for smiles, charge in rows(path)
        if abs(charge) == 1 or (charge == 0 and "+]" in smiles and "-]" in smiles)
    ]
    neutral = [smiles for smiles, charge in rows(path) if charge == 0 and "+" not in smiles]
    choose.shuffle(listed)
    choose.shuffle(neutral)
    made = []
    for number, smiles in enumerate(neutral[: 4 * n]):
        charge = -1 if number % 2 else 1
        made.append(changed(smiles, DONORS if charge < 0 else ACCEPTORS, choose, charge=charge))
    return [*SMALL_IONS, *listed[: n // 3], *filter(None, made)][: 2 * n]


def halogens(path: Path, n: int, choose: random.Random) -> list[str]:
    """Neutral bromine and iodine compounds of the list, all those with iodine first; iodine in the place of some Br."""
    neutral = [smiles for smiles, charge in rows(path) if charge == 0 and "+" not in smiles]
    choose.shuffle(neutral)
    iodine = [smiles for smiles in neutral if "I" in smiles and "In" not in smiles and "Ir" not in smiles]
    bromine = [smiles for smiles in neutral if "Br" in smiles]
    exchanged = [smiles.replace("Br", "I") for smiles in bromine[: len(bromine) // 3]]
    small = ["BrBr", "II", "ClBr", "ClI", "BrI", "FBr", "FI", "Br", "I", "BrC", "IC", "BrN", "IN", "OBr", "OI", "PBr"]
    return [*small, *iodine, *exchanged, *bromine][: 2 * n]


def silicon(path: Path, n: int, choose: random.Random) -> list[str]:
    """Molecules of the list with silicon, and neutral molecules with silicon in the place of a saturated carbon."""
    listed = [smiles for smiles, _ in rows(path) if "[Si" in smiles]
    neutral = [smiles for smiles, charge in rows(path) if charge == 0 and "+" not in smiles and len(smiles) < 30]
    choose.shuffle(neutral)
    small = """[SiH4] C[SiH3] [SiH3]O [SiH3]N [SiH3]F [SiH3]Cl [SiH3]Br [SiH3]I [SiH3][SiH3] [SiH3]S [SiH3]P
Cl[Si](Cl)(Cl)Cl F[Si](F)(F)F C[Si](C)(C)C C[Si](C)(C)O[Si](C)(C)C C=[SiH2]""".split()
    made = (changed(smiles, SEATS, choose, element=14) for smiles in neutral[: 4 * n])
    return [*small, *listed, *filter(None, made)][: 2 * n]


def main() -> None:
    """Makes the list of molecules and labels it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("ions", "halogens", "silicon"))
    parser.add_argument("smiles", type=Path, help="the list: tab-separated, xz")
    parser.add_argument("store", type=Path)
    parser.add_argument("--molecules", type=int, default=6000)
    parser.add_argument("--processes", type=int, default=1)
    options = parser.parse_args()
    RDLogger.DisableLog("rdApp.*")
    make = {"ions": ions, "halogens": halogens, "silicon": silicon}[options.what]
    made = make(options.smiles, options.molecules, random.Random(0))
    molecules = [smiles for smiles in dict.fromkeys(made) if usable(smiles)][: options.molecules]
    samplings = [Sampling("conformer", 1, conformers), Sampling("thermal", 2, thermal)]
    label(molecules, tblite_engine("gfn2"), samplings, options.store, processes=options.processes, licence="MIT")


if __name__ == "__main__":
    main()

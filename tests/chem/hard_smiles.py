"""Two hundred molecules on which embedding may fail, but not hang and not raise anything unnamed."""

C60 = (
    "c12c3c4c5c1c1c6c7c2c2c8c3c3c9c4c4c%10c5c5c1c1c6c6c%11c7c2c2c7c8c3c"
    "3c8c9c4c4c9c%10c5c5c1c1c6c6c%11c2c2c7c3c3c8c4c4c9c5c1c1c6c2c3c41"
)

_CAGES = """
C12C3C4C1C5C2C3C45 C12C3C1C23 C12C3C4C5C1C6C7C2C8C3C9C4C1C5C6C2C7C8C9C12 C1C2CC3CC1CC(C2)C3
C1C2CC3C4CC5CC(C14)C(C2)C3C5 C12C3C4C5C1C1C2C3C4C51 C1C23CC1(C2)C3 C1C2CC1C2 C12(C3)C3C1C2 C1CC2CCC1C2 C1C2C3C1C1C2C31
C12C=CC(C1)C=C2 C1=CC2C=CC1C2 C1N2CN3CN1CN(C2)C3 C1CN2CCN1CC2 C1OB2OCC(O1)CO2 P12P3P1P23 C1C2CC3CC(C1)C23
C1CC23CCC(C2)C3C1 C12CC3CC(C1)C3C2 C1C2CC3C1C3C2 CC1C2C3C(C)N2C13 C12C3CC4C1C4C2C3 C1C2C3C4C1C5C2C3C45 C12C3C4C2C1C34
N12C3C4C1C2C34 c1ccc2c(c1)C1c3ccccc3C2c2ccccc12
"""
_STRAINED = """
C1=CC1 C1#CCCCCC1 C1=C=CCCC1 C/1=C\\CCCCCC1 C1CC1=C1CC1 C12CC1C2 C1CC12CC2 C12(CC1)C1(CC1)C1(CC1)C21CC1 C1CCCC/C=C/CC1
N1=NC1 O1OC1 C1=CC=C1 C1=CC2=CC=CC=C12 C1C2=C1C2 C1CC2=CC1CC2 c1ccc2c(c1)CCc1ccccc1CC2 C1Cc2ccc(cc2)CCc2ccc1cc2
C1CC2=C3CCC(=C1)C23 c1cc2ccc3cccc4ccc(c1)c2c34 c1ccc2c(c1)ccc1c2ccc2ccccc21 c1ccc2c(c1)ccc1ccc3ccc4ccc5ccccc5c4c3c12
c1cc2ccc3ccc4ccc5ccc6ccc1c1c2c3c4c5c61 CC(C)(C)c1c(C(C)(C)C)c(C(C)(C)C)c(C(C)(C)C)c(C(C)(C)C)c1C(C)(C)C
CC(C)(C)C(C(C)(C)C)(C(C)(C)C)C(C)(C)C CC(C)(C)C=CC(C)(C)C C1CC1(C1CC1)(C1CC1) FC(F)(F)C(C(F)(F)F)(C(F)(F)F)C(F)(F)F
O[C@H]1[C@@H](O)[C@]23CC[C@@]1(C2)C3 [C@H]12[C@@H]3[C@H]1[C@@H]23
"""
_STEREO = """
C[C@H]1[C@H]([C@@](C[C@@H](O1)O)(C)N)O O[C@H]1[C@H](O)[C@@H](O)[C@H](O)[C@@H](O)[C@@H]1O
OC[C@H]1O[C@@H](O)[C@H](O)[C@@H](O)[C@@H]1O CN1CC[C@]23c4c5ccc(O)c4O[C@H]2[C@@H](O)C=C[C@H]3[C@H]1C5
C[C@]12CC[C@H]3[C@@H](CCc4cc(O)ccc43)[C@@H]1CC[C@@H]2O
CC(=O)O[C@H]1C[C@@H]2CC[C@@H]3[C@H](CC[C@@]4(C)[C@H]3CC[C@]4(C)O)[C@@]2(C)C[C@@H]1O
C[C@@H]1CC[C@H]2[C@@H](C)C(=O)O[C@@H]3O[C@@]4(C)CC[C@@H]1[C@]23OO4
OC[C@H]1O[C@H](O[C@]2(CO)O[C@H](CO)[C@@H](O)[C@@H]2O)[C@H](O)[C@@H](O)[C@@H]1O CO[C@H]1C[C@H](O)[C@@H](C)[C@@H]1O
C[C@H](O)[C@@H](O)[C@H](O)[C@@H](O)[C@H](O)[C@@H](O)[C@H](O)CO C[S@](=O)CC C[P@](=O)(O)CC C[P@@](CC)CCC
C[Si@](F)(CC)Cl C[N@+](CC)(CCC)CCCC C/C=C/C=C\\C=C/C F/C=C/F F/C=C\\F C/C(F)=C(/Cl)Br CC=C=CC
C(/C=C/C=C/C=C/C)=C/C=C\\C C/N=N/C C/C=N/O [H]/N=C/C C/C(=N\\O)/C
O=C1C[C@@H]2OCC=C3CN4CC[C@@]56c7ccccc7N1[C@H]5[C@H]2[C@H]3C[C@H]46 CC1(C)[C@@H]2CC[C@@]1(C)C(=O)C2
C[C@@H]1CC[C@@H](C(C)C)[C@H](O)C1
CC1=C2[C@@H](OC(=O)C)C(=O)[C@]3(C)[C@@H](O)C[C@H]4OC[C@@]4(OC(C)=O)[C@H]3[C@H](OC(=O)c3ccccc3)[C@](O)(C[C@@H]1O)C2(C)C
C[C@H]1[C@H]([C@@](C[C@@H](O1)O[C@@H]2[C@H]([C@@H]([C@H](O[C@H]2OC3=C4C=C5C=C3OC6=C(C=C(C=C6)[C@H]([C@H](C(=O)N[C@H](C(=O)N[C@H]5C(=O)N[C@@H]7C8=CC(=C(C=C8)O)C9=C(C=C(C=C9O)O)[C@H](NC(=O)[C@H]([C@@H](C1=CC(=C(O4)C=C1)Cl)O)NC7=O)C(=O)O)CC(=O)N)NC(=O)[C@@H](CC(C)C)NC)O)Cl)CO)O)O)(C)N)O
"""
_CUMULENES_AND_LINEAR = """
C=C=C C=C=C=C C=C=C=C=C O=C=O O=C=C=C=O S=C=S C#C C#CC#C C#CC#CC#CC#C N#N N#CC#N CC#CC N=C=O CN=C=S CN=C=NC
[N-]=[N+]=NC [C-]#[N+]C C=[N+]=[N-] O=C=C=O [O-][N+]#N C1CC#CCCC#C1 FC=C=CF C=C=NC [O-][O+]=O [C-]#[O+] C#N Cl F
"""
_CHARGED_AND_RADICALS = """
[H] [H+] [H-] [H][H] [He] [Na+] [Cl-] [O-2] [OH-] [NH4+] [OH3+] [CH3] [CH2] [CH] [C] [O] [O][O] O=O [N]=O O=[N][O]
C[CH]C C[C](C)C [O]C CO[O] C[S] c1cccc[c]1 [CH2]C=C [O-]C(=O)C [NH3+]CC([O-])=O C[N+](C)(C)C C[n+]1ccccc1 [CH3+]
[CH3-] c1cc[cH-]c1 c1ccc[cH+]cc1 C[N+]([O-])=O CC[N-]CC [B] B C[B-](F)(F)F FB(F)F [O-]S(=O)(=O)[O-]
[O-]P([O-])([O-])=O F[P-](F)(F)(F)(F)F FS(F)(F)(F)(F)F FS(F)(F)(F)(F)c1ccccc1 FI [O-][Cl+3]([O-])([O-])O ClC(Cl)(Cl)Br
IC(I)(I)I [SiH4] C[Si](C)(C)C PP S1SSSSSSS1 [S-][S+](C)C CP(C)(C)=C BrBr OO OOO NN CS(=O)(=O)C [2H]C([2H])([2H])O
"""


def _families() -> list[str]:
    rings = [f"C1{'C' * n}C1" for n in (6, 9, 14, 22, 34)] + [f"C1{'COC' * n}C1" for n in (3, 6)]
    alkanes = ["C" * n for n in (25, 40)]
    residues = ("N[C@@H](C)C(=O)", "N[C@@H](Cc1ccccc1)C(=O)", "N1CCC[C@H]1C(=O)")
    peptides = ["".join(residues[i % 3] for i in range(n)) + "O" for n in (2, 4, 6, 9, 12)]
    cyclic = [f"N1[C@@H](C)C(=O){residues[0] * n}N[C@H](C)C1=O" for n in (1, 3, 6)]
    dendrimers = [f"C({a})({a})({a}){a}" for a in ("C(C)(C)C", "c2ccccc2", "C(F)(F)F", "C#CC#C")]
    polyenes = ["C=C" + "C=C" * n for n in (3, 8)]
    return [*rings, *alkanes, *peptides, *cyclic, *dendrimers, *polyenes]


HARD_SMILES = [
    C60,
    *"".join((_CAGES, _STRAINED, _STEREO, _CUMULENES_AND_LINEAR, _CHARGED_AND_RADICALS)).split(),
    *_families(),
]
"""The full set."""

FEW_HARD_SMILES = [
    "C12C3C4C1C5C2C3C45",
    "CC1C2C3C(C)N2C13",
    "C1#CCCCCC1",
    "C1CC2CCC1CC2",
    "[C@H]12[C@@H]3[C@H]1[C@@H]23",
    "CC(C)(C)C(C(C)(C)C)(C(C)(C)C)C(C)(C)C",
    "CN1CC[C@]23c4c5ccc(O)c4O[C@H]2[C@@H](O)C=C[C@H]3[C@H]1C5",
    "C[P@](=O)(O)CC",
    "C/C=C/C=C\\C=C/C",
    "C=C=C=C=C",
    "[H]",
    "[O][O]",
    "[O-]P([O-])([O-])=O",
    "F[P-](F)(F)(F)(F)F",
    "C1" + "C" * 22 + "C1",
]
"""One or two of each kind that are over in a second."""

# ruff: noqa: E501 - lists of SMILES are long lines
"""Compares AIMNet2 with GFN2-xTB and with density functionals on small molecules that are difficult for a network.

    export OMP_NUM_THREADS=1 PHYSCON_AIMNET2=WHEEL
    python recipes/physcon-2/second_opinion.py CACHE minima                   # AIMNet2 and GFN2-xTB minima, AIMNet2 Hessians
    python recipes/physcon-2/second_opinion.py CACHE dft --minutes 20         # B3LYP-D3(BJ)/DZVP minima
    python recipes/physcon-2/second_opinion.py CACHE own --minutes 12         # ωB97M-D3(BJ)/def2-TZVPP, the level of AIMNet2
    python recipes/physcon-2/second_opinion.py CACHE hot --minutes 4          # the same at displaced geometries
    python recipes/physcon-2/second_opinion.py CACHE anions curves apart
    python recipes/physcon-2/second_opinion.py CACHE report                   # second_opinion.json, docs/teacher.png, tables

`--names` restricts dft, own and hot to some cases; second_opinion.json has null where a case was not computed.

Every finished case is a line of CACHE/STAGE.jsonl, and an interrupted stage continues. Minima of density functionals
are found from the AIMNet2 minimum with its Hessian: one gradient gives the Newton step; where that changes a bond by
more than `SMALL_CHANGE` the gradient is computed again there. The last step is taken without another gradient.
"""

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any, Final

import numpy as np
import torch
from ase import Atoms
from ase.build import molecule as ase_molecule
from ase.collections import s22
from ase.data import atomic_masses, covalent_radii
from ase.data import atomic_numbers as number_of
from ase.io import read

from physcon_ase.batch import Batch, make_batch, unpad
from physcon_ase.chem.conformers import embed
from physcon_ase.chem.smiles import graph_from_smiles
from physcon_ase.errors import EngineError, PhysConError
from physcon_ase.labelling.engines import (
    Engine,
    EngineLabel,
    Molecule,
    aimnet2_engine,
    engine_forces,
    pyscf_energy,
    pyscf_engine,
    tblite_engine,
)
from physcon_ase.labelling.engines.pyscf import built_molecule
from physcon_ase.relax.driver import relax
from physcon_ase.units import ANGSTROM_PER_BOHR, EV_PER_HARTREE, EV_PER_KCAL_PER_MOL

HERE: Final = Path(__file__).parent
FMAX: Final = 0.01
"""Largest force [eV/Å] at a minimum of AIMNet2 or GFN2-xTB."""
SHAKE: Final = 0.02
"""Standard deviation [Å] of the displacement of every start geometry, against saddle points of high symmetry."""
BONDED: Final = 1.35
"""Longest bond in sums of covalent radii, where there is no SMILES."""
SMALL_CHANGE: Final = 0.01
"""Change [Å] of a bond below which a Newton step is accepted without another gradient."""
FLOOR: Final = 0.3
"""Least curvature [eV/Å²] of a Newton step."""
LONGEST_STEP: Final = 0.25
"""Longest move [Å] of an atom in a Newton step."""
BROKEN: Final = 0.25
"""Change [Å] of a bond with which a minimum is another structure and no figure of a bond length."""
HOT_KELVIN: Final = 1500.0
EV_PER_KELVIN: Final = 8.617333e-5
EV_PER_ROOT: Final = 0.0646541
"""ħ sqrt(eV/(Å² u)) [eV]."""
UNSETTLED: Final = 0.03
"""Change [Å] of a bond in the last step of a density functional with which its minimum is not found."""
WRONG: Final = 0.5
"""Error of the force on an atom [eV/Å] that is called wrong."""
NOISE_KCAL: Final = 0.005
"""Energy difference [kcal/mol] of neighbouring points of a curve that is noise of float32."""
SHOWN: Final = (
    "H2O...H2O, O-O", "NH4+...Cl-, N-Cl", "Cl-...CH3Cl, C-Cl", "F-...H2O, O-F", "CO2...CO2, C-C", "C6H6...C6H6 sandwich",
)  # fmt: skip
"""Curves of the figure."""
COULOMB: Final = 14.399645
"""e²/(4πε₀) [eV Å]."""

FAMILIES: Final = {
    "ordinary": "H2O O; NH3 N; CH4 C; C2H6 CC; C2H4 C=C; C2H2 C#C; CH3OH CO; H2CO C=O; HCN C#N; HCOOH O=CO; HCONH2 NC=O; CH3NH2 CN; CH3CN CC#N; CH3F CF; CH3Cl CCl; CH3Br CBr; CH3I CI; CH3SH CS; H2S S; HF F; HCl Cl; CF4 FC(F)(F)F; CCl4 ClC(Cl)(Cl)Cl; CO2 O=C=O; CO [C-]#[O+]",
    "cations": "NH4+ [NH4+]; H3O+ [OH3+]; NO2+ O=[N+]=O; NO+ N#[O+]; CH3+ [CH3+]; C2H5+ @C2H5+_bridged; iPr+ C[CH+]C; tBu+ C[C+](C)C; allyl+ C=C[CH2+]; benzyl+ [CH2+]c1ccccc1; CF3+ F[C+](F)F; CH3CO+ CC#[O+]; N2H+ N#[NH+]; CH2NH2+ C=[NH2+]; PH4+ [PH4+]; SH3+ [SH3+]; SiH3+ [SiH3+]; H5O2+ @H5O2+; N2H7+ @N2H7+; cyclopropenyl+ [CH+]1C=C1",
    "anions": "OH- [OH-]; NH2- [NH2-]; CH3- [CH3-]; CN- [C-]#N; N3- [N-]=[N+]=[N-]; OCN- [N-]=C=O; CNO- [C-]#[N+][O-]; SCN- N#C[S-]; NO2- O=N[O-]; NO3- O=[N+]([O-])[O-]; HCO2- O=C[O-]; HCO3- O=C([O-])O; CH3O- C[O-]; SH- [SH-]; PH2- [PH2-]; SiH3- [SiH3-]; C2H- [C-]#C; HO2- [O-]O; ClO- [O-]Cl; ClO3- [O-][Cl+2]([O-])[O-]; ClO4- [O-][Cl+3]([O-])([O-])[O-]; HSO4- O=S(=O)([O-])O; CH3SO3- CS(=O)(=O)[O-]; H2PO4- O=P([O-])(O)O; BH4- [BH4-]; BF4- F[B-](F)(F)F; CH2NO2- C=[N+]([O-])[O-]; HF2- @H_linear_F_F_-1; HCl2- @H_linear_Cl_Cl_-1; H3O2- @H3O2-",
    "two charges": "CO3-- O=C([O-])[O-]; SO4-- O=S(=O)([O-])[O-]; C2O4-- O=C([O-])C(=O)[O-]; H3NNH3++ [NH3+][NH3+]; en-H2++ [NH3+]CC[NH3+]",
    "ions with water": "F-.H2O =F-.H2O; Cl-.H2O =Cl-.H2O; Br-.H2O =Br-.H2O; I-.H2O =I-.H2O; NH4+.H2O =NH4+.H2O; HCO2-.H2O =HCO2-.H2O; Cl-.CH3Cl =Cl-.CH3Cl",
    "weak dimers": "(H2O)2 %Water_dimer; (NH3)2 %Ammonia_dimer; (HCOOH)2 %Formic_acid_dimer; (CH4)2 %Methane_dimer; (HF)2 =(HF)2; (CO2)2 =(CO2)2; N2.H2O =N2.H2O",
    "S halides": "SF2 FSF; SCl2 ClSCl; S2Cl2 ClSSCl; SF4 @S_seesaw_F_F_F_F_+0; SF6 @S_octahedron_F_F_F_F_F_F_+0; SF5Cl @S_octahedron_Cl_F_F_F_F_F_+0; SOF4 @S_bipyramid_O_F_F_F_F_+0; SF3+ @S_pyramid_F_F_F_+1; SF5- @S_square_pyramid_F_F_F_F_F_-1; SCl4 @S_seesaw_Cl_Cl_Cl_Cl_+0; SOF2 FS(F)=O; SO2F2 FS(F)(=O)=O; SOCl2 ClS(Cl)=O; SO2Cl2 ClS(Cl)(=O)=O",
    "S with O, N, S": "SO2 O=S=O; SO3 O=S(=O)=O; S2O S=S=O; H2SO4 OS(=O)(=O)O; DMSO CS(C)=O; Me2SO2 CS(C)(=O)=O; Me2SNH CS(C)=N; sulfoximine CS(C)(=N)=O; CH3SO2F CS(F)(=O)=O; CH3SOH CSO; H2S2 SS; HNSO N=S=O; H2CSO C=S=O; H2CS C=S; CS2 S=C=S; OCS O=C=S; S4ring S1SSS1",
    "N-F, O-F, N-Cl, O-Cl": "NF3 FN(F)F; NHF2 FNF; NH2F NF; N2F4 FN(F)N(F)F; tN2F2 F/N=N/F; cN2F2 F/N=N\\F; NF4+ @N_tetrahedron_F_F_F_F_+1; ONF3 @N_tetrahedron_O_F_F_F_+0; FNO FN=O; FNO2 F[N+](=O)[O-]; OF2 FOF; HOF OF; FOOF FOOF; CH3OF COF; NCl3 ClN(Cl)Cl; NH2Cl NCl; ClNO ClN=O; HOCl OCl; Cl2O ClOCl; HOBr OBr; HOI OI",
    "O-O": "HOOH OO; CH3OOH COO; CH3OOCH3 COOC; HCO3H O=COO; CH3CO3H CC(=O)OO; dioxirane C1OO1; dioxetane C1COO1; O3 [O-][O+]=O; HOOOH OOO; CH2OO C=[O+][O-]; HOONO OON=O",
    "N-N, N-O": "N2H4 NN; N2H2 N=N; HN3 N=[N+]=[N-]; CH3N3 CN=[N+]=[N-]; CH2N2 C=[N+]=[N-]; diazirine C1N=N1; N2O [N-]=[N+]=O; N2O3 O=N[N+](=O)[O-]; N2O4 O=[N+]([O-])[N+](=O)[O-]; NH2NO2 N[N+](=O)[O-]; NH2NO NN=O; HNO3 O[N+](=O)[O-]; HONO ON=O; HNO N=O; NH2OH NO; NH3O [NH3+][O-]; HCNO C#[N+][O-]; CH3NO2 C[N+](=O)[O-]; HNC [C-]#[NH+]; N4 N12N3N1N23; N2CO [N-]=[N+]=C=O",
    "P": "PH3 P; P2H4 PP; P4 P12P3P1P23; P2 P#P; HCP C#P; PN P#N; PF3 FP(F)F; PCl3 ClP(Cl)Cl; PBr3 BrP(Br)Br; PH5 @P_bipyramid_H_H_H_H_H_+0; PF5 @P_bipyramid_F_F_F_F_F_+0; PCl5 @P_bipyramid_Cl_Cl_Cl_Cl_Cl_+0; PF6- @P_octahedron_F_F_F_F_F_F_-1; PF4- @P_seesaw_F_F_F_F_-1; PCl4+ Cl[P+](Cl)(Cl)Cl; H3PO O=[PH3]; OPF3 O=P(F)(F)F; OPCl3 O=P(Cl)(Cl)Cl; SPCl3 S=P(Cl)(Cl)Cl; H3PO4 OP(=O)(O)O; H3PNH N=[PH3]; CH2PH3 C=[PH3]",
    "halogens": "F2 FF; Cl2 ClCl; Br2 BrBr; I2 II; ClF FCl; ICl ClI; ClF3 @Cl_T_F_F_F_+0; ClF5 @Cl_square_pyramid_F_F_F_F_F_+0; BrF3 @Br_T_F_F_F_+0; BrF5 @Br_square_pyramid_F_F_F_F_F_+0; IF3 @I_T_F_F_F_+0; IF5 @I_square_pyramid_F_F_F_F_F_+0; ICl3 @I_T_Cl_Cl_Cl_+0; ClF2- @Cl_linear_F_F_-1; ClF2+ @Cl_bent_F_F_+1; Cl3- @Cl_linear_Cl_Cl_-1; Br3- @Br_linear_Br_Br_-1; I3- @I_linear_I_I_-1; ICl2- @I_linear_Cl_Cl_-1; ClO2F @Cl_pyramid_F_O_O_+0; ClO3F @Cl_tetrahedron_F_O_O_O_+0; HClO4 @Cl_tetrahedron_OH_O_O_O_+0; BrO3F @Br_tetrahedron_F_O_O_O_+0; IO2F @I_pyramid_F_O_O_+0; CH3IF2 @CI(F)F",
    "B": "BH3 B; BF3 FB(F)F; BCl3 ClB(Cl)Cl; BBr3 BrB(Br)Br; BH3NH3 [BH3-][NH3+]; BF3NH3 [NH3+][B-](F)(F)F; BH3CO [BH3-]C#[O+]; BH3PH3 [BH3-][PH3+]; BH2NH2 NB; HBNH B#N; HBO B=O; BOH3 OB(O)O; B2F4 FB(F)B(F)F; B2H6 @B2H6; B2H7- @B2H7-; borazine B1NBNBN1",
    "Si": "SiH4 [SiH4]; CH3SiH3 C[SiH3]; Si2H6 [SiH3][SiH3]; SiF4 F[Si](F)(F)F; SiCl4 Cl[Si](Cl)(Cl)Cl; SiH3OH O[SiH3]; disiloxane [SiH3]O[SiH3]; SiOH4 O[Si](O)(O)O; SiH3NH2 N[SiH3]; silirane C1C[SiH2]1; SiH2CH2 C=[SiH2]; SiH2O O=[SiH2]; disilene [SiH2]=[SiH2]; SiO2 O=[Si]=O; SiH5- @Si_bipyramid_H_H_H_H_H_-1; SiF5- @Si_bipyramid_F_F_F_F_F_-1",
    "Se": "H2Se [SeH2]; HSe- [SeH-]; CH3SeH C[SeH]; H2Se2 [SeH][SeH]; CH2Se C=[Se]; CSe2 [Se]=C=[Se]; SeO2 O=[Se]=O; SeF4 @Se_seesaw_F_F_F_F_+0; SeF6 @Se_octahedron_F_F_F_F_F_F_+0; SeOCl2 O=[Se](Cl)Cl; Me2SeO C[Se](C)=O; SeCN- N#C[Se-]",
    "As": "AsH3 [AsH3]; CH3AsH2 C[AsH2]; As2H4 [AsH2][AsH2]; AsF3 F[As](F)F; AsCl3 Cl[As](Cl)Cl; AsOH3 O[As](O)O; OAsH3 O=[AsH3]; HCAs C#[As]; As4 [As]12[As]3[As]1[As]23; AsF5 @As_bipyramid_F_F_F_F_F_+0; AsF6- @As_octahedron_F_F_F_F_F_F_-1; AsH4+ [AsH4+]",
    "cumulenes": "allene C=C=C; butatriene C=C=C=C; ketene C=C=O; C3O2 O=C=C=C=O; propadienone C=C=C=O; HNCNH N=C=N; CH2CNH C=C=N; HNCO N=C=O; HNCS N=C=S; C2N2 N#CC#N; HC4H C#CC#C; CH2CS C=C=S; HC3N C#CC#N",
    "strained rings": "cyclopropane C1CC1; cyclopropene C1=CC1; cyclopropenone O=C1C=C1; methylenecyclopropene C=C1C=C1; cyclobutadiene C1=CC=C1; bicyclobutane C1C2C1C2; tetrahedrane C12C3C1C23; propellane C1C23CC12C3; cubane C12C3C4C1C5C2C3C45; oxirane C1CO1; oxirene C1=CO1; azirine C1N=C1; thiirane C1CS1; thiirene C1=CS1; benzyne C1=CC#CC=C1; Cp+ [CH+]1C=CC=C1; Cp- [cH-]1cccc1; benzene c1ccccc1",
    "carbenes": "CH2 =CH2; CF2 =CF2; CCl2 =CCl2; SiH2 =SiH2; NHC C1=C[NH+]=[C-]N1; CH3NC C[N+]#[C-]",
    "protonation": "CH3NH3+ C[NH3+]; Me3N CN(C)C; Me3NH+ C[NH+](C)C; pyridine c1ccncc1; pyridineH+ c1cc[nH+]cc1; imidazole c1c[nH]cn1; imidazoleH+ c1c[nH]c[nH+]1; CH3OH2+ C[OH2+]; CH2OH+ C=[OH+]; acetone CC(C)=O; acetoneH+ CC(C)=[OH+]; formamideH+ NC=[OH+]; acetate CC(=O)[O-]; CH3COOH CC(=O)O; phenolate [O-]c1ccccc1; phenol Oc1ccccc1; DMSOH+ C[S+](C)O; H2F+ [FH2+]; H2Cl+ [ClH2+]; F- [F-]; Cl- [Cl-]",
}  # fmt: skip
"""Name and source of each case: a SMILES, `@` a name of families/hypervalent.xyz, `%` one of S22, `=` one of `WRITTEN`."""

WRITTEN: Final = {
    "F-.H2O": (-1, "O 0 0 0 H 1.05 0 0 H -0.24 0.93 0 F 2.45 0 0"),
    "Cl-.H2O": (-1, "O 0 0 0 H 0.98 0 0 H -0.24 0.93 0 Cl 3.1 0 0"),
    "Br-.H2O": (-1, "O 0 0 0 H 0.98 0 0 H -0.24 0.93 0 Br 3.3 0 0"),
    "I-.H2O": (-1, "O 0 0 0 H 0.98 0 0 H -0.24 0.93 0 I 3.55 0 0"),
    "NH4+.H2O": (
        1,
        "N 0 0 0 H 0.6 0.6 0.6 H 0.59 -0.59 -0.59 H -0.59 0.59 -0.59 H -0.59 -0.59 0.59 O 1.56 1.56 1.56 H 2.44 1.36 1.9 H 1.36 2.44 1.9",
    ),
    "HCO2-.H2O": (-1, "C 0 0 0 H -1.12 0 0 O 0.55 1.13 0 O 0.55 -1.13 0 O 3.3 0 0 H 2.7 0.75 0 H 2.7 -0.75 0"),
    "Cl-.CH3Cl": (-1, "C 0 0 0 Cl 0 0 1.8 H 1.03 0 -0.34 H -0.515 0.892 -0.34 H -0.515 -0.892 -0.34 Cl 0 0 -3.2"),
    "NH4+.Cl-": (
        0,
        "N 0 0 0 H 0.591 0.591 0.591 H 0.591 -0.591 -0.591 H -0.591 0.591 -0.591 H -0.591 -0.591 0.591 Cl 1.8 1.8 1.8",
    ),
    "NH4+.HCO2-": (
        0,
        "N 2.9 0 0 H 3.491 0.591 0.591 H 3.491 -0.591 -0.591 H 2.309 0.591 -0.591 H 2.309 -0.591 0.591 C 0 0 0 H -1.13 0 0 O 0.55 1.13 0 O 0.55 -1.13 0",
    ),
    "(HF)2": (0, "F 0 0 0 H 0.92 0 0 F 2.75 0 0 H 3.1 0.85 0"),
    "(CO2)2": (0, "C 0 0 0 O 0 1.16 0 O 0 -1.16 0 C 3.05 1.9 0 O 3.05 3.06 0 O 3.05 0.74 0"),
    "N2.H2O": (0, "O 0 0 0 H 0.96 0 0 H -0.24 0.93 0 N 3.36 0 0 N 4.46 0 0"),
    "CH2": (0, "C 0 0 0 H 0.86 0.70 0 H -0.86 0.70 0"),
    "CF2": (0, "C 0 0 0 F 1.03 0.79 0 F -1.03 0.79 0"),
    "CCl2": (0, "C 0 0 0 Cl 1.40 0.98 0 Cl -1.40 0.98 0"),
    "SiH2": (0, "Si 0 0 0 H 1.09 1.05 0 H -1.09 1.05 0"),
}  # fmt: skip
"""Charge [e] and symbols with positions [Å] of geometries that are written here."""

AFFINITIES: Final = (
    ("NH3", "NH4+", 204.0), ("CH3NH2", "CH3NH3+", 214.9), ("Me3N", "Me3NH+", 226.8), ("pyridine", "pyridineH+", 222.3),
    ("imidazole", "imidazoleH+", 225.3), ("H2O", "H3O+", 165.2), ("CH3OH", "CH3OH2+", 180.3), ("H2CO", "CH2OH+", 170.4),
    ("acetone", "acetoneH+", 194.1), ("HCONH2", "formamideH+", 196.5), ("PH3", "PH4+", 187.6), ("H2S", "SH3+", 168.5),
    ("DMSO", "DMSOH+", 211.4), ("HF", "H2F+", 115.7), ("HCl", "H2Cl+", 133.1),
    ("HCO2-", "HCOOH", 345.4), ("acetate", "CH3COOH", 348.1), ("phenolate", "phenol", 350.0), ("CH3O-", "CH3OH", 382.0),
    ("OH-", "H2O", 390.3), ("CN-", "HCN", 350.9), ("N3-", "HN3", None), ("NO3-", "HNO3", 324.5), ("SH-", "H2S", 351.1),
    ("NH2-", "NH3", 403.4), ("CH3-", "CH4", 416.7), ("F-", "HF", 371.3), ("Cl-", "HCl", 333.4),
)  # fmt: skip
"""Base, acid, and the measured enthalpy of deprotonation at 298 K [kcal/mol] (neutral bases: Hunter and Lias 1998,
doi 10.1063/1.556018; anions: evaluated acidities of the NIST WebBook, good to about 1), where it is certain."""


@dataclass(frozen=True)
class Curve:
    """Two rigid fragments at many distances."""

    source: str
    """A case (its AIMNet2 minimum), `=` one of `WRITTEN`, or "sandwich"."""
    n_first: int
    """Atoms of the first fragment, which come first."""
    charges: tuple[int, int]
    """Charges of the fragments [e]."""
    pair: tuple[int, int]
    """The atoms whose distance is the coordinate; the second fragment moves along their line."""
    nearest: float
    """Shortest distance [Å]."""
    computed: tuple[float, ...]
    """Distances [Å] of the density functional."""


CURVES: Final = {
    "H2O...H2O, O-O": Curve("(H2O)2", 3, (0, 0), (0, 3), 2.3, (2.5, 2.9, 3.5, 5.0, 7.0)),
    "HCOOH...HCOOH, C-C": Curve("(HCOOH)2", 5, (0, 0), (-1, -1), 3.3, (3.5, 3.9, 5.0)),
    "CH4...CH4, C-C": Curve("(CH4)2", 5, (0, 0), (0, 5), 3.0, (3.4, 3.7, 4.2, 5.5)),
    "CO2...CO2, C-C": Curve("(CO2)2", 3, (0, 0), (0, 3), 2.9, (3.3, 3.6, 4.2, 5.5)),
    "NH4+...Cl-, N-Cl": Curve("=NH4+.Cl-", 5, (1, -1), (0, 5), 2.5, (2.7, 3.1, 4.0, 5.5, 8.0)),
    "NH4+...HCO2-, N-C": Curve("=NH4+.HCO2-", 5, (1, -1), (0, 5), 2.5, (2.9, 4.0, 6.0)),
    "NH4+...H2O, N-O": Curve("NH4+.H2O", 5, (1, 0), (0, 5), 2.3, (2.5, 2.7, 3.5, 5.0, 8.0)),
    "F-...H2O, O-F": Curve("F-.H2O", 3, (0, -1), (0, 3), 2.2, (2.3, 2.5, 3.2, 5.0, 8.0)),
    "Cl-...CH3Cl, C-Cl": Curve("Cl-.CH3Cl", 5, (0, -1), (0, 5), 2.6, (2.9, 3.3, 4.2, 6.0)),
    "HCO2-...H2O, C-O": Curve("HCO2-.H2O", 4, (-1, 0), (0, 4), 2.8, (3.0, 3.3, 4.2, 6.0)),
    "C6H6...C6H6 sandwich": Curve("sandwich", 12, (0, 0), (0, 12), 3.0, ()),
}  # fmt: skip
DISTANCES: Final = np.concatenate([np.arange(2.2, 4.0, 0.05), np.arange(4.0, 8.0, 0.1), np.arange(8.0, 20.1, 0.5)])
"""Distances [Å] of AIMNet2 and GFN2-xTB."""

APART: Final = (
    ("H2O", "CH4"), ("NH4+", "H2O"), ("NH4+", "CH4"), ("H3O+", "CH3NH2"), ("tBu+", "NH3"), ("F-", "CH4"),
    ("F-", "HCl"), ("Cl-", "CH3Cl"), ("OH-", "benzene"), ("CN-", "CH3OH"), ("NO3-", "H2O"), ("CH3-", "C2H4"),
    ("acetate", "CH3NH2"), ("NH4+", "Cl-"), ("NH4+", "HCO2-"), ("CH3NH3+", "acetate"), ("NO2+", "F-"), ("NH4+", "NH4+"),
    ("Cl-", "Cl-"), ("NH3", "BF3"),
)  # fmt: skip
"""Cases that are put side by side."""
FAR: Final = (20.0, 50.0, 100.0)
"""Distances [Å] between their centres."""


@dataclass(frozen=True)
class Case:
    """One molecule."""

    name: str
    """Its name."""
    family: str
    """Its family."""
    numbers: np.ndarray
    """Atomic numbers."""
    positions: np.ndarray
    """Start geometry [Å]."""
    charge: int
    """Total charge [e]."""
    bonds: np.ndarray
    """Pairs of bonded atoms."""

    def at(self, positions: np.ndarray) -> Molecule:
        """The molecule at a geometry."""
        return Molecule(self.numbers, positions, self.charge, 1)


class Cache:
    """Finished cases of a stage, one line of JSON each."""

    def __init__(self, folder: Path, stage: str):
        self.path = folder / f"{stage}.jsonl"
        lines = self.path.read_text().splitlines() if self.path.is_file() else []
        self.rows: dict[str, dict[str, Any]] = {row["name"]: row for row in map(json.loads, lines)}

    def add(self, name: str, **values: Any) -> None:
        """Appends a case."""
        row = {"name": name, **{key: _plain(value) for key, value in values.items()}}
        with self.path.open("a") as file:
            file.write(json.dumps(row) + "\n")
        self.rows[name] = row


def _plain(value: Any) -> Any:
    return np.round(value, 5).tolist() if isinstance(value, np.ndarray | np.floating) else value


# Cases


def all_cases(names: Sequence[str] = ()) -> Iterator[Case | tuple[str, str, str]]:
    """The cases; name, family and reason where there is no start geometry."""
    shapes = {atoms.info["name"].replace(" ", "_"): atoms for atoms in read(HERE / "families/hypervalent.xyz", ":")}
    for family, text in FAMILIES.items():
        for entry in text.split(";"):
            name, source = entry.split()
            if names and name not in names:
                continue
            try:
                yield _case(name, family, source, shapes)
            except (PhysConError, KeyError) as error:
                yield name, family, repr(error)


def _case(name: str, family: str, source: str, shapes: dict[str, Atoms]) -> Case:
    if source[0] not in "@%=":
        graph = graph_from_smiles(source)
        single = graph.n_atoms == 1
        positions = np.zeros((1, 3)) if single else embed(graph, n=1, seed=0, max_seconds=5.0)[0]
        return Case(name, family, graph.atomic_numbers, np.asarray(positions, float), graph.charge, graph.bonds)
    if source[0] == "=":
        numbers, positions, charge = _written(source[1:])
    else:
        atoms = shapes[source[1:]] if source[0] == "@" else s22[source[1:]]
        numbers, positions, charge = atoms.numbers, atoms.positions, int(atoms.info.get("charge", 0))
    return Case(name, family, numbers, positions, charge, _near_pairs(numbers, positions))


def _written(name: str) -> tuple[np.ndarray, np.ndarray, int]:
    charge, text = WRITTEN[name]
    words = text.split()
    numbers = np.array([number_of[symbol] for symbol in words[::4]])
    return numbers, np.array([float(w) for i, w in enumerate(words) if i % 4]).reshape(-1, 3), charge


def _near_pairs(numbers: np.ndarray, positions: np.ndarray) -> np.ndarray:
    radii = covalent_radii[numbers]
    distance = np.linalg.norm(positions[:, None] - positions, axis=2)
    close = np.triu(distance < BONDED * (radii[:, None] + radii), 1)
    return np.argwhere(close)


def lengths(bonds: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Bond lengths [Å]."""
    return np.linalg.norm(positions[bonds[:, 0]] - positions[bonds[:, 1]], axis=1) if len(bonds) else np.zeros(0)


def contact(case: Case, positions: np.ndarray) -> float | None:
    """Shortest distance [Å] between atoms of two fragments, None if there is one fragment."""
    owner = np.arange(len(case.numbers))
    for _ in owner:
        for i, j in case.bonds:
            owner[i] = owner[j] = min(owner[i], owner[j])
    distance = np.linalg.norm(positions[:, None] - positions, axis=2)
    apart = owner[:, None] != owner
    return float(distance[apart].min()) if apart.any() else None


def torsion(case: Case, positions: np.ndarray) -> float | None:
    """Absolute torsion [degrees] about the first bond between two of N O P S As Se with neighbours on both sides."""
    neighbours: dict[int, list[int]] = {}
    for i, j in case.bonds.tolist():
        neighbours.setdefault(i, []).append(j)
        neighbours.setdefault(j, []).append(i)
    for i, j in case.bonds.tolist():
        left, right = set(neighbours[i]) - {j}, set(neighbours[j]) - {i}
        special = {7, 8, 15, 16, 33, 34}
        if special >= {case.numbers[i], case.numbers[j]} and left and right and not left & right:
            atoms = Atoms(case.numbers, positions)
            angle = atoms.get_dihedral(min(left), i, j, min(right))
            return float(min(angle, 360 - angle))
    return None


# AIMNet2 and GFN2-xTB


def teacher() -> Engine:
    """Mean of the four AIMNet2 networks, whatever their disagreement."""
    return aimnet2_engine(mean=True, max_spread=1e9)


def label_all(engine: Engine, molecules: Sequence[Molecule]) -> list[EngineLabel]:
    """Labels of many geometries, as many at a time as the engine likes."""
    labels: dict[int, EngineLabel] = {}
    order = sorted(range(len(molecules)), key=lambda row: len(molecules[row].atomic_numbers))
    while order:
        widest = len(molecules[order[-1]].atomic_numbers)
        count = max(1, engine.batch_slots // widest)
        rows, order = order[-count:], order[:-count]
        for row, label in zip(rows, engine.label_many([molecules[row] for row in rows]), strict=True):
            if isinstance(label, EngineError):
                raise label
            labels[row] = label
    return [labels[row] for row in range(len(molecules))]


def batched_forces(engine: Engine) -> Callable[[Batch], tuple[torch.Tensor, torch.Tensor]]:
    """The engine as a force function of batches."""

    def forces_of(batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        parts = zip(
            unpad(batch, batch.atomic_numbers), unpad(batch, batch.positions), batch.charge.tolist(), strict=True
        )
        labels = label_all(engine, [Molecule(numbers, places, charge, 1) for numbers, places, charge in parts])
        forces = torch.zeros_like(batch.positions)
        for row, label in enumerate(labels):
            forces[row, : len(label.forces)] = torch.as_tensor(label.forces)
        return torch.tensor([label.energy for label in labels], dtype=torch.float64), forces

    return forces_of


def hessian(engine: Engine, case: Case, positions: np.ndarray, step: float = 0.01) -> np.ndarray:
    """Second derivatives [eV/Å²] of the engine by differences of forces."""
    shifts = step * np.eye(positions.size).reshape(-1, *positions.shape)
    labels = label_all(engine, [case.at(positions + sign * shift) for shift in shifts for sign in (1, -1)])
    forces = np.array([label.forces.ravel() for label in labels])
    raw = -(forces[::2] - forces[1::2]) / (2 * step)
    return (raw + raw.T) / 2


def polished(
    engine: Engine, case: Case, positions: np.ndarray, curvature: np.ndarray
) -> tuple[np.ndarray, EngineLabel]:
    """The minimum [Å] by Newton steps on forces alone, and its label.

    The energies of AIMNet2 scatter by 0.1 meV in float32, so that searches that want them to fall stop early.
    """
    label = label_all(engine, [case.at(positions)])[0]
    for _ in range(8):
        if np.linalg.norm(label.forces, axis=1).max() < FMAX:
            break
        trial = positions + newton_step(curvature, label.forces, positions)
        there = label_all(engine, [case.at(trial)])[0]
        if np.linalg.norm(there.forces) > 1.2 * np.linalg.norm(label.forces):
            break
        positions, label = trial, there
    return positions, label


def run_minima(folder: Path, deadline: float) -> None:
    """AIMNet2 minima with Hessians, and GFN2-xTB minima from there."""
    cache, engine, gfn2 = Cache(folder, "minima"), teacher(), tblite_engine("gfn2")
    todo = []
    for case in all_cases():
        if isinstance(case, tuple):
            if case[0] not in cache.rows:
                cache.add(case[0], family=case[1], failed=f"no start geometry: {case[2]}")
        elif case.name not in cache.rows:
            todo.append(case)
    if not todo:
        return
    random = np.random.default_rng(0)
    starts = [case.positions + SHAKE * random.normal(size=case.positions.shape) for case in todo]
    bonds = [case.bonds if len(case.bonds) else None for case in todo]
    batch = make_batch([c.numbers for c in todo], starts, charges=[c.charge for c in todo], dtype=torch.float64)
    found = relax(batched_forces(engine), batch, fmax=FMAX, max_steps=150, bonds=bonds)
    print(f"AIMNet2: {int(found.converged.sum())} of {len(todo)} converged before polishing", flush=True)
    for row, case in enumerate(todo):
        place = np.asarray(found.positions[row])[: len(case.numbers)]
        curvature = hessian(engine, case, place)
        place, label = polished(engine, case, place, curvature)
        own = make_batch([case.numbers], [place], charges=[case.charge], multiplicities=[1], dtype=torch.float64)
        cheap = relax(engine_forces(gfn2), own, fmax=FMAX, max_steps=150, bonds=[bonds[row]])
        cache.add(
            case.name, family=case.family, numbers=case.numbers, charge=case.charge, bonds=case.bonds,
            positions=place, fmax=float(np.linalg.norm(label.forces, axis=1).max()), energy=label.energy,
            spread=label.force_spread, charges=label.charges, hessian=curvature,
            gfn2_positions=np.asarray(cheap.positions[0])[: len(case.numbers)], gfn2_status=cheap.statuses[0].name,
            gfn2_energy=float(cheap.energies[0]),
        )  # fmt: skip
        if monotonic() > deadline:
            return


def case_of(row: dict[str, Any]) -> tuple[Case, np.ndarray]:
    """A case and its AIMNet2 minimum [Å]."""
    place = np.array(row["positions"])
    bonds = np.array(row["bonds"], dtype=int).reshape(-1, 2)
    return Case(row["name"], row["family"], np.array(row["numbers"]), place, row["charge"], bonds), place


# Density functionals


def own_level(molecule: Molecule, *, forces: bool = True) -> EngineLabel:
    """ωB97M-D3(BJ)/def2-TZVPP, which AIMNet2 was trained on; iodine with its effective core potential.

    Raises:
        EngineError: the SCF does not converge.
    """
    from pyscf import dft

    method: Any = dft.RKS(built_molecule(molecule, "def2-tzvpp"), xc="wb97m-d3bj").density_fit()
    method.grids.level, method.conv_tol, method.max_cycle = 1, 1e-7, 100
    method.kernel()
    if not method.converged:
        raise EngineError("SCF not converged")
    gradient = np.asarray(method.nuc_grad_method().kernel()) if forces else np.zeros_like(molecule.positions)
    return EngineLabel(float(method.e_tot) * EV_PER_HARTREE, -gradient * (EV_PER_HARTREE / ANGSTROM_PER_BOHR))


def newton_step(curvature: np.ndarray, forces: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Step [Å] to the minimum of a quadratic, along every eigenvector downwards.

    Translation and rotation are left out: the grid of a density functional exerts a force and a torque.
    """
    spokes = positions - positions.mean(axis=0)
    rigid = [np.tile(axis, (len(positions), 1)) for axis in np.eye(3)] + [np.cross(axis, spokes) for axis in np.eye(3)]
    left, sizes, _ = np.linalg.svd(np.reshape(rigid, (6, -1)).T, full_matrices=False)
    rigid_basis = left[:, sizes > 1e-3]
    project = np.eye(positions.size) - rigid_basis @ rigid_basis.T
    values, vectors = np.linalg.eigh(project @ curvature @ project)
    along = vectors.T @ project @ forces.ravel()
    step = (vectors @ (along / np.maximum(np.abs(values), FLOOR))).reshape(forces.shape)
    longest = np.linalg.norm(step, axis=1).max()
    return step * min(1.0, LONGEST_STEP / longest) if longest > 0 else step


def refined(case: Case, row: dict[str, Any], function: Callable[[Molecule], EngineLabel], limit: int) -> dict[str, Any]:
    """The minimum of a function, found from the AIMNet2 minimum with at most `limit` gradients."""
    place, curvature = np.array(row["positions"]), np.array(row["hessian"])
    history, first, old = [], None, None
    for _ in range(limit):
        label = function(case.at(place))
        first = label if first is None else first
        if old is not None:
            s, y = (place - old[0]).ravel(), (old[1] - label.forces).ravel()
            if s @ y > 1e-4:
                hs = curvature @ s
                curvature = curvature + np.outer(y, y) / (s @ y) - np.outer(hs, hs) / (s @ hs)
        step = newton_step(curvature, label.forces, place)
        change = np.abs(lengths(case.bonds, place + step) - lengths(case.bonds, place)).max(initial=0.0)
        history.append([float(np.linalg.norm(label.forces, axis=1).max()), float(change)])
        old = (place, label.forces)
        place = place + step
        if change < SMALL_CHANGE and np.linalg.norm(step, axis=1).max() < 0.1:
            break
    assert first is not None
    return {
        "positions": place, "history": history, "energy": label.energy - 0.5 * float((label.forces * step).sum()),
        "start_energy": first.energy, "start_forces": first.forces,
    }  # fmt: skip


def heaviness(row: dict[str, Any]) -> float:
    """Size that goes with the cost of a density functional."""
    return sum(0.35 if n == 1 else 1.0 if n < 11 else 1.5 if n < 19 else 2.2 if n < 36 else 3.0 for n in row["numbers"])


def run_dft(folder: Path, deadline: float, names: Sequence[str] = ()) -> None:
    """B3LYP-D3(BJ)/DZVP minima, the cheap ones first, halides of sulfur and halogens before their turn."""
    function = pyscf_engine("b3lyp-d3", grid_level=1, convergence=1e-7)

    def cost(row: dict[str, Any]) -> float:
        return heaviness(row) - 2.0 * (row["family"] in ("S halides", "halogens"))

    _run_refined(
        folder, "dft", names, function, deadline, cost, lambda weight: 4 if weight < 4 else 3 if weight < 6 else 2
    )


def run_own(folder: Path, deadline: float, names: Sequence[str] = ()) -> None:
    """ωB97M-D3(BJ)/def2-TZVPP minima, first where AIMNet2 is furthest from B3LYP-D3 for its cost."""
    minima, dft = Cache(folder, "minima").rows, Cache(folder, "dft").rows

    def urgency(row: dict[str, Any]) -> float:
        case, place = case_of(minima[row["name"]])
        other = dft.get(row["name"])
        if other is None or "failed" in other:
            return heaviness(row) + 2.0
        far = np.abs(lengths(case.bonds, place) - lengths(case.bonds, np.array(other["positions"]))).max(initial=0.0)
        return heaviness(row) - 120 * min(far, 0.05)

    _run_refined(folder, "own", names, own_level, deadline, urgency, lambda weight: 2 if weight < 4 else 1)


def _run_refined(
    folder: Path,
    stage: str,
    names: Sequence[str],
    function: Callable[[Molecule], EngineLabel],
    deadline: float,
    key: Callable[[dict[str, Any]], float],
    limit: Callable[[float], int],
) -> None:
    cache = Cache(folder, stage)
    rows = [row for row in Cache(folder, "minima").rows.values() if "failed" not in row]
    for row in sorted(rows, key=key):
        if row["name"] in cache.rows or (names and row["name"] not in names):
            continue
        if monotonic() > deadline:
            return
        case, _ = case_of(row)
        began = monotonic()
        try:
            found = refined(case, row, function, limit(heaviness(row)))
        except EngineError as error:
            cache.add(case.name, failed=str(error))
            continue
        cache.add(case.name, seconds=monotonic() - began, **found)
        print(stage, case.name, f"{monotonic() - began:.1f} s", found["history"], flush=True)


def run_hot(folder: Path, deadline: float, names: Sequence[str] = ()) -> None:
    """Forces of both at a geometry displaced as at `HOT_KELVIN` in the AIMNet2 Hessian, small molecules only."""
    cache, engine, random = Cache(folder, "hot"), teacher(), np.random.default_rng(1)
    rows = [row for row in Cache(folder, "minima").rows.values() if "failed" not in row and len(row["numbers"]) > 2]
    for row in sorted(rows, key=heaviness):
        case, place = case_of(row)
        values, vectors = np.linalg.eigh(np.array(row["hessian"]))
        amplitude = np.sqrt(EV_PER_KELVIN * HOT_KELVIN / np.maximum(np.abs(values), 3.0))
        hot = place + (vectors @ (amplitude * random.normal(size=len(values)))).reshape(place.shape)
        if row["name"] in cache.rows or (names and row["name"] not in names):
            continue
        if monotonic() > deadline:
            return
        label = label_all(engine, [case.at(hot)])[0]
        try:
            right = own_level(case.at(hot))
        except EngineError as error:
            cache.add(case.name, failed=str(error))
            continue
        error = np.linalg.norm(label.forces - right.forces, axis=1)
        cache.add(
            case.name, spread=label.force_spread, error=float(error.max()), mean_error=float(error.mean()),
            size=float(np.linalg.norm(right.forces, axis=1).max()), energy=label.energy - right.energy,
        )  # fmt: skip


def run_anions(folder: Path, deadline: float) -> None:
    """B3LYP-D3(BJ)/aug-cc-pVDZ energies at AIMNet2 minima of anions and their acids."""
    cache, minima = Cache(folder, "anions"), Cache(folder, "minima").rows
    engine = pyscf_engine("b3lyp-d3-aug", functional="b3lyp-d3bj", basis="aug-cc-pvdz", grid_level=1, convergence=1e-7)
    names = {name for base, acid, _ in AFFINITIES for name in (base, acid) if minima[base]["charge"] == -1}
    for name in sorted(names, key=lambda name: heaviness(minima[name])):
        if name in cache.rows:
            continue
        if monotonic() > deadline:
            return
        case, place = case_of(minima[name])
        cache.add(name, energy=pyscf_energy(engine, case.at(place)))


# Two fragments


def curve_geometry(curve: Curve, minima: dict[str, dict[str, Any]]) -> tuple[np.ndarray, np.ndarray]:
    """Atomic numbers and positions [Å] of a curve's template."""
    if curve.source == "sandwich":
        ring = ase_molecule("C6H6")
        return np.tile(ring.numbers, 2), np.concatenate([ring.positions, ring.positions + np.array([0, 0, 3.9])])
    if curve.source[0] == "=":
        numbers, positions, _ = _written(curve.source[1:])
        return numbers, positions
    row = minima[curve.source]
    return np.array(row["numbers"]), np.array(row["positions"])


def fragments_at(
    curve: Curve, numbers: np.ndarray, positions: np.ndarray, distance: float
) -> tuple[Molecule, Molecule, Molecule]:
    """Complex and both fragments at a distance [Å] of the pair."""
    n = curve.n_first
    first, second = (
        (int(np.flatnonzero(numbers[:n] == 6)[0]), n + int(np.flatnonzero(numbers[n:] == 6)[0]))
        if curve.pair[0] < 0
        else curve.pair
    )
    axis = positions[second] - positions[first]
    moved = positions.copy()
    moved[n:] += axis / np.linalg.norm(axis) * (distance - np.linalg.norm(axis))
    return (
        Molecule(numbers, moved, sum(curve.charges)),
        Molecule(numbers[:n], moved[:n], curve.charges[0]),
        Molecule(numbers[n:], moved[n:], curve.charges[1]),
    )


def _energy(engine: Engine, molecule: Molecule) -> float:
    """Energy [eV], NaN where the SCF does not converge, as for ion pairs far apart."""
    try:
        return engine(molecule).energy
    except EngineError:
        return float("nan")


def run_curves(folder: Path, deadline: float) -> None:
    """Interaction energies [eV] of rigid fragments."""
    cache, minima, engine, gfn2 = (
        Cache(folder, "curves"),
        Cache(folder, "minima").rows,
        teacher(),
        tblite_engine("gfn2"),
    )
    for name, curve in CURVES.items():
        numbers, positions = curve_geometry(curve, minima)
        if name not in cache.rows:
            apart = DISTANCES[curve.nearest <= DISTANCES + 1e-9]
            places = [fragments_at(curve, numbers, positions, r) for r in apart]
            alone = [label.energy for label in label_all(engine, list(places[0][1:]))]
            labels = label_all(engine, [place[0] for place in places])
            cheap_alone = [_energy(gfn2, part) for part in places[0][1:]]
            cheap = [_energy(gfn2, place[0]) - sum(cheap_alone) for place in places]
            charge = [float(label.charges[: curve.n_first].sum()) for label in labels if label.charges is not None]
            cache.add(
                name, distances=apart, energies=np.array([label.energy - sum(alone) for label in labels]),
                spread=np.array([label.force_spread for label in labels]), first_charge=np.array(charge), gfn2=np.array(cheap),
            )  # fmt: skip
    for name, curve in CURVES.items():
        numbers, positions = curve_geometry(curve, minima)
        parts = None
        for distance in curve.computed:
            key = f"{name} {distance}"
            if key in cache.rows:
                continue
            if monotonic() > deadline:
                return
            whole, *single = fragments_at(curve, numbers, positions, distance)
            known = cache.rows.get(f"{name} parts")
            if parts is None:
                parts = known["energy"] if known else sum(own_level(part, forces=False).energy for part in single)
                if not known:
                    cache.add(f"{name} parts", energy=parts)
            cache.add(key, energy=own_level(whole, forces=False).energy - parts)
            print(key, cache.rows[key]["energy"], flush=True)


def run_apart(folder: Path, deadline: float) -> None:
    """Energy [eV] of two molecules far apart less that of each alone and their Coulomb energy."""
    cache, minima, engine = Cache(folder, "apart"), Cache(folder, "minima").rows, teacher()
    for first, second in APART:
        name = f"{first} + {second}"
        if name in cache.rows or monotonic() > deadline:
            continue
        one, two = minima[first], minima[second]
        numbers = np.array(one["numbers"] + two["numbers"])
        a, b = (np.array(row["positions"]) - np.mean(row["positions"], axis=0) for row in (one, two))
        charge = one["charge"] + two["charge"]
        labels = label_all(
            engine, [Molecule(numbers, np.concatenate([a, b + np.array([r, 0, 0])]), charge) for r in FAR]
        )
        excess = [
            label.energy - one["energy"] - two["energy"] - COULOMB * one["charge"] * two["charge"] / r
            for label, r in zip(labels, FAR, strict=True)
        ]
        sums = [float(label.charges[: len(a)].sum()) for label in labels if label.charges is not None]
        spread = [label.force_spread for label in labels]
        largest = [float(np.linalg.norm(label.forces, axis=1).max()) for label in labels]
        cache.add(name, excess=excess, first_charge=sums, spread=spread, fmax=largest)


# Report


def ill(found: dict[str, Any]) -> str | None:
    """Why a minimum of a density functional gives no bond lengths, None if it does."""
    if "failed" in found:
        return found["failed"]
    if found["history"][-1][1] > UNSETTLED:
        return "not converged"
    return None


def deviations(row: dict[str, Any], found: dict[str, Any] | None, key: str = "positions") -> np.ndarray | None:
    """Differences of bond lengths [Å] between a minimum (`key` of the row) and that of a density functional."""
    if found is None or ill(found) or not row["bonds"]:
        return None
    case, _ = case_of(row)
    return lengths(case.bonds, np.array(row[key])) - lengths(case.bonds, np.array(found["positions"]))


def zero_point(row: dict[str, Any]) -> float:
    """Harmonic zero-point energy [eV] of AIMNet2; imaginary modes and the six of the whole molecule count nothing."""
    root = np.sqrt(np.repeat(atomic_masses[row["numbers"]], 3))
    values = np.linalg.eigvalsh(np.array(row["hessian"]) / root[:, None] / root)
    n_rigid = 3 if len(row["numbers"]) == 1 else 5 if _is_linear(row) else 6
    kept = np.sort(values)[n_rigid:]
    return 0.5 * EV_PER_ROOT * float(np.sqrt(np.maximum(kept, 0.0)).sum())


def _is_linear(row: dict[str, Any]) -> bool:
    place = np.array(row["positions"])
    sizes = np.linalg.svd(place - place.mean(axis=0), compute_uv=False)
    return len(place) < 3 or sizes[1] < 0.05


def enthalpy(row: dict[str, Any]) -> float:
    """Zero-point energy and enthalpy of translation and rotation at 298.15 K [eV]."""
    motions = 3 if len(row["numbers"]) == 1 else 5 if _is_linear(row) else 6
    return zero_point(row) + (motions / 2 + 1) * EV_PER_KELVIN * 298.15


def family_tables(caches: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """One row for each family."""
    table = []
    for family in FAMILIES:
        rows = [row for row in caches["minima"].values() if row["family"] == family]
        entry: dict[str, Any] = {"family": family, "cases": len(rows)}
        for label, stage, key in (
            ("aimnet2_b3lyp", "dft", "positions"), ("gfn2_b3lyp", "dft", "gfn2_positions"),
            ("aimnet2_own", "own", "positions"), ("gfn2_own", "own", "gfn2_positions"),
        ):  # fmt: skip
            found = {row["name"]: deviations(row, caches[stage].get(row["name"]), key) for row in rows}
            good = {name: gap for name, gap in found.items() if gap is not None}
            same = {name: gap for name, gap in good.items() if np.abs(gap).max() < BROKEN}
            pooled = np.concatenate([*same.values(), np.zeros(0)])
            worst = max(same, key=lambda name: np.abs(same[name]).max(), default=None)
            entry[label] = {
                "n": len(good), "n_bonds": len(pooled), "mae": _round(np.abs(pooled).mean()) if len(pooled) else None,
                "mean": _round(pooled.mean()) if len(pooled) else None, "worst": worst,
                "worst_gap": _round(same[worst][np.abs(same[worst]).argmax()]) if worst else None,
                "other_structure": sorted(set(good) - set(same)),
            }  # fmt: skip
        spread = [row["spread"] for row in rows]
        errors = {
            row["name"]: float(np.linalg.norm(caches["own"][row["name"]]["start_forces"], axis=1).max())
            for row in rows
            if "start_forces" in caches["own"].get(row["name"], {})
        }
        wrong = max(errors, key=lambda name: errors[name], default=None)
        entry |= {
            "spread_mean": _round(np.mean(spread)), "spread_max": _round(np.max(spread)),
            "spread_worst": rows[int(np.argmax(spread))]["name"],
            "own_force_mean": _round(np.mean(list(errors.values()))) if errors else None,
            "own_force_max": _round(errors[wrong]) if wrong else None, "own_force_worst": wrong,
            "unsettled": {
                stage: [row["name"] for row in rows if (found := caches[stage].get(row["name"])) and ill(found)]
                for stage in ("dft", "own")
            },
        }  # fmt: skip
        table.append(entry)
    return table


def level_table(caches: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Mean differences of bond lengths [Å] over the cases that all methods have with the same bonds."""
    columns: dict[str, list[np.ndarray]] = {"aimnet2_b3lyp": [], "own_b3lyp": [], "aimnet2_own": [], "gfn2_own": []}
    n_cases = 0
    for row in caches["minima"].values():
        dft, own = caches["dft"].get(row["name"]), caches["own"].get(row["name"])
        gaps = [deviations(row, dft), deviations(row, own), deviations(row, own, "gfn2_positions")]
        if any(gap is None or np.abs(gap).max() >= BROKEN for gap in gaps):
            continue
        to_dft, to_own, cheap = (gap for gap in gaps if gap is not None)
        n_cases += 1
        for name, gap in zip(columns, (to_dft, to_dft - to_own, to_own, cheap), strict=True):
            columns[name].append(gap)
    pooled = {name: np.concatenate(gaps) for name, gaps in columns.items()}
    return {
        "cases": n_cases,
        "bonds": len(pooled["aimnet2_own"]),
        **{name: _round(np.abs(gap).mean()) for name, gap in pooled.items()},
    }


def case_table(caches: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """One row for each case."""
    table = []
    for row in caches["minima"].values():
        dft, own = caches["dft"].get(row["name"]), caches["own"].get(row["name"])
        entry = {"name": row["name"], "family": row["family"], "spread": _round(row["spread"])}
        for label, found, key in (
            ("b3lyp", dft, "positions"), ("own", own, "positions"), ("gfn2_b3lyp", dft, "gfn2_positions"),
        ):  # fmt: skip
            gap = deviations(row, found, key)
            entry[f"bond_{label}"] = None if gap is None else _round(gap[np.abs(gap).argmax()])
        if own and "start_forces" in own:
            entry["own_force"] = _round(np.linalg.norm(own["start_forces"], axis=1).max())
            entry["own_energy"] = _round(row["energy"] - own["start_energy"])
        case, place = case_of(row)
        for label, measure in (("torsion", torsion), ("contact", contact)):
            if (value := measure(case, place)) is not None:
                others = [(n, np.array(f["positions"])) for n, f in (("b3lyp", dft), ("own", own)) if f and not ill(f)]
                others.append(("gfn2", np.array(row["gfn2_positions"])))
                entry[label] = {"aimnet2": _round(value), **{n: _round(measure(case, at)) for n, at in others}}
        table.append(entry)
    return table


def _round(value: Any, digits: int = 4) -> float:
    return round(float(value), digits)


def affinity_table(caches: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Electronic proton affinities [kcal/mol], and AIMNet2's as an enthalpy beside the measured one."""
    minima, table = caches["minima"], []
    for base, acid, measured in AFFINITIES:
        one, two = minima[base], minima[acid]
        entry: dict[str, Any] = {"base": base, "acid": acid, "measured": measured}
        pairs = {
            "aimnet2": minima, "gfn2": {name: {"energy": minima[name]["gfn2_energy"]} for name in (base, acid)},
            "b3lyp_dzvp": caches["dft"], "own": caches["own"], "b3lyp_aug": caches["anions"],
        }  # fmt: skip
        for label, source in pairs.items():
            energies = [source.get(name, {}).get("energy") for name in (base, acid)]
            if None not in energies:
                entry[label] = _round((energies[0] - energies[1]) / EV_PER_KCAL_PER_MOL, 1)
        shift = (enthalpy(one) - enthalpy(two) + 2.5 * EV_PER_KELVIN * 298.15) / EV_PER_KCAL_PER_MOL
        entry["shift"] = _round(shift, 1)
        entry["spread"] = [_round(row["spread"], 2) for row in (one, two)]
        table.append(entry)
    return table


def curve_table(caches: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Wells, errors at the computed distances [kcal/mol], and how smooth the curves are."""
    table = []
    for name, curve in CURVES.items():
        row = caches["curves"][name]
        apart, energies = np.array(row["distances"]), np.array(row["energies"]) / EV_PER_KCAL_PER_MOL
        cheap = np.array(row["gfn2"]) / EV_PER_KCAL_PER_MOL
        low = int(energies.argmin())
        slopes = np.sign(np.diff(energies)[np.abs(np.diff(energies)) > NOISE_KCAL])
        points = {}
        for distance in curve.computed:
            if (found := caches["curves"].get(f"{name} {distance}")) is not None:
                own = found["energy"] / EV_PER_KCAL_PER_MOL
                both = [_round(np.interp(distance, apart, found), 2) for found in (energies, cheap)]
                points[distance] = [*both, _round(own, 2)]
        table.append(
            {
                "name": name, "minimum": [_round(apart[low], 2), _round(energies[low], 2)],
                "turns": int((np.diff(slopes) != 0).sum()), "aimnet2_gfn2_own": points,
                "at_20": _round(energies[-1], 3), "max_spread": _round(max(row["spread"]), 2),
                "first_charge": {f"{r:g}": _round(row["first_charge"][int(np.abs(apart - r).argmin())], 3) for r in (3, 5, 8, 20)},
            }
        )  # fmt: skip
    return table


def spread_table(caches: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Disagreement of the networks against their errors relative to their own level."""
    pairs = {
        "hot": [(row["name"], row["spread"], row["error"]) for row in caches["hot"].values() if "error" in row],
        "minima": [
            (name, caches["minima"][name]["spread"], float(np.linalg.norm(row["start_forces"], axis=1).max()))
            for name, row in caches["own"].items()
            if "start_forces" in row and len(row["start_forces"]) > 1
        ],
    }
    table: dict[str, Any] = {}
    for label, found in pairs.items():
        if len(found) < 3:
            continue
        spread, error = np.array([p[1] for p in found]), np.array([p[2] for p in found])
        rank = np.corrcoef(spread.argsort().argsort(), error.argsort().argsort())[0, 1]
        table[label] = {
            "n": len(found), "rank_correlation": _round(rank, 2), "median_spread": _round(np.median(spread)),
            "median_error": _round(np.median(error)), "median_ratio": _round(np.median(error / spread), 2),
            "thresholds": {
                f"{limit:g}": {
                    "refused": int((spread > limit).sum()), "refused_wrong": int(((spread > limit) & (error > WRONG)).sum()),
                    "kept_wrong": [p[0] for p in found if p[1] <= limit and p[2] > WRONG],
                }
                for limit in (0.2, 0.3, 0.5, 1.0)
            },
            "largest_errors": [[p[0], _round(p[1], 2), _round(p[2], 2)] for p in sorted(found, key=lambda p: -p[2])[:15]],
        }  # fmt: skip
    return table


def print_tables(result: dict[str, Any]) -> None:
    """Prints the tables of docs/teacher.md."""
    print(
        "\n| family | cases | B3LYP-D3 | AIMNet2 MAE | GFN2 MAE | worst AIMNet2 | own | AIMNet2 MAE | GFN2 MAE | force error | spread |"
    )
    for row in result["families"]:
        b, g, o, q = (row[key] for key in ("aimnet2_b3lyp", "gfn2_b3lyp", "aimnet2_own", "gfn2_own"))
        worst = f"{b['worst']} {b['worst_gap']:+.3f}" if b["worst"] else "-"
        own = f"{o['n']} | {o['mae']:.4f} | {q['mae']:.4f}" if o["n"] else "0 | - | -"
        force = (
            f"{row['own_force_mean']:.2f}, {row['own_force_max']:.2f} {row['own_force_worst']}"
            if row["own_force_mean"]
            else "-"
        )
        print(
            f"| {row['family']} | {row['cases']} | {b['n']} | {b['mae']:.3f} | {g['mae']:.3f} | {worst} | {own} | {force} | "
            f"{row['spread_mean']:.2f}, {row['spread_max']:.2f} {row['spread_worst']} |"
        )
        if any(row["unsettled"].values()) or g["other_structure"]:
            print(f"  unsettled {row['unsettled']}, other structure with GFN2 {g['other_structure']}")
    print(f"\nall levels: {result['levels']}")
    print("\n| base | AIMNet2 | own level | B3LYP-D3/DZVP | /aug-cc-pVDZ | GFN2 | AIMNet2 at 298 K | measured |")
    for row in result["affinities"]:
        cells = [row.get(key) for key in ("aimnet2", "own", "b3lyp_dzvp", "b3lyp_aug", "gfn2")]
        cells += [row["aimnet2"] + row["shift"], row["measured"]]
        print(f"| {row['base']} | " + " | ".join("-" if cell is None else f"{cell:.1f}" for cell in cells) + " |")
    for anions in (False, True):
        for key in ("aimnet2", "b3lyp_dzvp", "b3lyp_aug", "own", "gfn2"):
            chosen = [
                r
                for r in result["affinities"]
                if (r["base"][-1] == "-" or r["base"] in ("acetate", "phenolate")) == anions
            ]
            gaps = np.array([r[key] + r["shift"] - r["measured"] for r in chosen if key in r and r["measured"]])
            net = np.array([r["aimnet2"] - r[key] for r in chosen if key in r])
            if len(gaps):
                print(
                    f"anions {anions} {key}: against measured n {len(gaps)} mean {gaps.mean():.1f} MAE {np.abs(gaps).mean():.1f} "
                    f"sd {gaps.std():.1f} worst {gaps[np.abs(gaps).argmax()]:.1f}; AIMNet2 - it: mean {net.mean():.1f} MAE {np.abs(net).mean():.1f}"
                )
    print("\n| contact | minimum | turns | distance: AIMNet2, GFN2, own | at 20 | spread |")
    for row in result["curves"]:
        points = "; ".join(
            f"{r:g}: " + ", ".join(f"{e:.1f}" if abs(e) > 10 else f"{e:.2f}" for e in es)
            for r, es in row["aimnet2_gfn2_own"].items()
        )
        print(
            f"| {row['name']} | {row['minimum'][1]:.2f} at {row['minimum'][0]:.2f} | {row['turns']} | {points} | {row['at_20']:.2f} | {row['max_spread']:.2f} |"
        )
    print("\n| pair | 20 | 50 | 100 | charge | fmax |")
    for row in result["apart"]:
        excess = " | ".join(f"{e / EV_PER_KCAL_PER_MOL:+.2f}" for e in row["excess"])
        print(f"| {row['name']} | {excess} | {row['first_charge'][-1]:+.3f} | {row['fmax'][-1]:.2f} |")


def figure(caches: dict[str, dict[str, Any]], path: Path) -> None:
    """Six curves of two fragments."""
    import matplotlib.pyplot as plt

    fig, axes = plt.subplots(2, 3, figsize=(11, 6.2), layout="constrained")
    for axis, name in zip(axes.flat, SHOWN, strict=True):
        row, curve = caches["curves"][name], CURVES[name]
        apart = np.array(row["distances"])
        axis.plot(
            apart, np.array(row["energies"]) / EV_PER_KCAL_PER_MOL, color="#1f5fa8", label="AIMNet2, mean of four"
        )
        axis.plot(apart, np.array(row["gfn2"]) / EV_PER_KCAL_PER_MOL, color="#999999", ls="--", label="GFN2-xTB")
        found = [
            (r, caches["curves"][f"{name} {r}"]["energy"]) for r in curve.computed if f"{name} {r}" in caches["curves"]
        ]
        if found:
            axis.plot(
                [r for r, _ in found], [e / EV_PER_KCAL_PER_MOL for _, e in found], "o", color="#c0392b",
                label="ωB97M-D3(BJ)/def2-TZVPP",
            )  # fmt: skip
        if curve.charges[0] * curve.charges[1]:
            axis.plot(
                apart, COULOMB * curve.charges[0] * curve.charges[1] / apart / EV_PER_KCAL_PER_MOL, ":", color="black",
                label="Coulomb energy of unit charges",
            )  # fmt: skip
        low = min(*row["energies"], *(e for _, e in found)) / EV_PER_KCAL_PER_MOL
        outside = apart >= apart[int(np.argmin(row["energies"]))]
        high = max(-0.5 * low, 1.7 * max(np.array(row["energies"])[outside]) / EV_PER_KCAL_PER_MOL)
        axis.set(title=name, xlim=(apart[0], 10), ylim=(1.15 * low, high), xlabel="distance [Å]", ylabel="kcal/mol")
        axis.axhline(0, color="#dddddd", lw=0.8, zorder=0)
        axis.legend(frameon=False, fontsize=7)
    fig.savefig(path, dpi=130)


def run_report(folder: Path, deadline: float) -> None:
    """Writes second_opinion.json and docs/teacher.png, and prints the tables."""
    caches = {stage: Cache(folder, stage).rows for stage in STAGES if stage != "report"}
    caches["minima"] = {name: row for name, row in caches["minima"].items() if "failed" not in row}
    result = {
        "families": family_tables(caches), "levels": [level_table(caches)], "affinities": affinity_table(caches), "curves": curve_table(caches),
        "apart": list(caches["apart"].values()), "spread": spread_table(caches), "cases": case_table(caches),
    }  # fmt: skip
    lines = [
        f'"{key}": [\n' + ",\n".join(json.dumps(row) for row in value) + "\n]"
        if isinstance(value, list)
        else f'"{key}": {json.dumps(value)}'
        for key, value in result.items()
    ]
    (HERE / "second_opinion.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")
    print_tables(result)
    figure(caches, HERE.parents[1] / "docs" / "teacher.png")


STAGES: Final = {
    "minima": run_minima, "dft": run_dft, "own": run_own, "hot": run_hot, "anions": run_anions, "curves": run_curves,
    "apart": run_apart, "report": run_report,
}  # fmt: skip


def main() -> None:
    """Runs stages one after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cache", type=Path)
    parser.add_argument("stages", nargs="+", choices=[*STAGES])
    parser.add_argument("--names", nargs="*", help="cases of the stages dft, own and hot, instead of all")
    parser.add_argument("--minutes", type=float, default=1e6, help="no case begins later than this")
    options = parser.parse_args()
    options.cache.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    deadline = monotonic() + 60 * options.minutes
    for stage in options.stages:
        began = monotonic()
        if options.names and stage in ("dft", "own", "hot"):
            STAGES[stage](options.cache, deadline, options.names)
        else:
            STAGES[stage](options.cache, deadline)
        print(f"{stage}: {monotonic() - began:.0f} s", flush=True)


if __name__ == "__main__":
    main()

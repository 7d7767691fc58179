# ruff: noqa: E501 - lists of SMILES are long lines
"""Writes families/hypervalent.xyz: molecules that distance geometry cannot embed, or that have no SMILES.

    PHYSCON_AIMNET2=WHEEL python recipes/physcon-2/hypervalent.py      # some minutes on one core

RDKit embeds SF6, phosphoranes or iodanes with tetrahedral angles, or not at all, and does not support such valences of
chlorine and bromine. Small molecules are constructed with ideal geometries (`SHAPES`, `SMALL`); those with a SMILES
start from distance geometry without any check. All are then relaxed with one AIMNet2 network, and kept if no bond was
broken or formed; small molecules that dissociate are kept as constructed, with `relaxed=F` in their comment line.
"""

import argparse
import random
from pathlib import Path
from typing import Final

import numpy as np
import torch
from ase import Atoms
from ase.io import write
from rdkit import Chem, RDLogger
from rdkit.Chem import rdDistGeom
from rdkit.Geometry import Point3D

from physcon_ase.batch import make_batch
from physcon_ase.chem.compare import bonds_intact
from physcon_ase.chem.graph import MolGraph, make_graph
from physcon_ase.chem.smiles import canonical_smiles, graph_from_smiles, to_rdkit
from physcon_ase.errors import PhysConError
from physcon_ase.labelling.engines import Engine, aimnet2_engine, engine_forces
from physcon_ase.relax.driver import relax
from physcon_ase.units import ATOMIC_NUMBERS, CHEMICAL_SYMBOLS

OUTPUT: Final = Path(__file__).parent / "families" / "hypervalent.xyz"
FMAX: Final = 0.1
MAX_STEPS: Final = 250
LONGEST: Final = 1.5
"""Bonds of bridging hydrogen and of hypervalent halogens in sums of covalent radii, at most."""
ATTEMPTS: Final = 6
"""Random starts of distance geometry."""

_HALF, _ROOT3 = 0.5, 0.75**0.5
_C36, _S36, _C72, _S72 = (
    np.cos(np.radians(36)), np.sin(np.radians(36)), np.cos(np.radians(72)), np.sin(np.radians(72))
)  # fmt: skip

SHAPES: Final[dict[str, list[tuple[float, float, float]]]] = {
    "linear": [(0, 0, 1), (0, 0, -1)],
    "bent": [(1, 1, 1), (-1, -1, 1)],
    "pyramid": [(1, 1, 1), (-1, -1, 1), (1, -1, -1)],
    "plane": [(1, 0, 0), (-_HALF, _ROOT3, 0), (-_HALF, -_ROOT3, 0)],
    "T": [(1, 0, 0), (0, 0, 1), (0, 0, -1)],
    "tetrahedron": [(1, 1, 1), (-1, -1, 1), (1, -1, -1), (-1, 1, -1)],
    "seesaw": [(-_HALF, _ROOT3, 0), (-_HALF, -_ROOT3, 0), (0, 0, 1), (0, 0, -1)],
    "square": [(1, 0, 0), (0, 1, 0), (-1, 0, 0), (0, -1, 0)],
    "bipyramid": [(1, 0, 0), (-_HALF, _ROOT3, 0), (-_HALF, -_ROOT3, 0), (0, 0, 1), (0, 0, -1)],
    "square pyramid": [(0, 0, 1), (1, 0, 0.1), (0, 1, 0.1), (-1, 0, 0.1), (0, -1, 0.1)],
    "octahedron": [(0, 0, 1), (0, 0, -1), (1, 0, 0), (0, 1, 0), (-1, 0, 0), (0, -1, 0)],
    "pentagonal bipyramid": [
        (0, 0, 1), (0, 0, -1), (1, 0, 0), (_C72, _S72, 0), (-_C36, _S36, 0), (-_C36, -_S36, 0), (_C72, -_S72, 0)
    ],
}  # fmt: skip
"""Directions from the central atom to its ligands, not normalised, in the order in which ligands are given; equatorial
ones first."""

SMALL: Final = """S 0 seesaw F F F F;S 0 octahedron F F F F F F;S 0 octahedron Cl F F F F F
S 0 octahedron Br F F F F F;S -1 square pyramid F F F F F;S 1 pyramid F F F;S 0 bipyramid O F F F F
S 0 octahedron OH F F F F F;S 0 seesaw Cl Cl Cl Cl;S 1 pyramid Cl Cl Cl;S 0 octahedron Cl Cl F F F F
S 0 octahedron H F F F F F;S 0 seesaw OH OH F F;S -1 octahedron O F F F F F;Se 0 seesaw F F F F
Se 0 octahedron F F F F F F;Se 0 seesaw Cl Cl Cl Cl;Se -1 square pyramid F F F F F;Se 1 pyramid F F F
Se 1 pyramid Cl Cl Cl;Se 0 octahedron Cl F F F F F;Se 0 bipyramid O F F F F;Se -2 octahedron Cl Cl Cl Cl Cl Cl
Se -2 octahedron Br Br Br Br Br Br;P 0 bipyramid F F F F F;P 0 bipyramid Cl Cl Cl Cl Cl;P 0 bipyramid Cl Cl F F F
P 0 bipyramid Cl Cl Cl F F;P 0 bipyramid H F F F F;P 0 bipyramid H H F F F;P 0 bipyramid H H H F F
P 0 bipyramid H H H H H;P -1 octahedron F F F F F F;P -1 octahedron Cl Cl Cl Cl Cl Cl;P -1 seesaw F F F F
P -1 seesaw Cl Cl Cl Cl;P 0 bipyramid Br Br Br Br Br;P 1 tetrahedron Br Br Br Br;P -1 octahedron H F F F F F
P 0 bipyramid OH OH OH OH OH;P 1 tetrahedron Cl Cl Cl F;P 1 tetrahedron H F F F;P -1 seesaw F F Br Br
P 0 bipyramid OH F F F F;P -1 octahedron OH F F F F F;As 0 bipyramid F F F F F;As 0 bipyramid Cl Cl Cl Cl Cl
As -1 octahedron F F F F F F;As -1 seesaw F F F F;As -1 seesaw Cl Cl Cl Cl;As 1 tetrahedron Cl Cl Cl Cl
As 1 tetrahedron F F F F;As 0 bipyramid H H H H H;As -1 octahedron OH F F F F F;As -1 octahedron Cl Cl Cl Cl Cl Cl
Si -1 bipyramid F F F F F;Si -2 octahedron F F F F F F;Si -1 bipyramid Cl Cl Cl Cl Cl;Si -1 bipyramid H H H H H
Si -1 bipyramid H F F F F;Si -1 bipyramid H H H F F;Si -2 octahedron Cl Cl Cl Cl Cl Cl
Si -1 bipyramid OH OH OH OH OH;Si -1 bipyramid OH F F F F;Cl 0 T F F F;Cl 0 square pyramid F F F F F
Cl -1 linear F F;Cl 1 bent F F;Cl -1 square F F F F;Cl 1 seesaw F F F F;Cl 1 octahedron F F F F F F
Cl 0 seesaw O F F F;Cl 0 pyramid F O O;Cl 0 tetrahedron F O O O;Cl 0 bipyramid O O F F F;Cl 1 bent O O
Cl -1 seesaw O O F F;Cl -1 linear Cl Cl;Cl 1 bent Cl Cl;Cl -1 square pyramid O F F F F;Cl 0 tetrahedron OH O O O
Cl 1 pyramid O F F;Br 0 T F F F;Br 0 square pyramid F F F F F;Br -1 linear F F;Br 1 bent F F;Br -1 square F F F F
Br 1 seesaw F F F F;Br 0 T Cl Cl Cl;Br -1 linear Br Br;Br -1 linear Cl Cl;Br 0 seesaw O F F F;Br 0 pyramid F O O
Br 0 tetrahedron F O O O;Br -1 octahedron F F F F F F;Br 1 bent Br Br;I 0 T F F F;I 0 T Cl Cl Cl
I 0 square pyramid F F F F F;I 0 pentagonal bipyramid F F F F F F F;I -1 linear I I;I -1 linear Cl Cl
I -1 linear Br Br;I -1 linear F F;I -1 square F F F F;I -1 square Cl Cl Cl Cl;I 1 bent Cl Cl;I 1 bent I I
I 1 seesaw F F F F;I 1 octahedron F F F F F F;I -1 octahedron F F F F F F;I 0 octahedron O F F F F F
I 0 seesaw O F F F;I 0 pyramid F O O;I 0 octahedron O OH OH OH OH OH;I -1 octahedron O O OH OH OH OH
I 0 tetrahedron F O O O;I 0 tetrahedron OH O O O;I 0 T Br Br Br;I -1 linear I Br;I -1 linear Br Cl;I 1 bent Br Br
I -1 linear F Cl;N 1 tetrahedron F F F F;N 1 bent F F;N 0 tetrahedron O F F F;O 1 pyramid F F F;H -1 linear F F
H -1 linear Cl Cl;H -1 linear Br Br;B -1 tetrahedron Cl Cl Cl Cl;B -1 tetrahedron Br Br Br Br
B -1 tetrahedron I I I I;C 0 tetrahedron I I I I;S 0 bipyramid O Cl Cl Cl Cl"""
"""Central atom, charge, shape, ligands (OH is one)."""

FIRST_BONDS: Final = ["C", "CC", "C=C", "c1ccccc1", "C(F)(F)F", "c1ccc(F)cc1", "c1ccc([N+](=O)[O-])cc1", "c1cccnc1"]
ARYLS: Final = [
    "c1ccccc1",
    "c1ccc(C)cc1",
    "c1ccc(OC)cc1",
    "c1ccc([N+](=O)[O-])cc1",
    "c1ccc(C(F)(F)F)cc1",
    "c1ccccc1C",
    "c1cc(C)cc(C)c1",
    "c1ccncc1",
]
MORE_BONDS: Final = ["C#C", "C(C)=O", "CC=C", "CCO", "C(=O)O", "c1ccc(N)cc1", "c1ccc(O)cc1", "c1ccc(Br)cc1", "c1cccs1", "c1cnn(C)c1", "N", "N(C)C", "OC", "C#N", "C1CC1", "CC(C)=O", "c1ccc(C(=O)O)cc1", "Cc1ccccc1", "OC(C)=O", "c1ccc2[nH]ccc2c1", "c1ccc(C=O)cc1", "c1ccc(-c2ccccc2)cc1", "c1ncccn1", "CCl", "OS(=O)(=O)C"]  # fmt: skip


def with_smiles() -> list[str]:
    """SMILES of what RDKit can read and not embed."""
    made = [f"S(F)(F)(F)(F)(F){a}" for a in (*FIRST_BONDS, *MORE_BONDS)] + [
        f"S(F)(F)(F){a}" for a in (*FIRST_BONDS[:5], "N(C)C", "N(CC)CC", "N1CCOCC1")
    ]
    made += [
        f"S(F)(F)({a}){b}"
        for a, b in (
            ("C", "C"),
            ("c1ccccc1", "c1ccccc1"),
            ("C", "c1ccccc1"),
            ("N(C)C", "N(C)C"),
            ("C(F)(F)F", "C(F)(F)F"),
        )
    ]
    made += [f"S(Cl)(Cl)(C){a}" for a in ("C", "c1ccccc1")] + [
        "S(F)(F)(F)(F)(C)C",
        "S(F)(F)(F)(F)(c1ccccc1)c1ccccc1",
        "S(F)(F)(F)(F)(Cl)c1ccccc1",
        "S(OC)(OC)(C)C",
        "C=S(F)(F)(F)F",
        "FS(F)(F)(F)(F)N=C=O",
        "FS(F)(F)(F)(F)S(F)(F)(F)(F)F",
        "FS(F)(F)(F)(F)OOS(F)(F)(F)(F)F",
    ]
    made += (
        [f"[Se](F)(F)(F){a}" for a in FIRST_BONDS[:4]]
        + [f"[Se](F)(F)(F)(F)(F){a}" for a in FIRST_BONDS[:5]]
        + [
            f"[Se]({x})({x})({a}){b}"
            for x in ("Cl", "Br", "F")
            for a, b in (("C", "C"), ("c1ccccc1", "c1ccccc1"), ("C", "c1ccccc1"))
        ]
    )
    made += [f"P(F)(F)(F)(F){a}" for a in (*FIRST_BONDS, "N(C)C", "OC")] + [
        f"P(F)(F)(F)({a}){b}" for a, b in (("C", "C"), ("c1ccccc1", "c1ccccc1"), ("C", "c1ccccc1"), ("N(C)C", "N(C)C"))
    ]
    made += [f"P({x})({x})({a})({a}){a}" for x in ("F", "Cl", "Br", "OC", "C") for a in ("C", "c1ccccc1", "OC")] + [
        f"P(Cl)(Cl)(Cl)(Cl){a}" for a in FIRST_BONDS[:4]
    ]
    made += [
        "COP1(OC)(OC)OC(C)=C(C)O1",
        "CP12(OCCO1)OCCO2",
        "c1ccc2c(c1)OP1(O2)(Oc2ccccc2O1)c1ccccc1",
        "COP1(OC)(OC)OCC1",
        "CC1(C)OP(c2ccccc2)(c2ccccc2)(c2ccccc2)C1",
        "O1CCOP12(C)OCCO2",
        "P12(OCCO1)(OCCO2)OC",
        "C1CCCP1(F)(F)F",
        "[H]P(F)(F)(F)C",
        "P(F)(F)(F)(Cl)C",
        "CC1OP(OC)(OC)(OC)OC1C",
    ]
    made += [f"[P-](F)(F)(F)(F)(F){a}" for a in FIRST_BONDS[:6]] + [
        "[P-](F)(F)(F)(C(F)(F)C(F)(F)F)(C(F)(F)C(F)(F)F)C(F)(F)C(F)(F)F",
        "[P-](F)(F)(F)(F)(C)C",
        "[P-](OC)(OC)(OC)(OC)(OC)OC",
    ]
    made += (
        [f"[As](F)(F)(F)(F){a}" for a in FIRST_BONDS[:4]]
        + [f"[As]({x})({x})({a})({a}){a}" for x in ("F", "Cl", "C", "OC") for a in ("C", "c1ccccc1")]
        + ["[As-](F)(F)(F)(F)(F)C", "C[As]12(OCCO1)OCCO2"]
    )
    made += (
        [f"[Si-](F)(F)(F)(F){a}" for a in (*FIRST_BONDS, "OC")]
        + [f"[Si-](F)(F)({a})({a}){a}" for a in ("C", "c1ccccc1")]
        + [
            "C[Si-]12(Oc3ccccc3O1)Oc1ccccc1O2",
            "F[Si-]12(OCCO1)OCCO2",
            "[Si-](OC)(OC)(OC)(OC)C",
            "[Si-](C)(C)(C)(F)C#C",
            "[Si-](C)(C)(C)(C)C",
        ]
    )
    # with other groups on silicon the distance from N is too long for a bond: families/siloxanes.smi has them without
    made += [f"{a}[Si-]123OCC[N+]1(CCO2)CCO3" for a in ("Cl", "C#C", "FC(F)(F)")]
    made += ["C[Si-]123Oc4ccccc4[N+]1(CCO2)CCO3"]
    made += [f"I({x})({x}){a}" for x in ("F", "Cl", "OC(C)=O", "OC(=O)C(F)(F)F", "OC") for a in (*ARYLS[:5], "C")]
    made += [f"I(O)(OS(=O)(=O)c1ccc(C)cc1){a}" for a in ARYLS[:2]] + [f"I(O)(OS(C)(=O)=O){a}" for a in ARYLS[:3]]
    made += [
        f"O=C7c8ccccc8I({a})O7"
        for a in (
            "O",
            "OC",
            "Cl",
            "F",
            "Br",
            "C(F)(F)F",
            "N=[N+]=[N-]",
            "C#N",
            "OC(C)=O",
            "c1ccccc1",
            "C#C",
            "C#C[Si](C)(C)C",
            "C",
            "N(S(C)(=O)=O)C",
        )
    ] + [f"CC7(C)c8ccccc8I({a})O7" for a in ("O", "Cl", "F", "C(F)(F)F", "C#N", "N=[N+]=[N-]", "c1ccccc1", "SC(F)(F)F")]
    made += [f"I(F)(F)(F)(F){a}" for a in FIRST_BONDS[:5]] + ["O=I1(O)OC(=O)c2ccccc12", "O=I1(OC(C)=O)OC(=O)c2ccccc12", "CC(=O)OI1(OC(C)=O)(OC(C)=O)OC(=O)c2ccccc12", "O=I(F)(F)c1ccccc1", "O=I(F)(F)F", "I(OC(C)=O)(OC(C)=O)OC(C)=O", "O=I1(O)OC(C)(C)c2ccccc12", "[I-](Cl)C", "[I-](C(F)(F)F)C(F)(F)F", "[I-](c1ccccc1)c1ccccc1", "[I-](F)C(F)(F)F", "[I-](Cl)c1ccccc1", "I(Cl)(Cl)C=C", "I(c1ccccc1)(c1ccccc1)c1ccccc1", "I(c1ccccc1)(c1ccccc1)Cl", "I(c1ccccc1)(c1ccccc1)OC(C)=O", "I(F)(c1ccccc1)c1ccccc1"]  # fmt: skip
    return made


def explicit() -> list[tuple[str, int, Atoms, list[tuple[int, int]]]]:
    """Molecules with bridging hydrogen, as name, charge, atoms and bonds."""
    b2h6 = Atoms(
        "B2H6",
        [
            (0, 0, 0.88),
            (0, 0, -0.88),
            (0.97, 0, 0),
            (-0.97, 0, 0),
            (0, 1.04, 1.46),
            (0, -1.04, 1.46),
            (0, 1.04, -1.46),
            (0, -1.04, -1.46),
        ],
    )
    bridges = [(0, 2), (0, 3), (1, 2), (1, 3)]
    found = [("B2H6", 0, b2h6, [*bridges, (0, 4), (0, 5), (1, 6), (1, 7)])]
    for symbol, length in (("C", 1.75), ("F", 1.6), ("Cl", 2.0)):  # on the terminal places
        other = b2h6.copy()
        direction = (b2h6.positions[4] - b2h6.positions[0]) / np.linalg.norm(b2h6.positions[4] - b2h6.positions[0])
        other.positions[4] = b2h6.positions[0] + length * 0.95 * direction
        other.symbols[4] = symbol
        bonds = [*bridges, (0, 4), (0, 5), (1, 6), (1, 7)]
        if symbol == "C":
            sideways = np.cross(direction, (1, 0, 0))
            for angle in (0, 120, 240):
                turn = np.cos(np.radians(angle)) * np.array((1, 0, 0)) + np.sin(np.radians(angle)) * sideways
                other += Atoms("H", [other.positions[4] + 0.36 * direction + 1.03 * turn])
                bonds.append((4, len(other) - 1))
        found.append((f"B2H5{symbol}", 0, other, bonds))
    zundel = Atoms(
        "H5O2",
        [
            (0, 0, 0),
            (0.75, 0.3, 1.55),
            (-0.75, 0.3, 1.55),
            (0.3, 0.75, -1.55),
            (0.3, -0.75, -1.55),
            (0, 0, 1.2),
            (0, 0, -1.2),
        ],
    )
    found.append(("H5O2+", 1, zundel, [(0, 5), (0, 6), (1, 5), (2, 5), (3, 6), (4, 6)]))
    found.append(
        (
            "H3O2-",
            -1,
            Atoms("H3O2", [(0, 0, 0), (0.9, 0, 1.45), (-0.9, 0, -1.45), (0, 0, 1.23), (0, 0, -1.23)]),
            [(0, 3), (0, 4), (1, 3), (2, 4)],
        )
    )
    ammonia = [(0.94, 0, 0.35), (-0.47, 0.81, 0.35), (-0.47, -0.81, 0.35)]
    places = [
        (0, 0, 0),
        (0, 0, 1.31),
        (0, 0, -1.31),
        *[(x, y, 1.31 + z) for x, y, z in ammonia],
        *[(x, y, -1.31 - z) for x, y, z in ammonia],
    ]
    found.append(("N2H7+", 1, Atoms("HN2H6", places), [(0, 1), (0, 2), (1, 3), (1, 4), (1, 5), (2, 6), (2, 7), (2, 8)]))
    ring = [(0.51 * np.cos(np.radians(a)), 0.51 * np.sin(np.radians(a)), 0) for a in (90, 210, 330)]
    found.append(("H3+", 1, Atoms("H3", ring), [(0, 1), (1, 2), (0, 2)]))
    ethyl = [
        (0, 0, 0.69),
        (0, 0, -0.69),
        (1.1, 0, 0),
        (-0.1, 0.94, 1.25),
        (-0.1, -0.94, 1.25),
        (-0.1, 0.94, -1.25),
        (-0.1, -0.94, -1.25),
    ]
    found.append(("C2H5+ bridged", 1, Atoms("C2H5", ethyl), [(0, 1), (0, 2), (1, 2), (0, 3), (0, 4), (1, 5), (1, 6)]))
    found.append(
        (
            "B2H7-",
            -1,
            Atoms(
                "HB2H6",
                [
                    (0, 0, 0.2),
                    (0, 0, 1.4),
                    (0, 0, -1.2),
                    *[(1.19 * x / 0.94, 1.19 * y / 0.94, 1.4 + z) for x, y, z in ammonia],
                    *[(1.19 * x / 0.94, 1.19 * y / 0.94, -1.2 - z) for x, y, z in ammonia],
                ],
            ),
            [(0, 1), (0, 2), (1, 3), (1, 4), (1, 5), (2, 6), (2, 7), (2, 8)],
        )
    )
    return found


def ideal(entry: str) -> tuple[str, MolGraph, np.ndarray]:
    """Name, graph and positions [Å] of an entry of SMALL."""
    centre, charge, rest = entry.split(" ", 2)
    shape = next(name for name in sorted(SHAPES, key=len, reverse=True) if rest.startswith(name + " "))
    ligands = rest.removeprefix(shape).split()
    table = Chem.GetPeriodicTable()
    symbols, places, bonds = [centre], [np.zeros(3)], []
    for ligand, direction in zip(ligands, SHAPES[shape], strict=True):
        symbol = "O" if ligand == "OH" else ligand
        unit = np.array(direction, dtype=float) / np.linalg.norm(direction)
        length = 0.98 * (table.GetRcovalent(centre) + table.GetRcovalent(symbol))
        bonds.append((0, len(symbols)))
        symbols.append(symbol)
        places.append(length * unit)
        if ligand == "OH":
            aside = np.cross(unit, (0.36, 0.48, 0.8))
            bonds.append((len(symbols) - 1, len(symbols)))
            symbols.append("H")
            places.append(places[-1] + 0.3 * unit + 0.92 * aside / np.linalg.norm(aside))
    # the charge stands on the central atom, bonds are single: only the sum and the pairs matter here
    charges = [int(charge), *[0] * (len(symbols) - 1)]
    numbers = [ATOMIC_NUMBERS[symbol] for symbol in symbols]
    name = f"{centre} {shape} {' '.join(ligands)} {int(charge):+d}"
    return name, make_graph(numbers, bonds, np.ones(len(bonds)), charges), np.array(places)


def relaxed(engine: Engine, graph: MolGraph, positions: np.ndarray, *, bridges: bool = False) -> np.ndarray | None:
    """The minimum [Å] that the engine finds, None if bonds are not those of the graph there.

    Args:
        engine: whose minimum is sought.
        graph: the molecule.
        positions: where the search begins [Å].
        bridges: whether bonds may be as long as those of bridging hydrogen, and other atoms close to each other.
    """
    batch = make_batch(
        [graph.atomic_numbers], [positions], charges=[graph.charge], multiplicities=[1], dtype=torch.float64
    )
    found = relax(engine_forces(engine), batch, fmax=FMAX, max_steps=MAX_STEPS, bonds=[graph.bonds])
    place = np.asarray(found.positions[0])[: graph.n_atoms]
    forces = engine_forces(engine)(
        make_batch([graph.atomic_numbers], [place], charges=[graph.charge], multiplicities=[1], dtype=torch.float64)
    )[1]
    is_minimum = bool(np.isfinite(place).all()) and float(forces.abs().max()) < 5 * FMAX
    if not is_minimum:
        return None
    if bridges:
        radii = np.array([Chem.GetPeriodicTable().GetRcovalent(number) for number in graph.atomic_numbers.tolist()])
        lengths = np.linalg.norm(place[graph.bonds[:, 0]] - place[graph.bonds[:, 1]], axis=1)
        return place if (lengths < LONGEST * radii[graph.bonds].sum(axis=1)).all() else None
    return place if bonds_intact(graph, place).intact else None


SHAPE_OF: Final = {
    (2, 3): "linear", (3, 2): "T", (4, 1): "seesaw", (4, 2): "square", (5, 0): "bipyramid", (5, 1): "square pyramid",
    (6, 0): "octahedron",
}  # fmt: skip
"""Shape by the numbers of ligands and lone pairs."""

SEATS: Final = {symbol: rank for rank, symbol in enumerate("Si C S Se H P I Br N Cl O F".split())}
"""Order in which ligands take the equatorial or apical places."""


def rough(graph: MolGraph, seed: int) -> np.ndarray | None:
    """A geometry [Å] of distance geometry with the ideal shapes of hypervalent atoms, and no other check."""
    mol = to_rdkit(graph)
    parameters = rdDistGeom.ETKDGv3()
    parameters.randomSeed, parameters.useRandomCoords, parameters.enforceChirality = seed, True, False
    parameters.ignoreSmoothingFailures = True
    centre = next((atom for atom in mol.GetAtoms() if shape_of(atom) is not None), None)
    if centre is not None:
        places = {centre.GetIdx(): Point3D(0, 0, 0)}
        choose = random.Random(seed)
        bonds = sorted(centre.GetBonds(), key=lambda bond: choose.random())
        ligands = {
            (bond.GetOtherAtom(centre).GetSymbol(), bond.GetOtherAtom(centre).GetFormalCharge()) for bond in bonds
        }
        if ("N", 1) in ligands:
            bonds.sort(key=lambda bond: bond.GetOtherAtom(centre).GetSymbol() != "O")  # silatranes: N opposite to R
        elif seed % 2 == 0:
            bonds.sort(
                key=lambda bond: (bond.GetBondTypeAsDouble() < 2, SEATS.get(bond.GetOtherAtom(centre).GetSymbol(), 0))
            )
        table = Chem.GetPeriodicTable()
        for bond, direction in zip(bonds, SHAPES[shape_of(centre) or ""], strict=True):
            other = bond.GetOtherAtom(centre)
            length = 0.98 * (table.GetRcovalent(centre.GetAtomicNum()) + table.GetRcovalent(other.GetAtomicNum()))
            places[other.GetIdx()] = Point3D(*(length * np.array(direction) / np.linalg.norm(direction)))
        parameters.SetCoordMap(places)
    return mol.GetConformer().GetPositions() if rdDistGeom.EmbedMolecule(mol, parameters) >= 0 else None


def shape_of(atom: Chem.Atom) -> str | None:
    """Shape of the bonds of an atom that distance geometry does not know, None for other atoms."""
    electrons = Chem.GetPeriodicTable().GetNOuterElecs(atom.GetAtomicNum()) - atom.GetFormalCharge()
    order = sum(bond.GetBondTypeAsDouble() for bond in atom.GetBonds())
    return SHAPE_OF.get((atom.GetDegree(), int(electrons - order) // 2))


def frame(graph: MolGraph, positions: np.ndarray, name: str, smiles: str, is_relaxed: bool) -> Atoms:
    """What is written."""
    atoms = Atoms([CHEMICAL_SYMBOLS[number] for number in graph.atomic_numbers.tolist()], positions)
    atoms.info = {"charge": graph.charge, "name": name, "relaxed": is_relaxed} | ({"smiles": smiles} if smiles else {})
    return atoms


def main() -> None:
    """Builds, relaxes and writes all of them, and prints what failed."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    RDLogger.DisableLog("rdApp.*")
    engine, frames = aimnet2_engine(member=0), []
    built = [ideal(entry) for line in SMALL.splitlines() for entry in line.split(";")]
    for name, charge, atoms, bonds in explicit():
        charges = [charge, *[0] * (len(atoms) - 1)]
        built.append((name, make_graph(atoms.numbers, bonds, np.ones(len(bonds)), charges), atoms.positions))
    for name, graph, positions in built:
        if (int(graph.atomic_numbers.sum()) - graph.charge) % 2:
            raise AssertionError(f"{name} has an odd number of electrons")
        place = relaxed(engine, graph, positions, bridges=True)
        if place is None:
            print(f"not a minimum of AIMNet2, kept as written: {name}")
        frames.append(frame(graph, positions if place is None else place, name, "", place is not None))
    seen: set[str] = set()
    for smiles in with_smiles():
        try:
            graph = graph_from_smiles(smiles)
        except PhysConError as error:
            print(f"not readable: {smiles}: {error}")
            continue
        canonical = canonical_smiles(graph)
        if canonical in seen:
            continue
        seen.add(canonical)
        starts = (rough(graph, seed) for seed in range(ATTEMPTS))
        place = next((found for start in starts if start is not None
                      and (found := relaxed(engine, graph, start)) is not None), None)  # fmt: skip
        if place is None:
            print(f"no minimum with these bonds: {smiles}")
        else:
            frames.append(frame(graph, place, canonical, canonical, True))
    write(OUTPUT, frames, format="extxyz")
    print(f"{len(frames)} geometries")


if __name__ == "__main__":
    main()

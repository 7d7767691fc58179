"""Writes a store of complexes of two or more molecules, labelled with AIMNet2 (the four networks in turn).

    PHYSCON_AIMNET2=WHEEL python recipes/physcon-2/pairs.py stores/pairs.h5 --n 60000
    PHYSCON_AIMNET2=WHEEL python recipes/physcon-2/pairs.py /tmp/pairs.h5 --n 200 --xyz /tmp/pairs.xyz
    PHYSCON_AIMNET2=WHEEL python recipes/physcon-2/pairs.py stores/halides.h5 --n 10000 --often chloride bromide
    PHYSCON_AIMNET2=WHEEL python recipes/physcon-2/pairs.py stores/more.h5 --with recipes/physcon-2/fragments.smi
    PHYSCON_AIMNET2=WHEEL python recipes/physcon-2/pairs.py ions.h5 --with recipes/physcon-2/charged.smi --often ions

The molecules of monomers.smi are embedded and relaxed once, in up to `N_CONFORMERS` conformers: with MMFF94, and with
one AIMNet2 network where MMFF94 has no parameters or the molecule is small. Each geometry is of one of these kinds,
drawn with `KINDS`:

    any              two molecules in any orientation
    hydrogen bond    a hydrogen on N, O, S, halogen or charged carbon points to an acceptor
    ion pair         a cation and an anion in any orientation, or with a hydrogen bond where the cation has a donor
    stacking         two planar rings, parallel up to some degrees, the second slid aside
    halogen bond     Cl, Br or I points along its bond to an acceptor
    water cluster    3 to 6 water molecules, each hydrogen bonded to one before it
    solvated         a molecule of up to 20 atoms with 2 to 4 water molecules

Each molecule is displaced as at up to 400 K. Then the second one is shifted along the line of approach until the
smallest ratio of an interatomic distance to the sum of van der Waals radii is a drawn multiple of the contact ratio of
its kind (`CONTACT`): most multiples are 0.9 to 1.3, all 0.8 to 2.5. A geometry in which bonds of the joint graph were
broken or formed is drawn again, in whole. Geometry number i depends on the seed, i, monomers.smi, and the options
--with, --often and --max-atoms only.

The key hash of a geometry is the smallest of its molecules': if any of them is a test molecule it is in the test split,
else if any is a validation molecule in the validation split. Interrupted runs continue.
"""

import argparse
import functools
import itertools
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Final

import numpy as np
from ase import Atoms
from ase.io import write
from hypervalent import relaxed
from rdkit import Chem

from physcon_ase.chem.compare import bonds_intact
from physcon_ase.chem.conformers import embed, mmff94_minimize
from physcon_ase.chem.graph import MolGraph, make_graph
from physcon_ase.chem.smiles import canonical_key, graph_from_smiles, to_rdkit
from physcon_ase.data.split import key_hash, split_of
from physcon_ase.errors import MissingParametersError, PhysConError
from physcon_ase.labelling.displacements import hessian_factor, thermal_displacements
from physcon_ase.labelling.engines import Engine, aimnet2_engine, engine_by_name
from physcon_ase.labelling.geometries import Geometry
from physcon_ase.labelling.inputs import KnownGeometry
from physcon_ase.labelling.pipeline import format_labelling_report, label
from physcon_ase.labelling.samplers import Origin
from physcon_ase.labelling.samplings import Sampling
from physcon_ase.units import CHEMICAL_SYMBOLS

MONOMERS: Final = Path(__file__).parent / "monomers.smi"
N_CONFORMERS: Final = 4
MAX_KELVIN: Final = 400.0
SMALL: Final = 10
"""Atoms of the largest molecule whose minimum is not left to MMFF94."""
MAX_SOLUTE: Final = 20
"""Atoms of the largest molecule that gets water molecules."""

KINDS: Final = {
    "any": 0.34, "hydrogen bond": 0.24, "ion pair": 0.08, "stacking": 0.10, "halogen bond": 0.08, "water cluster": 0.04,
    "solvated": 0.12,
}  # fmt: skip
"""Shares of the kinds."""

CONTACT: Final = {"any": 1.0, "hydrogen bond": 0.75, "ion pair": 0.85, "stacking": 1.0, "halogen bond": 0.87}
"""Smallest ratio of distance to van der Waals radii at the contact distance."""

NEAREST, NEAR, FAR, FARTHEST = 0.8, 0.9, 1.3, 2.5
"""Bounds of the drawn multiples of the contact ratio."""

OFTEN: Final = 40
"""How many times as often as others the molecules of --often are drawn."""

IONS: Final = "ions"
"""Name of all charged molecules in --often."""

TRIES: Final = 50
"""Draws of one geometry before the kind is drawn anew."""

_TABLE: Final = Chem.GetPeriodicTable()
_RADII: Final = np.array([0.0, *(_TABLE.GetRvdw(number) for number in range(1, 54))])
"""Van der Waals radius [Å] by atomic number."""


@dataclass(frozen=True)
class Monomer:
    """A molecule with everything that is needed to place it."""

    name: str
    """Its name in monomers.smi."""
    smiles: str
    """SMILES."""
    key_hash: int
    """`split.key_hash`."""
    graph: MolGraph
    """The molecule."""
    conformers: tuple[np.ndarray, ...]
    """Positions [Å]."""
    factors: tuple[np.ndarray, ...]
    """`hessian_factor` of each conformer."""
    donors: tuple[tuple[int, int], ...]
    """Heavy atom and hydrogen that donates."""
    acceptors: tuple[int, ...]
    """Atoms with a lone pair that accepts."""
    halogens: tuple[tuple[int, int], ...]
    """Neighbour and halogen of halogen bonds."""
    rings: tuple[tuple[int, ...], ...]
    """Atoms of each flat ring."""

    @property
    def charge(self) -> int:
        """Total charge [e]."""
        return self.graph.charge


_DONOR: Final = Chem.MolFromSmarts("[#7,#8,#16,F,Cl,Br,I,Se,$([c,C]~[n+,N+]),$(C#*)]~[#1]")
_ACCEPTOR: Final = Chem.MolFromSmarts(
    "[$([NX3;+0;!$(N~[C,S,c]=,:[O,S,N,c]);!$([NX3](~O)~O);!$([nX3])]),$([nX2,NX2,NX1;!+]),$([OX1,OX2,oX2,OX0;!+]),"
    "$([SX1,SX2,SX0;!+]),$([SeX2,PX3,AsX3;!+]),$([F,Cl,Br,I;X0;-]),$([F,Cl,Br,I;X1]),$([C-]),$([N-]),$([n-]),$([O-])]"
)
_SIGMA_HOLE: Final = Chem.MolFromSmarts("[#6,#7,#17,#35,#53]~[Cl,Br,I;X1]")


def read_monomers(*paths: Path) -> list[Monomer]:
    """All molecules of the lists that can be embedded."""
    engine, found = aimnet2_engine(member=0), []
    for line in itertools.chain.from_iterable(path.read_text().splitlines() for path in paths):
        if line and not line.startswith("#"):
            smiles, name = line.split()
            try:
                found.append(monomer(smiles, name, engine))
            except PhysConError as error:
                print(f"{name} {smiles} left out: {error}")
    return found


def monomer(smiles: str, name: str, engine: Engine) -> Monomer:
    """A molecule with its conformers; the engine relaxes those that MMFF94 does not know."""
    graph = graph_from_smiles(smiles)
    starts = embed(graph, n=1 if graph.n_atoms < 6 else N_CONFORMERS, seed=0)
    conformers = [_minimum(graph, place, engine) for place in starts]
    mol = to_rdkit(graph)
    rings = [ring for ring in mol.GetRingInfo().AtomRings() if all(mol.GetAtomWithIdx(i).GetIsAromatic() for i in ring)]
    return Monomer(
        name=name,
        smiles=smiles,
        key_hash=key_hash(canonical_key(graph)),
        graph=graph,
        conformers=tuple(conformers),
        factors=tuple(hessian_factor(graph, place) for place in conformers),
        donors=tuple(mol.GetSubstructMatches(_DONOR, uniquify=False)),
        acceptors=tuple(match[0] for match in mol.GetSubstructMatches(_ACCEPTOR)),
        halogens=tuple(mol.GetSubstructMatches(_SIGMA_HOLE, uniquify=False)),
        rings=tuple(rings),
    )


def _minimum(graph: MolGraph, place: np.ndarray, engine: Engine) -> np.ndarray:
    if graph.n_atoms == 1:
        return place
    is_known = True
    try:
        found = mmff94_minimize(graph, place).positions
    except MissingParametersError:
        found, is_known = place, False
    if graph.n_atoms <= SMALL or not is_known:  # bonds of N2, CO2, SO3 are far too long in MMFF94
        better = relaxed(engine, graph, found)
        found = found if better is None else better
    return found if bonds_intact(graph, found).intact else place


@dataclass(frozen=True)
class Stock:
    """The molecules by what they can do, as indices."""

    monomers: tuple[Monomer, ...]
    donors: tuple[int, ...]
    acceptors: tuple[int, ...]
    halogens: tuple[int, ...]
    rings: tuple[int, ...]
    cations: tuple[int, ...]
    anions: tuple[int, ...]
    solutes: tuple[int, ...]
    any: tuple[int, ...]
    water: int


def stock_of(monomers: list[Monomer], often: Sequence[str] = ()) -> Stock:
    """The stock of these molecules, one of which is named water.

    Those with names in `often`, and with `IONS` among them all ions, count `OFTEN` times.
    """
    times = np.array([OFTEN if m.name in often or (m.charge and IONS in often) else 1 for m in monomers])

    def where(is_so: list[bool]) -> tuple[int, ...]:
        return tuple(np.repeat(np.arange(len(monomers)), times * is_so).tolist())

    return Stock(
        monomers=tuple(monomers),
        any=where([True] * len(monomers)),
        donors=where([bool(m.donors) for m in monomers]),
        acceptors=where([bool(m.acceptors) for m in monomers]),
        halogens=where([bool(m.halogens) for m in monomers]),
        rings=where([bool(m.rings) for m in monomers]),
        cations=where([m.charge > 0 for m in monomers]),
        anions=where([m.charge < 0 for m in monomers]),
        solutes=where([m.graph.n_atoms <= MAX_SOLUTE and m.name != "water" for m in monomers]),
        water=next(index for index, m in enumerate(monomers) if m.name == "water"),
    )


# ---- geometry


def displaced(own: Monomer, generator: np.random.Generator) -> np.ndarray:
    """A conformer [Å], displaced as at a random temperature, about its centre."""
    which = int(generator.integers(len(own.conformers)))
    place = own.conformers[which]
    if own.graph.n_atoms > 1:
        (place,) = thermal_displacements(place, own.factors[which], generator, 1, max_kelvin=MAX_KELVIN)
    return place - place.mean(axis=0)


def rotation(generator: np.random.Generator) -> np.ndarray:
    """A rotation matrix, all equally likely."""
    w, x, y, z = (q := generator.normal(size=4)) / np.linalg.norm(q)
    return np.array([
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ])  # fmt: skip


def turning(onto: np.ndarray, generator: np.random.Generator, start: np.ndarray) -> np.ndarray:
    """A rotation matrix R with R start parallel to `onto`, the angle about it random."""
    first, second = _frame(start, generator), _frame(onto, generator)
    return second.T @ first


def _frame(axis: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Three orthonormal rows, right-handed, the first along the axis."""
    first = axis / max(np.linalg.norm(axis), 1e-9)
    second = np.cross(first, generator.normal(size=3))
    second /= np.linalg.norm(second)
    return np.stack([first, second, np.cross(first, second)])


def tilted(axis: np.ndarray, most: float, generator: np.random.Generator) -> np.ndarray:
    """A unit vector within an angle [degrees] of the axis."""
    angle = np.radians(most) * np.sqrt(generator.uniform())
    first, second, _ = _frame(axis, generator)
    return np.cos(angle) * first + np.sin(angle) * second


def approached(
    fixed: np.ndarray,
    moving: np.ndarray,
    direction: np.ndarray,
    fixed_radii: np.ndarray,
    moving_radii: np.ndarray,
    ratio: float,
) -> np.ndarray:
    """`moving` shifted along the unit vector `direction`, so far that the smallest distance / radii is `ratio`.

    The shift is the largest root t of |m + t u - f| = ratio (r_f + r_m) over all pairs of atoms.
    """
    apart = moving[None] - fixed[:, None]  # (fixed, moving, 3)
    along = apart @ direction
    reach = ratio * (fixed_radii[:, None] + moving_radii[None])
    inside = along**2 - (apart**2).sum(axis=2) + reach**2
    roots = np.where(inside >= 0, np.sqrt(np.maximum(inside, 0)) - along, -np.inf)
    return moving + roots.max() * direction


def multiple(generator: np.random.Generator) -> float:
    """How many times the contact ratio: most near 1, some nearer, a tail to FARTHEST."""
    share = generator.uniform()
    if share < 0.15:
        return float(generator.uniform(NEAREST, NEAR))
    if share < 0.78:
        return float(generator.uniform(NEAR, FAR))
    return float(FAR + (FARTHEST - FAR) * generator.uniform() ** 1.5)


def lone_pair(own: Monomer, place: np.ndarray, atom: int, generator: np.random.Generator) -> np.ndarray:
    """Direction away from the neighbours of an atom; any for one without, or between two opposite ones."""
    bonds = own.graph.bonds
    neighbours = [int(pair[1 - column]) for column in (0, 1) for pair in bonds[bonds[:, column] == atom]]
    if not neighbours:
        return generator.normal(size=3)
    away = sum((place[atom] - place[n]) / np.linalg.norm(place[atom] - place[n]) for n in neighbours)
    return np.asarray(away) if np.linalg.norm(away) > 0.2 else generator.normal(size=3)


# ---- placing the second of two molecules; each returns its positions


def place_any(a: Monomer, at: np.ndarray, b: Monomer, ratio: float, generator: np.random.Generator) -> np.ndarray:
    """`b` in any orientation, from any side of a random atom of those around `a`."""
    moving = displaced(b, generator) @ rotation(generator).T
    moving = moving + at[int(generator.integers(len(at)))] - moving[int(generator.integers(len(moving)))]
    return approached(at, moving, tilted(np.array([0, 0, 1.0]), 180, generator), _radii(a), _radii(b), ratio)


def place_pointed(
    a: Monomer,
    at: np.ndarray,
    hand: tuple[int, int],
    b: Monomer,
    ratio: float,
    tilt: float,
    generator: np.random.Generator,
) -> np.ndarray:
    """An acceptor of `b` on the line of a bond of `a`, such as D-H, up to a tilt [degrees] on both sides."""
    moving = displaced(b, generator)
    acceptor = int(generator.choice(b.acceptors))
    axis = tilted(at[hand[1]] - at[hand[0]], tilt, generator)
    inward = tilted(-axis, 1.6 * tilt, generator)
    moving = moving @ turning(inward, generator, lone_pair(b, moving, acceptor, generator)).T
    moving = moving + at[hand[1]] - moving[acceptor]
    return approached(at, moving, axis, _radii(a), _radii(b), ratio)


def place_donor(a: Monomer, at: np.ndarray, b: Monomer, ratio: float, generator: np.random.Generator) -> np.ndarray:
    """A donor of `b` that points to an acceptor of `a`."""
    moving = displaced(b, generator)
    acceptor, (heavy, hydrogen) = int(generator.choice(a.acceptors)), _one(b.donors, generator)
    axis = tilted(lone_pair(a, at, acceptor, generator), 60, generator)
    moving = moving @ turning(tilted(-axis, 25, generator), generator, moving[hydrogen] - moving[heavy]).T
    moving = moving + at[acceptor] - moving[hydrogen]
    return approached(at, moving, axis, _radii(a), _radii(b), ratio)


def place_stacked(a: Monomer, at: np.ndarray, b: Monomer, ratio: float, generator: np.random.Generator) -> np.ndarray:
    """A ring of `b` above one of `a`, turned, slid by up to 2.5 Å and tilted by up to 15 degrees."""
    moving = displaced(b, generator)
    below, above = list(_one(a.rings, generator)), list(_one(b.rings, generator))
    normal = _normal(at[below]) * generator.choice((-1, 1))
    own = _normal(moving[above]) * generator.choice((-1, 1))
    moving = moving @ turning(tilted(normal, 15, generator), generator, own).T
    aside = np.cross(normal, generator.normal(size=3))
    slid = at[below].mean(axis=0) + 2.5 * np.sqrt(generator.uniform()) * aside / np.linalg.norm(aside)
    moving = moving + slid - moving[above].mean(axis=0)
    return approached(at, moving, normal, _radii(a), _radii(b), ratio)


def _normal(ring: np.ndarray) -> np.ndarray:
    return np.linalg.svd(ring - ring.mean(axis=0))[2][2]


def _one(options: tuple, generator: np.random.Generator) -> tuple:
    return options[int(generator.integers(len(options)))]


def _radii(own: Monomer) -> np.ndarray:
    return _RADII[own.graph.atomic_numbers]


# ---- kinds; each returns indices of the molecules and their positions

Placed = tuple[list[int], list[np.ndarray]]


def draw(kind: str, stock: Stock, generator: np.random.Generator) -> Placed:
    """Molecules and positions of one kind."""
    if kind == "water cluster":
        return with_water(stock, stock.water, int(generator.integers(2, 6)), generator)
    if kind == "solvated":
        return with_water(stock, _pick(stock.solutes, generator), int(generator.integers(2, 5)), generator)
    ratio = CONTACT[kind] * multiple(generator)
    if kind == "stacking":
        first, second = _pick(stock.rings, generator), _pick(stock.rings, generator)
    elif kind == "halogen bond":
        first, second = _pick(stock.halogens, generator), _pick(stock.acceptors, generator)
    elif kind == "hydrogen bond":
        first, second = _pick(stock.donors, generator), _pick(stock.acceptors, generator)
    elif kind == "ion pair":
        first, second = _pick(stock.cations, generator), _pick(stock.anions, generator)
    else:
        first, second = (stock.any[int(index)] for index in generator.integers(len(stock.any), size=2))
    if stock.monomers[first].charge * stock.monomers[second].charge > 0:  # ions of one sign repel each other: redrawn
        return draw(kind, stock, generator)
    a, b = stock.monomers[first], stock.monomers[second]
    at = displaced(a, generator)
    if kind == "stacking":
        other = place_stacked(a, at, b, ratio, generator)
    elif kind == "halogen bond":
        other = place_pointed(a, at, _one(a.halogens, generator), b, ratio, 20, generator)
    elif kind == "hydrogen bond" or (kind == "ion pair" and a.donors and b.acceptors and generator.uniform() < 0.5):
        other = place_pointed(a, at, _one(a.donors, generator), b, ratio, 25, generator)
    else:
        other = place_any(a, at, b, ratio, generator)
    return [first, second], [at, other]


def drawn_kind(stock: Stock, generator: np.random.Generator) -> str:
    """One of the kinds for which there are molecules."""
    lacking = {"stacking": not stock.rings, "halogen bond": not stock.halogens, "ion pair": not stock.cations}
    shares = {kind: 0.0 if lacking.get(kind) else share for kind, share in KINDS.items()}
    total = sum(shares.values())
    return str(generator.choice(list(shares), p=[share / total for share in shares.values()]))


def with_water(stock: Stock, first: int, n: int, generator: np.random.Generator) -> Placed:
    """A molecule with `n` water molecules, each beside one that is there already, and apart from all others."""
    water, indices, places = stock.monomers[stock.water], [first], [displaced(stock.monomers[first], generator)]
    for _ in range(n):
        beside = 0 if generator.uniform() < 0.6 else int(generator.integers(len(places)))
        own, at = stock.monomers[indices[beside]], places[beside]
        ratio = CONTACT["hydrogen bond"] * float(np.clip(multiple(generator), 0.85, 1.6))
        ways = (
            ["any"] * (not own.donors and not own.acceptors)
            + ["donor"] * bool(own.acceptors)
            + ["taker"] * bool(own.donors)
        )
        way = ways[int(generator.integers(len(ways)))] if generator.uniform() > 0.1 else "any"
        if way == "donor":
            place = place_donor(own, at, water, ratio, generator)
        elif way == "taker":
            place = place_pointed(own, at, _one(own.donors, generator), water, ratio, 25, generator)
        else:
            place = place_any(own, at, water, ratio / CONTACT["hydrogen bond"], generator)
        for other, there in zip(indices, places, strict=True):
            apart = np.linalg.norm(place[:, None] - there[None], axis=2)
            reach = _radii(water)[:, None] + _radii(stock.monomers[other])[None]
            if (apart < 0.6 * reach).any():
                return with_water(stock, first, n, generator)
        indices.append(stock.water)
        places.append(place)
    return indices, places


def _pick(options: tuple[int, ...], generator: np.random.Generator) -> int:
    return options[int(generator.integers(len(options)))]


# ---- geometries with their graphs


@functools.lru_cache(maxsize=4096)
def joint_graph(graphs: tuple[int, ...], stock_id: int) -> MolGraph:
    """The graph of these molecules of the stock `_STOCKS[stock_id]`, in their order."""
    parts = [_STOCKS[stock_id].monomers[index].graph for index in graphs]
    shifts = np.cumsum([0, *(part.n_atoms for part in parts[:-1])]).tolist()
    together = list(zip(parts, shifts, strict=True))
    return make_graph(
        np.concatenate([part.atomic_numbers for part in parts]),
        np.concatenate([part.bonds + shift for part, shift in together]),
        np.concatenate([part.bond_orders for part in parts]),
        np.concatenate([part.formal_charges for part in parts]),
        tetrahedra=np.concatenate([part.tetrahedra + shift for part, shift in together]),
        double_bonds=np.concatenate([part.double_bonds + shift for part, shift in together]),
        double_bond_is_cis=np.concatenate([part.double_bond_is_cis for part in parts]),
    )


_STOCKS: Final[dict[int, Stock]] = {}


def geometry(index: int, seed: int, stock: Stock) -> tuple[KnownGeometry, int]:
    """Geometry number `index` of a seed, and how many were drawn before it and refused."""
    generator = np.random.default_rng([seed, index])
    _STOCKS[id(stock)] = stock
    refused = 0
    while True:
        kind = drawn_kind(stock, generator)
        for _ in range(TRIES):
            indices, places = draw(kind, stock, generator)
            graph = joint_graph(tuple(indices), id(stock))
            positions = np.concatenate(places)
            positions = (
                (positions - positions.mean(axis=0)).astype(np.float32).astype(np.float64)
            )  # as a store has them
            if bonds_intact(graph, positions).intact:
                parts = [stock.monomers[number] for number in indices]
                return KnownGeometry(
                    graph,
                    positions,
                    min(part.key_hash for part in parts),
                    ".".join(part.smiles for part in parts),
                    f"{kind}: {' + '.join(part.name for part in parts)}",
                ), refused
            refused += 1


def placed(origin: Origin, seed: int, n: int) -> list[Geometry]:
    """The geometry itself (kind "pair"), which the pipeline checks once more."""
    assert origin.given is not None
    return [("pair", origin.given)]


def write_xyz(path: Path, geometries: list[KnownGeometry]) -> None:
    """The geometries as extended XYZ, to look at."""
    frames = []
    for own in geometries:
        symbols = [CHEMICAL_SYMBOLS[number] for number in own.graph.atomic_numbers.tolist()]
        info = {"charge": own.graph.charge, "name": own.name, "smiles": own.smiles}
        frames.append(Atoms(symbols, own.positions, info=info))
    write(path, frames, format="extxyz")


def main() -> None:
    """Makes the geometries and labels them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", type=Path)
    parser.add_argument("--n", type=int, default=60_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--jobs", type=int, help="worker processes, 0 for none besides this one (default: one per core)"
    )
    parser.add_argument(
        "--engine",
        choices=("aimnet2", "aimnet2-mean", "b3lyp-d3"),
        default="aimnet2",
        help="networks in turn, their mean, or PySCF",
    )
    parser.add_argument("--with", dest="more", nargs="+", type=Path, default=[], metavar="FILE", help="further lists")
    parser.add_argument(
        "--often",
        nargs="+",
        default=[],
        metavar="NAME",
        help=f"molecules drawn {OFTEN} times as often; {IONS}: all ions",
    )
    parser.add_argument("--max-atoms", type=int, default=1000, help="of a molecule of monomers.smi that is drawn")
    parser.add_argument("--xyz", type=Path, help="write the geometries to this file, too")
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    began = perf_counter()
    monomers = [own for own in read_monomers(MONOMERS, *options.more) if own.graph.n_atoms <= options.max_atoms]
    unknown = set(options.often) - {own.name for own in monomers} - {IONS}
    if unknown:
        parser.error(f"--often: {', '.join(sorted(unknown))} not in {MONOMERS.name}, or too large")
    stock = stock_of(monomers, options.often)
    prepared = perf_counter()
    made = [geometry(index, options.seed, stock) for index in range(options.n)]
    seconds = perf_counter() - prepared
    geometries, refused = [own for own, _ in made], sum(n for _, n in made)
    print(
        f"{len(stock.monomers)} molecules in {prepared - began:.0f} s; {1000 * seconds / options.n:.1f} ms a geometry"
    )
    print(f"{refused} of {refused + len(made)} geometries drawn again, bonds broken or formed")
    print(
        dict(Counter(own.name.split(":")[0] for own in geometries)),
        dict(Counter(split_of(g.key_hash) for g in geometries)),
    )
    if options.xyz:
        write_xyz(options.xyz, geometries)
    engine = engine_by_name(options.engine)
    report = label(
        geometries,
        engine,
        [Sampling("pair", 1, placed)],
        options.store,
        seed=options.seed,
        processes=options.jobs,
        source="pairs",
        licence="CC0",
    )
    print(format_labelling_report(report, engine))


if __name__ == "__main__":
    main()

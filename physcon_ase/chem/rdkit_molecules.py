"""Molecules from files with bonds and positions: MOL and SD records, MOL2 records, PDB files, RDKit molecules."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from jaxtyping import Float, Int
from rdkit import Chem, rdBase

from physcon_ase.chem.environments import bonds_by_distance
from physcon_ase.chem.graph import MolGraph
from physcon_ase.chem.perceive import graph_from_bonds
from physcon_ase.chem.smiles import graph_from_rdkit, refuse_unsupported_stereo
from physcon_ase.errors import BondPerceptionError, StoreError
from physcon_ase.plurals import counted

_POLYMERS: Final = {"SRU", "MON", "MER", "COP", "CRO", "MOD", "GRA", "ANY"}
"""Kinds of groups of MOL files that are repeated."""

_SMALLEST_SUM: Final = {2: 150.0, 3: 345.0}
"""Smallest sum of the bond angles [°] of a carbon atom without hydrogens, by its number of neighbours."""

_TRIPLE_BOND: Final = 1.25
"""Largest length [Å] of the only bond of a carbon atom without hydrogens, to O in CO or N in isocyanides."""

_TRIPLE: Final = 3.0
"""Order of the only bond of a carbon atom that needs no hydrogen, as in CO and isocyanides."""

_FULL_VALENCE: Final = 3.5
"""Smallest sum of the bond orders of a carbon atom that needs no hydrogen."""


@dataclass(frozen=True)
class KnownMolecule:
    """A molecule with known bonds, and its positions if they are known."""

    graph: MolGraph
    """The molecule; atoms in the order of the input, followed by the hydrogens missing in the input."""
    positions: Float[np.ndarray, "atoms 3"] | None
    """Positions [Å]; None for a two-dimensional drawing."""
    name: str
    """Name in the input."""
    labels: tuple[str, ...]
    """Names of the atoms in the input; empty if they have none."""
    isotopes: dict[int, float]
    """Mass [amu] of each atom with a stated isotope, by index."""
    n_added: int
    """Number of hydrogens that the input lacks."""


def is_rdkit_molecule(molecule: object) -> bool:
    """Whether an object is an RDKit molecule."""
    return isinstance(molecule, Chem.Mol)


def known_from_rdkit(molecule: Any) -> KnownMolecule:
    """Molecule of an RDKit molecule; its first conformer gives the positions if it is three-dimensional.

    The stereochemistry is that of the positions, or without them that of the labels of atoms and bonds. Missing
    hydrogens are placed by their geometry.

    Raises:
        UnsupportedStereoError: see `refuse_unsupported_stereo`; only without positions.
        PhysConError: see `graph_from_rdkit`; a valence is impossible, or it is a query or a polymer.
    """
    mol = Chem.Mol(molecule)
    _refuse_patterns(mol)
    with rdBase.BlockLogs():
        try:
            Chem.SanitizeMol(mol)
        except Chem.MolSanitizeException as error:
            raise BondPerceptionError(f"invalid bonds or charges: {error}; correct the molecule") from error
        has_positions = _has_positions(mol)
        full = Chem.AddHs(mol, addCoords=has_positions)
    if not has_positions:
        refuse_unsupported_stereo(mol)
    graph, positions = graph_from_rdkit(full), None
    if has_positions:
        positions = full.GetConformer().GetPositions()
        fields = (graph.atomic_numbers, graph.bonds, graph.bond_orders, graph.formal_charges)
        graph = graph_from_bonds(*fields, isotopes=graph.isotopes, positions=positions)
    return KnownMolecule(
        graph,
        positions,
        mol.GetProp("_Name").strip() if mol.HasProp("_Name") else "",
        _labels(full),
        _isotope_masses(full),
        full.GetNumAtoms() - mol.GetNumAtoms(),
    )


def known_from_mol_block(block: str) -> KnownMolecule:
    """Molecule of a MOL block, the first part of an SD record. Raises the errors of `known_from_mol2_block`."""
    return _read(Chem.MolFromMolBlock, block, "MOL block")


def known_from_mol2_block(block: str) -> KnownMolecule:
    """Molecule of a MOL2 record.

    Raises:
        StoreError: RDKit cannot read it.
        PhysConError: see `known_from_rdkit`.
    """
    return _read(_mol_from_mol2, block, "MOL2 record")


def _mol_from_mol2(block: str, **options: bool) -> Any:
    """Molecule of a MOL2 record; where hydrogens are missing, RDKit finds charges and unpaired electrons instead.

    Raises:
        StoreError: carbon atoms lack hydrogens.
    """
    mol = Chem.MolFromMol2Block(block, **options)
    carbons = [] if mol is None else [atom for atom in mol.GetAtoms() if atom.GetAtomicNum() == 6]
    if not any(other.GetAtomicNum() == 1 for atom in carbons for other in atom.GetNeighbors()):
        orders = [[bond.GetBondTypeAsDouble() for bond in atom.GetBonds()] for atom in carbons]
        n_bare = sum(sum(own) < _FULL_VALENCE and own != [_TRIPLE] for own in orders)
        if n_bare:
            raise StoreError(
                f"{counted(n_bare, 'carbon atom')} of the MOL2 record without hydrogens: add all of them, or give an "
                "SD file"
            )
    return mol


@dataclass(frozen=True)
class PdbAtoms:
    """Atoms of a PDB file, which has no bond orders."""

    atomic_numbers: np.ndarray
    """Atomic number of each atom, [atoms]."""
    positions: np.ndarray
    """Positions [Å], [atoms, 3]."""
    charge: int
    """Sum of the charges [e] in columns 79 and 80; those that RDKit derives from the bonds are incomplete."""
    labels: tuple[str, ...]
    """Names of the atoms."""
    residue: str
    """Name of the residue of the first atom."""
    isotopes: dict[int, float]
    """Mass [amu] of each atom that is deuterium (D), by index."""


def pdb_atoms(block: str) -> PdbAtoms:
    """Atoms of one model of a PDB file; alternative locations other than "A" and "1" are left out.

    Raises:
        StoreError: RDKit cannot read it, or carbon atoms lack hydrogens.
    """
    with rdBase.BlockLogs(), rdBase.CaptureErrorLog() as log:
        mol = Chem.MolFromPDBBlock(block, sanitize=False, removeHs=False, proximityBonding=False)
    if mol is None or mol.GetNumAtoms() == 0:
        raise StoreError(f"the PDB model has no readable atoms{_last(log.messages)}; correct it")
    atoms = list(mol.GetAtoms())
    numbers = np.array([atom.GetAtomicNum() for atom in atoms])
    if (numbers == 6).any() and not (numbers == 1).any():
        raise StoreError(
            "the PDB model has no hydrogens, and without bond orders it is not known where they are missing: add them, "
            "or give an SD file"
        )
    residues, positions = [atom.GetPDBResidueInfo() for atom in atoms], mol.GetConformer().GetPositions()
    labels = tuple(residue.GetName().strip() for residue in residues)
    bare = _bare_carbons(numbers, positions)
    if len(bare):
        named = ", ".join(labels[index] for index in bare[:5])
        raise StoreError(
            f"{counted(len(bare), 'carbon atom')} of the PDB model without hydrogens "
            f"({named}{', ...' if len(bare) > 5 else ''}), perhaps because only polar ones are there: add all of them, "
            "or give an SD file"
        )
    return PdbAtoms(
        numbers,
        positions,
        _pdb_charge(block),
        labels,
        residues[0].GetResidueName().strip(),
        _isotope_masses(mol),
    )


def _pdb_charge(block: str) -> int:
    """Sum of the charges [e] of the atoms of a PDB file, such as "1-" or "+2" in columns 79 and 80."""
    fields = [line[78:80].strip() for line in block.splitlines() if line.startswith(("ATOM  ", "HETATM"))]
    charges = [re.fullmatch(r"(?P<before>[+-])?(?P<size>\d)?(?P<after>[+-])?", text) for text in fields]
    return sum(
        int(f"{own['before'] or own['after']}{own['size'] or 1}")
        for own in charges
        if own is not None and (own["before"] or own["after"])
    )


def _bare_carbons(
    atomic_numbers: Int[np.ndarray, " atoms"], positions: Float[np.ndarray, "atoms 3"]
) -> Int[np.ndarray, " carbons"]:
    """Indices of the carbon atoms whose bonds leave room for hydrogens; none if any carbon atom has a hydrogen.

    Those have one bond, to carbon or longer than a triple bond; two bonds at an angle; or three bonds out of one plane,
    as also in strained rings and carbenes, whose carbon atoms therefore only count if all lack hydrogens.
    """
    bonds, bare = bonds_by_distance(atomic_numbers, positions), []
    for index in np.flatnonzero(atomic_numbers == 6).tolist():
        neighbours = [int(pair.sum()) - index for pair in bonds if index in pair]
        if (atomic_numbers[neighbours] == 1).any():
            return np.empty(0, dtype=np.int64)
        vectors = positions[neighbours] - positions[index]
        lengths = np.linalg.norm(vectors, axis=1)
        cosines = (vectors @ vectors.T / np.outer(lengths, lengths))[np.triu_indices(len(vectors), k=1)]
        total = np.degrees(np.arccos(np.clip(cosines, -1, 1))).sum()
        is_end = len(vectors) == 1 and (atomic_numbers[neighbours[0]] == 6 or lengths[0] > _TRIPLE_BOND)
        if is_end or total < _SMALLEST_SUM.get(len(vectors), 0.0):
            bare.append(index)
    return np.array(bare, dtype=np.int64)


def _read(parse: Callable[..., Any], block: str, what: str) -> KnownMolecule:
    with rdBase.BlockLogs(), rdBase.CaptureErrorLog() as log:
        mol = parse(block, sanitize=False, removeHs=False)
        if mol is not None:
            mol = _with_stereo(mol)
    if mol is None:
        raise StoreError(f"RDKit cannot read the {what}{_last(log.messages)}; correct it")
    return known_from_rdkit(mol)


def _with_stereo(mol: Chem.Mol) -> Chem.Mol:
    """The molecule sanitised, with the stereochemistry of its wedged bonds or its positions."""
    try:
        Chem.SanitizeMol(mol)
    except Chem.MolSanitizeException as error:
        raise BondPerceptionError(f"invalid bonds or charges: {error}; correct the molecule") from error
    if mol.GetNumConformers() and mol.GetConformer().Is3D():
        Chem.AssignStereochemistryFrom3D(mol)
    else:
        Chem.AssignChiralTypesFromBondDirs(mol)
        Chem.SetDoubleBondNeighborDirections(mol, mol.GetConformer())
        Chem.AssignStereochemistry(mol, cleanIt=True, force=True)
    return mol


def _refuse_patterns(mol: Chem.Mol) -> None:
    """Refuses what stands for many molecules; RDKit reads it as one of them.

    Raises:
        StoreError: an atom is a query, as in SMARTS and files for substructure searches, or a group is repeated.
    """
    queries = [atom for atom in mol.GetAtoms() if atom.HasQuery() and atom.GetAtomicNum()]
    if queries:
        raise StoreError(
            f"atom {queries[0].GetIdx()} ({queries[0].GetSmarts()}) is a query for a substructure search, not an atom "
            "of a molecule: give a molecule, e.g. Chem.MolFromSmiles instead of MolFromSmarts"
        )
    kinds = {group.GetProp("TYPE") for group in Chem.GetMolSubstanceGroups(mol)} & _POLYMERS
    if kinds:
        raise StoreError(
            f"the molecule has a repeated group ({', '.join(sorted(kinds))}), so that its size is not known: draw all "
            "repeat units"
        )


def _has_positions(mol: Chem.Mol) -> bool:
    if not mol.GetNumAtoms() or not mol.GetNumConformers() or not mol.GetConformer().Is3D():
        return False
    positions = mol.GetConformer().GetPositions()
    return len(positions) == 1 or bool(np.ptp(positions, axis=0).any())


def _isotope_masses(mol: Chem.Mol) -> dict[int, float]:
    """Mass [amu] of each atom with a stated isotope, by index."""
    table = Chem.GetPeriodicTable()
    return {
        atom.GetIdx(): table.GetMassForIsotope(atom.GetAtomicNum(), atom.GetIsotope())
        for atom in mol.GetAtoms()
        if atom.GetIsotope()
    }


def _labels(mol: Chem.Mol) -> tuple[str, ...]:
    names = [_label(atom) for atom in mol.GetAtoms()]
    if not any(names):
        return ()
    return tuple(name or atom.GetSymbol() for name, atom in zip(names, mol.GetAtoms(), strict=True))


def _label(atom: Chem.Atom) -> str:
    if atom.HasProp("_TriposAtomName"):
        return atom.GetProp("_TriposAtomName")
    residue = atom.GetPDBResidueInfo()
    return residue.GetName().strip() if residue is not None else ""


def _last(messages: str) -> str:
    lines = [line.strip() for line in messages.splitlines() if line.strip()]
    return f" ({lines[-1]})" if lines else ""

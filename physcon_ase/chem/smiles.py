"""Conversion between SMILES, RDKit molecules and molecular graphs.

Isotopes and the stereochemistry of tetrahedral centres and double bonds are preserved. Axial chirality (allenes,
atropisomers) is not part of a `MolGraph` and is discarded.
"""

import re
from collections.abc import Iterable
from typing import Final

import numpy as np
from jaxtyping import Float, Int
from rdkit import Chem, rdBase

from physcon_ase.chem.graph import MolGraph, make_graph, neighbours_of
from physcon_ase.chem.isotopes import is_isotope
from physcon_ase.errors import (
    BondPerceptionError,
    DummyAtomError,
    FragmentsError,
    InvalidSmilesError,
    UnknownElementError,
    UnsupportedChargeError,
    UnsupportedStereoError,
)
from physcon_ase.plurals import counted
from physcon_ase.units import ATOMIC_NUMBERS

_BRACKET_SYMBOL: Final = re.compile(r"\[\d*([A-Z][a-z]?)")
"""Element symbol of a bracket atom."""

_LOG_PREFIX: Final = re.compile(r"^(\[[\d:]+\] )?(SMILES Parse Error: )?")
"""Time stamp and category of an RDKit log message."""

_ORDER_OF_TYPE: Final = {Chem.BondType.SINGLE: 1, Chem.BondType.DOUBLE: 2, Chem.BondType.TRIPLE: 3}
_TYPE_OF_ORDER: Final = {order: bond_type for bond_type, order in _ORDER_OF_TYPE.items()}
_CW, _CCW = Chem.ChiralType.CHI_TETRAHEDRAL_CW, Chem.ChiralType.CHI_TETRAHEDRAL_CCW
_OTHER_CENTRES: Final = {
    Chem.ChiralType.CHI_SQUAREPLANAR: "square planar",
    Chem.ChiralType.CHI_TRIGONALBIPYRAMIDAL: "trigonal bipyramidal",
    Chem.ChiralType.CHI_OCTAHEDRAL: "octahedral",
}
"""Shapes of centres whose configuration is not part of a `MolGraph`."""
_IS_CIS: Final = {
    Chem.BondStereo.STEREOZ: True,
    Chem.BondStereo.STEREOCIS: True,
    Chem.BondStereo.STEREOE: False,
    Chem.BondStereo.STEREOTRANS: False,
}


def graph_from_smiles(
    smiles: str, *, allow_charged: bool = True, allow_fragments: bool = False, keep_isotopes: bool = True
) -> MolGraph:
    """Molecular graph of a SMILES string.

    Atoms are in SMILES order, followed by the implicit hydrogens (the order of RDKit's `AddHs`). Unpaired electrons are
    assumed to be parallel.

    Args:
        smiles: SMILES of a molecule, or of several.
        allow_charged: whether a non-zero total charge is accepted; zwitterions always are.
        allow_fragments: whether several molecules (dots in the SMILES) are accepted.
        keep_isotopes: whether isotopes and the configuration of centres that differ by isotopes alone are kept;
            otherwise [2H] is an implicit hydrogen.

    Raises:
        InvalidSmilesError: the SMILES is empty or cannot be parsed (the message contains RDKit's reason), or it has an
            unknown isotope.
        DummyAtomError: it contains a dummy atom.
        FragmentsError: it has several fragments and `allow_fragments` is False.
        UnknownElementError: it contains an unknown element symbol.
        UnsupportedChargeError: it is charged and `allow_charged` is False.
        UnsupportedStereoError: it has the configuration of a square planar, trigonal bipyramidal or octahedral centre.
    """
    mol = _parse(smiles)
    refuse_unsupported_stereo(mol)
    if not keep_isotopes and _has_isotopes(mol):
        with rdBase.BlockLogs():
            mol = Chem.RemoveHs(_without_isotopes(mol))  # RDKit keeps deuterium as an explicit atom
    n_fragments = len(Chem.GetMolFrags(mol))
    if n_fragments > 1 and not allow_fragments:
        raise FragmentsError(
            f"SMILES {smiles!r} has {n_fragments} disconnected fragments; only one molecule is allowed: "
            "pass one of the dot-separated parts"
        )
    graph = graph_from_rdkit(mol)
    if graph.charge and not allow_charged:
        raise UnsupportedChargeError(
            f"SMILES {smiles!r} has total charge {graph.charge:+d}; only neutral molecules are allowed here: "
            "neutralise it, for instance by adding or removing protons"
        )
    return graph


def canonical_smiles(graph: MolGraph, *, stereo: bool = True) -> str:
    """RDKit's canonical SMILES, hydrogens implicit.

    Args:
        graph: the molecule.
        stereo: whether to include the stereochemistry of tetrahedral centres and double bonds.
    """
    mol = to_rdkit(graph)
    return _written(mol) if stereo else _key(mol)


def canonical_and_size(smiles: str) -> tuple[str, int]:
    """Canonical SMILES, with the stereochemistry, and number of atoms of a SMILES; cheaper than its graph.

    Raises the errors of `canonical_key`.
    """
    mol = _parse(smiles)
    return _written(mol), mol.GetNumAtoms(onlyExplicit=False)


def canonical_key(molecule: str | MolGraph) -> str:
    """Canonical SMILES without stereochemistry and isotopes; identical for all stereoisomers, used to split data.

    Unlike `graph_from_smiles`, it accepts several fragments.

    Raises:
        InvalidSmilesError: a SMILES is empty or cannot be parsed.
        DummyAtomError: it contains a dummy atom.
        UnknownElementError: it contains an unknown element symbol.
    """
    return _key(to_rdkit(molecule) if isinstance(molecule, MolGraph) else _parse(molecule))


def charge_of_smiles(smiles: str) -> int:
    """Total charge [e] of a SMILES of one or several fragments. Raises the errors of `canonical_key`."""
    return Chem.GetFormalCharge(_parse(smiles))


def atoms_of_smiles(smiles: str) -> Int[np.ndarray, " atoms"]:
    """Atomic numbers of a SMILES of one or several fragments, hydrogens included. Raises those of `canonical_key`."""
    return np.array([atom.GetAtomicNum() for atom in _explicit(_parse(smiles)).GetAtoms()], dtype=np.int64)


def undefined_stereo(molecule: str | MolGraph) -> list[str]:
    """Description of each tetrahedral centre and double bond of undefined configuration.

    Trivalent nitrogen, centres with neighbours that differ by resonance only, and cumulated double bonds are excluded.
    Bridgeheads are included even if the ring system fixes their configuration. Atom indices start at 0, as in the
    graph. Raises the same errors as `graph_from_smiles`.
    """
    mol = to_rdkit(molecule if isinstance(molecule, MolGraph) else graph_from_smiles(molecule))
    return [_stereo_description(mol, element) for element in _undefined_elements(mol)]


def undefined_centres(graph: MolGraph) -> list[int]:
    """Tetrahedral centres of undefined configuration (`undefined_stereo`)."""
    elements = _undefined_elements(to_rdkit(graph))
    return [element.centeredOn for element in elements if element.type == Chem.StereoType.Atom_Tetrahedral]


def _undefined_elements(mol: Chem.Mol) -> list[Chem.StereoInfo]:
    with rdBase.BlockLogs():
        elements = Chem.FindPotentialStereo(mol, cleanIt=False, flagPossible=True)
    return [
        element
        for element in elements
        if element.specified == Chem.StereoSpecified.Unspecified and _is_checked(mol, element)
    ]


def graph_from_rdkit(mol: Chem.Mol) -> MolGraph:
    """Graph of a sanitised RDKit molecule; the atom order is kept and implicit hydrogens are appended.

    Raises:
        DummyAtomError: the molecule contains a dummy atom.
        InvalidSmilesError: it has no atoms, an unknown isotope, or bonds other than single, double, triple and aromatic
            ones.
    """
    mol = _explicit(mol)
    kekulized = Chem.Mol(mol)
    Chem.Kekulize(kekulized)
    ends = [(bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()) for bond in mol.GetBonds()]
    return make_graph(
        np.array([atom.GetAtomicNum() for atom in mol.GetAtoms()]),
        np.array(ends),
        np.array([_order(bond) + 10 * bond.GetIsAromatic() for bond in kekulized.GetBonds()]),
        np.array([atom.GetFormalCharge() for atom in mol.GetAtoms()]),
        isotopes=np.array([_isotope(atom) for atom in mol.GetAtoms()]),
        multiplicity=multiplicity_of_rdkit(mol),
        **stereo_of_rdkit(mol),
    )


def to_rdkit(graph: MolGraph, positions: Float[np.ndarray, "atoms 3"] | None = None) -> Chem.Mol:
    """Sanitised RDKit molecule with explicit hydrogens, in the atom order of the graph and with its stereo labels.

    Args:
        graph: the molecule.
        positions: positions [Å] of its only conformer, stored in double precision; no conformer if not given.

    Raises:
        BondPerceptionError: RDKit rejects the bonds as chemically impossible.
        UnknownElementError: an atomic number is not that of an element.
    """
    mol = rdkit_from_bonds(graph.atomic_numbers, graph.bonds, graph.bond_orders, graph.formal_charges)
    set_isotopes(mol, graph.isotopes)
    if len(graph.tetrahedra) or len(graph.double_bonds):
        _set_tetrahedra(mol, graph)
        _set_double_bonds(mol, graph)
        # AssignStereochemistry re-derives double bond stereo from the directions of the adjacent single bonds.
        with rdBase.BlockLogs():
            Chem.SetDoubleBondNeighborDirections(mol)
            Chem.AssignStereochemistry(mol, cleanIt=True, force=True)
    if positions is not None:
        set_positions(mol, positions)
    return mol


def stereocentres(graph: MolGraph) -> list[int]:
    """Central atom of each of `MolGraph.tetrahedra`."""
    neighbours, centres = list(map(set, neighbours_of(graph))), []
    for a, b, c, d in graph.tetrahedra.tolist():
        is_own_corner = neighbours[d] == {a, b, c}
        centres.append(d if is_own_corner else next(n for n in neighbours[a] if neighbours[n] == {a, b, c, d}))
    return centres


def rdkit_from_bonds(
    atomic_numbers: np.ndarray, bonds: np.ndarray, bond_orders: np.ndarray, formal_charges: np.ndarray
) -> Chem.Mol:
    """Sanitised RDKit molecule without stereo labels. Arguments as in `MolGraph`; raises the errors of `to_rdkit`."""
    mol = Chem.RWMol()
    for number, charge in zip(atomic_numbers.tolist(), formal_charges.tolist(), strict=True):
        if not 1 <= number <= len(ATOMIC_NUMBERS):
            raise UnknownElementError(
                f"unknown atomic number {number}; allowed are 1 to {len(ATOMIC_NUMBERS)}: correct the input"
            )
        atom = Chem.Atom(number)
        atom.SetFormalCharge(charge)
        atom.SetNoImplicit(True)
        mol.AddAtom(atom)
    for (first, second), order in zip(bonds.tolist(), bond_orders.tolist(), strict=True):
        if order % 10 not in _TYPE_OF_ORDER:
            raise BondPerceptionError(
                f"unknown bond order code {order} between atoms {first} and {second}; allowed are 1, 2, 3 and, "
                "for aromatic bonds, 11, 12: pass Kekulé orders"
            )
        mol.AddBond(first, second, _TYPE_OF_ORDER[order % 10])
    try:
        with rdBase.BlockLogs():
            Chem.SanitizeMol(mol)
    except Chem.MolSanitizeException as error:
        raise BondPerceptionError(
            f"invalid bonds or charges: {_reason(str(error))}; check bond orders and formal charges"
        ) from error
    return mol


def set_isotopes(mol: Chem.Mol, isotopes: Int[np.ndarray, " atoms"]) -> None:
    """Sets the isotopes (`MolGraph.isotopes`) of the atoms of an RDKit molecule, in place."""
    for atom in np.flatnonzero(isotopes).tolist():
        mol.GetAtomWithIdx(atom).SetIsotope(int(isotopes[atom]))


def set_positions(mol: Chem.Mol, positions: Float[np.ndarray, "atoms 3"]) -> None:
    """Replaces all conformers of an RDKit molecule by one with these positions [Å], in place."""
    conformer = Chem.Conformer(mol.GetNumAtoms())
    conformer.SetPositions(np.ascontiguousarray(positions, dtype=np.float64))
    mol.RemoveAllConformers()
    mol.AddConformer(conformer)


def stereo_of_rdkit(mol: Chem.Mol) -> dict[str, np.ndarray]:
    """Stereo fields of a `MolGraph`, by name, from the stereo labels of a molecule with explicit hydrogens."""
    tetrahedra = []
    for atom in mol.GetAtoms():
        tag = atom.GetChiralTag()
        if tag in (_CW, _CCW) and not _has_equal_corners(atom):
            corners = _corners(atom)
            tetrahedra.append(corners if tag == _CCW else [corners[1], corners[0], *corners[2:]])
    double_bonds, is_cis = [], []
    for bond in mol.GetBonds():
        stereo = bond.GetStereo()
        if stereo in _IS_CIS:
            first, last = bond.GetStereoAtoms()
            double_bonds.append((first, bond.GetBeginAtomIdx(), bond.GetEndAtomIdx(), last))
            is_cis.append(_IS_CIS[stereo])
    return {
        "tetrahedra": np.array(tetrahedra, dtype=np.int32),
        "double_bonds": np.array(double_bonds, dtype=np.int32),
        "double_bond_is_cis": np.array(is_cis, dtype=bool),
    }


def refuse_unsupported_stereo(mol: Chem.Mol) -> None:
    """Raises an error for labels of configurations that are not part of a `MolGraph`.

    Raises:
        UnsupportedStereoError: the label of a square planar, trigonal bipyramidal or octahedral centre, or a group of
            centres that are racemic or of unknown absolute configuration.
    """
    for group in mol.GetStereoGroups():
        if group.GetGroupType() != Chem.StereoGroupType.STEREO_ABSOLUTE:
            named = ", ".join(f"{atom.GetSymbol()}{atom.GetIdx()}" for atom in group.GetAtoms())
            raise UnsupportedStereoError(
                f"the configuration of {named} is known up to the mirror image only (enhanced stereochemistry): give "
                "each isomer, or remove the group"
            )
    for atom in mol.GetAtoms():
        if (shape := _OTHER_CENTRES.get(atom.GetChiralTag())) is not None:
            raise UnsupportedStereoError(
                f"the {shape} centre {atom.GetSymbol()}{atom.GetIdx()} has a label of its configuration; only those of "
                "tetrahedral centres and double bonds are supported: give a geometry with this configuration, or "
                "remove the label (@SP, @TB or @OH in a SMILES) for any configuration"
            )


def multiplicity_of_rdkit(mol: Chem.Mol) -> int:
    """High-spin multiplicity: all unpaired electrons parallel."""
    return 1 + sum(atom.GetNumRadicalElectrons() for atom in mol.GetAtoms())


def _parse(smiles: str) -> Chem.Mol:
    text = smiles.strip()
    if not text:
        raise InvalidSmilesError(f"empty SMILES {smiles!r}; at least one atom is needed, for instance 'C' for methane")
    if len(text.split()) > 1:
        raise InvalidSmilesError(f"SMILES {smiles!r} contains blanks; pass the SMILES alone, without a name")
    if text.startswith("InChI="):
        raise InvalidSmilesError(
            f"{smiles!r} is an InChI, which does not define the tautomer: an amide and its imidic acid have the same "
            "one; give the SMILES"
        )
    # BlockLogs silences warnings; errors are still captured.
    with rdBase.BlockLogs(), rdBase.CaptureErrorLog() as log:
        mol = Chem.MolFromSmiles(text)
    if mol is None:
        _refuse_unknown_symbols(text)
        raise InvalidSmilesError(f"invalid SMILES {smiles!r}: {_reason(log.messages)}; correct the SMILES")
    _refuse_dummies(mol)
    return mol


def _refuse_unknown_symbols(smiles: str) -> None:
    for symbol in _BRACKET_SYMBOL.findall(smiles):
        if symbol not in ATOMIC_NUMBERS:
            raise UnknownElementError(
                f"unknown element [{symbol}] in SMILES {smiles!r}; use an element symbol of the periodic table"
            )


def _reason(messages: str) -> str:
    """RDKit's error message on one line, without time stamps and the repeated input."""
    lines = [_LOG_PREFIX.sub("", line).strip() for line in messages.splitlines()]
    lines = [line.split(" for input:")[0] for line in lines if line]
    if not lines:
        return "RDKit gives no reason"
    places = [line.removeprefix("check for mistakes ").rstrip(":") for line in lines if "mistakes around" in line]
    return " ".join([lines[0].split(" while parsing:")[0], *places[:1]])


def _refuse_dummies(mol: Chem.Mol) -> None:
    dummies = sum(atom.GetAtomicNum() == 0 for atom in mol.GetAtoms())
    if dummies:
        raise DummyAtomError(
            f"molecule {Chem.MolToSmiles(mol)!r} has {counted(dummies, 'dummy atom')} '*'; "
            "only elements are allowed: replace them, for instance by hydrogen"
        )


def _explicit(mol: Chem.Mol) -> Chem.Mol:
    """Copy with explicit hydrogens."""
    _refuse_dummies(mol)
    if mol.GetNumAtoms() == 0:
        raise InvalidSmilesError("the molecule has no atoms; at least one is needed")
    with rdBase.BlockLogs():
        return Chem.AddHs(mol)


def _isotope(atom: Chem.Atom) -> int:
    if not is_isotope(atom.GetAtomicNum(), atom.GetIsotope()):
        raise InvalidSmilesError(
            f"[{atom.GetIsotope()}{atom.GetSymbol()}] is not a known isotope; give its mass number, such as [2H] or "
            "[13C], or omit the number"
        )
    return atom.GetIsotope()


def _has_isotopes(mol: Chem.Mol) -> bool:
    return any(atom.GetIsotope() for atom in mol.GetAtoms())


def _without_isotopes(mol: Chem.Mol) -> Chem.Mol:
    """The molecule without isotopes and without the stereo labels that depend on them."""
    if not _has_isotopes(mol):
        return mol
    mol = Chem.Mol(mol)
    for atom in mol.GetAtoms():
        atom.SetIsotope(0)
    Chem.AssignStereochemistry(mol, cleanIt=True, force=True)
    return mol


def _key(mol: Chem.Mol) -> str:
    mol = Chem.Mol(_without_isotopes(mol))
    Chem.RemoveStereochemistry(mol)
    return _written(mol)


def _written(mol: Chem.Mol) -> str:
    with rdBase.BlockLogs():
        return Chem.MolToSmiles(Chem.RemoveHs(mol))


def _order(bond: Chem.Bond) -> int:
    order = _ORDER_OF_TYPE.get(bond.GetBondType())
    if order is None:
        raise InvalidSmilesError(
            f"unsupported bond type {bond.GetBondType().name} between atoms {bond.GetBeginAtomIdx()} and "
            f"{bond.GetEndAtomIdx()}; allowed are single, double, triple and aromatic: "
            "write dative bonds as single bonds between charged atoms"
        )
    return order


def _corners(atom: Chem.Atom) -> list[int]:
    """Neighbours in the order used by RDKit's chiral tags, followed by the atom itself if there are only three."""
    corners = [bond.GetOtherAtomIdx(atom.GetIdx()) for bond in atom.GetBonds()]
    return corners if len(corners) == 4 else [*corners, atom.GetIdx()]


def _set_tetrahedra(mol: Chem.Mol, graph: MolGraph) -> None:
    for centre, tetrahedron in zip(stereocentres(graph), graph.tetrahedra.tolist(), strict=True):
        atom = mol.GetAtomWithIdx(centre)
        # CCW: positive signed volume of the neighbours in RDKit's order.
        atom.SetChiralTag(_CCW if _is_even([_corners(atom).index(corner) for corner in tetrahedron]) else _CW)


def _set_double_bonds(mol: Chem.Mol, graph: MolGraph) -> None:
    for (a, b, c, d), is_cis in zip(graph.double_bonds.tolist(), graph.double_bond_is_cis.tolist(), strict=True):
        bond = mol.GetBondBetweenAtoms(b, c)
        first, last = (a, d) if bond.GetBeginAtomIdx() == b else (d, a)
        bond.SetStereoAtoms(first, last)
        bond.SetStereo(Chem.BondStereo.STEREOCIS if is_cis else Chem.BondStereo.STEREOTRANS)


def _is_even(permutation: Iterable[int]) -> bool:
    items = list(permutation)
    inversions = sum(items[i] > items[j] for i in range(len(items)) for j in range(i + 1, len(items)))
    return inversions % 2 == 0


def _is_checked(mol: Chem.Mol, element: Chem.StereoInfo) -> bool:
    """Whether a stereo element is of a kind represented in `MolGraph`."""
    if element.type == Chem.StereoType.Atom_Tetrahedral:
        atom = mol.GetAtomWithIdx(element.centeredOn)
        inverts = atom.GetSymbol() == "N" and atom.GetDegree() == 3
        has_shape = atom.GetDegree() in (3, 4) and not atom.GetIsAromatic()
        return has_shape and not inverts and not _has_equal_corners(atom)
    if element.type == Chem.StereoType.Bond_Double:
        bond = mol.GetBondWithIdx(element.centeredOn)
        return not (_is_cumulated(bond.GetBeginAtom()) or _is_cumulated(bond.GetEndAtom()))
    return False


def _has_equal_corners(atom: Chem.Atom) -> bool:
    """Whether two neighbours differ by resonance only, as the oxygen atoms of P(=O)[O-], so that there is no centre."""
    terminal = [bond.GetOtherAtom(atom) for bond in atom.GetBonds()]
    symbols = [other.GetSymbol() for other in terminal if other.GetDegree() == 1 and other.GetTotalNumHs() == 0]
    return any(symbols.count(symbol) > 1 for symbol in ("O", "S", "N"))


def _is_cumulated(atom: Chem.Atom) -> bool:
    return sum(bond.GetBondType() == Chem.BondType.DOUBLE for bond in atom.GetBonds()) > 1


def _stereo_description(mol: Chem.Mol, element: Chem.StereoInfo) -> str:
    if element.type == Chem.StereoType.Atom_Tetrahedral:
        atom = mol.GetAtomWithIdx(element.centeredOn)
        return f"tetrahedral centre {atom.GetSymbol()}{atom.GetIdx()} is neither @ nor @@"
    bond = mol.GetBondWithIdx(element.centeredOn)
    begin, end = bond.GetBeginAtom(), bond.GetEndAtom()
    return f"double bond {begin.GetSymbol()}{begin.GetIdx()}={end.GetSymbol()}{end.GetIdx()} is neither cis nor trans"

"""SD and PDB file records."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
from jaxtyping import Float, Int
from rdkit import Chem

from physcon_ase.chem.graph import MolGraph, make_graph
from physcon_ase.chem.smiles import to_rdkit

_HEAVY_HYDROGEN: Final = {2: "D", 3: "T"}
"""Symbols of isotopes in PDB files, which have none for those of other elements."""


def sdf_block(
    graph: MolGraph, positions: Float[np.ndarray, "atoms 3"], properties: Mapping[str, str], *, title: str = ""
) -> str:
    """One record of an SD file, V2000 (V3000 beyond 999 atoms), ending with ``$$$$``; records may be concatenated.

    Args:
        graph: the molecule.
        positions: positions [Å], written with four decimals.
        properties: data fields, each a single line of text; units belong in the name. '<' and '>' in a name, which
            would end it, become "lt " and "gt ".
        title: first line of the record.

    Raises:
        ValueError: a text contains a line break, or a field name is empty.
    """
    for text in (title, *properties, *properties.values()):
        if set("\r\n") & set(text):
            raise ValueError(f"line break in {text!r}; the texts of an SD record must be single lines")
    for name in properties:
        if not name:
            raise ValueError("an SD field has no name; each needs one")
    mol = to_rdkit(graph, positions)
    mol.SetProp("_Name", title)
    names = {name: name.replace("<", "lt ").replace(">", "gt ") for name in properties}
    fields = "".join(f">  <{names[name]}>\n{value}\n\n" for name, value in properties.items())
    return f"{Chem.MolToMolBlock(mol)}{fields}$$$$\n"


def pdb_block(
    graph: MolGraph | None,
    atomic_numbers: Int[np.ndarray, " atoms"],
    positions: Float[np.ndarray, "atoms 3"],
    *,
    title: str = "",
    remarks: Sequence[str] = (),
    labels: Sequence[str] = (),
) -> str:
    """One molecule in PDB format, as HETATM records with CONECT records for the bonds, ending with END.

    Args:
        graph: the molecule; None for one whose bonds are not known.
        atomic_numbers: atomic number of each atom.
        positions: positions [Å], written with three decimals.
        title: name of the molecule.
        remarks: texts for REMARK records, wrapped to their width.
        labels: names of the atoms, of which four characters are written; by default symbols with numbers.
    """
    if graph is None:
        no_bonds = np.zeros((0, 2), int), np.zeros(0, int)
        graph = make_graph(atomic_numbers, *no_bonds)
    mol = to_rdkit(graph, positions)
    for index, label in enumerate(labels):
        atom = mol.GetAtomWithIdx(index)
        # names of one-letter elements begin in the second column
        name = label if len(label) > 3 or len(atom.GetSymbol()) > 1 else f" {label}"
        information = Chem.AtomPDBResidueInfo(f"{name[:4]:4s}", residueName="UNL", residueNumber=1, isHeteroAtom=True)
        atom.SetMonomerInfo(information)
    head = [f"COMPND    {title[:70]}"] if title else []
    head += [f"REMARK   1 {line}" for remark in remarks for line in textwrap.wrap(remark, 69)]
    lines = Chem.MolToPDBBlock(mol).splitlines(keepends=True)
    atoms = [number for number, line in enumerate(lines) if line.startswith(("HETATM", "ATOM"))]
    for number, element, isotope in zip(atoms, graph.atomic_numbers.tolist(), graph.isotopes.tolist(), strict=True):
        if element == 1 and isotope in _HEAVY_HYDROGEN:
            lines[number] = f"{lines[number][:76]:76s}{_HEAVY_HYDROGEN[isotope]:>2s}{lines[number][78:]}"
    return "".join(f"{line}\n" for line in head) + "".join(lines)

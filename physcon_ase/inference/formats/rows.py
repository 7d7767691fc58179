"""Records of the molecules of an input."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any, Final

import numpy as np
from ase import Atoms

from physcon_ase.chem.graph import MolGraph
from physcon_ase.chem.rdkit_molecules import KnownMolecule, is_rdkit_molecule, known_from_rdkit
from physcon_ase.chem.smiles import graph_from_smiles
from physcon_ase.chem.stereoisomers import stereoisomers_of
from physcon_ase.errors import PhysConError, TooManyStereoisomersError
from physcon_ase.plurals import counted

_OF_OUTPUTS: Final = {"model", "revision"}
"""Fields of all SD files and tables that this package writes."""


@dataclass(frozen=True)
class Geometry:
    """A geometry with known bonds."""

    atoms: Atoms
    """The atoms, in the order of the graph, with the charge in `info` and names of the atoms in `arrays["labels"]`."""
    graph: MolGraph
    """The molecule."""
    origin: str = "geometry"
    """Kind of start geometry, with what was added to the input."""


@dataclass(frozen=True)
class Row:
    """One molecule of an input file, or the reason why it could not be read."""

    molecule: Any
    """SMILES, `MolGraph`, `Atoms`, `Geometry`, or the `PhysConError` with the reason why it could not be read."""
    name: str = ""
    """Name in the file; empty if there is none."""
    number: int = 0
    """Number of the molecule in its source from 1: the line of a list or table, otherwise the record."""
    source: str = ""
    """Name of the file."""
    fields: Mapping[str, str] = field(default_factory=dict)
    """Other columns of a table, or data fields of an SD record."""

    @property
    def smiles(self) -> str:
        """SMILES as given; empty for other molecules."""
        return self.molecule if isinstance(self.molecule, str) else ""

    @property
    def origin(self) -> dict[str, Any]:
        """Name, number, source and fields, as far as they are known, for the JSON record of a result."""
        own = {"name": self.name, "row": self.number, "source": self.source, "fields": dict(self.fields)}
        return {name: value for name, value in own.items() if value}


@dataclass(frozen=True)
class ReadOptions:
    """Options of the readers."""

    suffix: str = ""
    """Suffix of the file."""
    smiles_column: str | None = None
    """Column of a table with the SMILES; by default found by its name."""
    name_column: str | None = None
    """Column of a table with the names; by default found by its name."""


def as_rows(molecules: Any) -> list[Row]:
    """Rows of one molecule or several; RDKit molecules are converted. Invalid molecules are kept as they are."""
    return [molecule if isinstance(molecule, Row) else _row_of(molecule) for molecule in as_list(molecules)]


def as_list(molecules: Any) -> list[Any]:
    """List of the molecules; a single SMILES, graph or structure becomes a list of one molecule."""
    is_one = isinstance(molecules, (str, MolGraph, Atoms, Geometry, Row)) or is_rdkit_molecule(molecules)
    return [molecules] if is_one or not isinstance(molecules, Iterable) else list(molecules)


def stereoisomer_rows(row: Row) -> list[Row]:
    """One row for each stereoisomer of a SMILES or graph of undefined configuration; other rows as they are.

    The name, or the SMILES if there is none, gets a number: "naproxen (1 of 2)". If there are too many isomers, the
    error takes their place.
    """
    name = row.name or row.smiles
    try:
        graph = graph_from_smiles(row.molecule, allow_fragments=True) if row.smiles else row.molecule
        isomers = stereoisomers_of(graph) if isinstance(graph, MolGraph) else []
    except TooManyStereoisomersError as error:
        return [replace(row, molecule=error, name=name)]
    except PhysConError:  # found again and reported when the molecule is used
        return [row]
    if len(isomers) < 2:
        return [row]
    return [
        replace(row, molecule=isomer, name=f"{name} ({number} of {len(isomers)})".lstrip())
        for number, isomer in enumerate(isomers, start=1)
    ]


def _row_of(molecule: Any) -> Row:
    """Row of a molecule; that of an RDKit molecule has its name, and its public properties as fields."""
    if not is_rdkit_molecule(molecule):
        return Row(molecule)
    fields = {name: str(value) for name, value in molecule.GetPropsAsDict(autoConvertStrings=False).items()}
    try:
        known = known_from_rdkit(molecule)
    except PhysConError as error:
        return Row(error, fields=fields)
    return Row(geometry_or_graph(known), known.name, fields=fields)


def fields_of(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Values by name; a name that occurs again gets a number, "IC50 (2)", so that no value is lost."""
    found: dict[str, str] = {}
    for name, value in pairs:
        repeats = (f"{name} ({number})" for number in count(2))
        found[name if name not in found else next(other for other in repeats if other not in found)] = value
    return found


def fields_beside(fields: Mapping[str, str], taken: Collection[str]) -> dict[str, str]:
    """Fields of the input in an output that has its own values of the names `taken`.

    Fields of these names are renamed, "status (input)", or left out if they are from an earlier output of this package.
    """
    if fields.keys() >= _OF_OUTPUTS:
        return {name: value for name, value in fields.items() if name not in taken}
    return fields_of((f"{name} (input)" if name in taken else name, value) for name, value in fields.items())


def set_isotope_masses(atoms: Atoms, isotopes: Mapping[int, float]) -> None:
    """Sets the masses [amu] of isotopes, by index of the atom, in place."""
    if isotopes:
        masses = atoms.get_masses()
        masses[list(isotopes)] = list(isotopes.values())
        atoms.set_array("masses", masses)


def geometry_or_graph(known: KnownMolecule) -> MolGraph | Geometry:
    """Geometry, or graph of a molecule without positions."""
    if known.positions is None:
        return known.graph
    graph = known.graph
    atoms = Atoms(graph.atomic_numbers, known.positions, info={"charge": graph.charge} if graph.charge else {})
    if graph.multiplicity != 1:
        atoms.info["spin"] = graph.multiplicity
    if known.labels:
        atoms.set_array("labels", np.array(known.labels))
    set_isotope_masses(atoms, known.isotopes)
    origin = f"geometry ({counted(known.n_added, 'hydrogen')} added)" if known.n_added else "geometry"
    return Geometry(atoms, graph, origin)

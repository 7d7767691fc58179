"""The molecules of a complex, found in what the user gives."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from ase import Atoms
from jaxtyping import Int

from physcon_ase.chem.fragments import fragments_of, joined
from physcon_ase.chem.graph import MolGraph
from physcon_ase.chem.smiles import canonical_smiles
from physcon_ase.errors import BondPerceptionError, EmptyStructureError, FragmentsError, PhysConError
from physcon_ase.inference.formats.rows import Geometry, as_list, as_rows
from physcon_ase.inference.intake import as_graph, charge_and_multiplicity, check_atoms, unless_error
from physcon_ase.inference.starts import graph_of_geometry


@dataclass(frozen=True)
class Part:
    """One molecule of a complex."""

    graph: MolGraph | None
    """The molecule; None for a geometry whose bonds are unknown."""
    atoms: Int[np.ndarray, " atoms"]
    """Index of each of its atoms in the complex."""
    geometry: Atoms | None = None
    """Its own geometry as given; None if it was given with the others, as one graph or geometry."""

    @property
    def charge(self) -> int:
        """Total charge [e]."""
        if self.graph is not None:
            return self.graph.charge
        assert self.geometry is not None
        return charge_and_multiplicity(self.geometry)[0]

    @property
    def name(self) -> str:
        """Canonical SMILES, or the formula if the bonds are unknown."""
        if self.graph is not None:
            return canonical_smiles(self.graph)
        assert self.geometry is not None
        return self.geometry.get_chemical_formula("reduce")


def parts_of(molecules: Any) -> tuple[MolGraph | Geometry | Atoms, list[Part]]:
    """The complex and its molecules.

    The complex is a graph if it has no geometry, and `Atoms` if the bonds of one of several geometries are unknown.

    Raises:
        BondPerceptionError: no bonds were found in a complex.
        FragmentsError: one of several SMILES or graphs has several fragments.
        PhysConError: the list is empty or mixes geometries with SMILES or graphs, or a molecule is invalid.
    """
    listed = as_list(molecules)
    given = [_with_graph(unless_error(row.molecule)) for row in as_rows(listed)]
    if not given:
        raise EmptyStructureError("the list of molecules is empty; two or more are needed")
    geometries = [own for own in given if isinstance(own, Geometry | Atoms)]
    if not geometries:
        graphs = [as_graph(own, "all") for own in given]
        several = [canonical_smiles(own) for own in graphs if len(fragments_of(own)) > 1]
        if several and len(graphs) > 1:
            raise FragmentsError(
                f"{', '.join(map(repr, several))} in the list of molecules has several fragments, which could be one "
                "molecule of the complex or several: list each molecule, or pass one SMILES with dots"
            )
        graph = joined(graphs)
        return graph, [Part(part.graph, part.atoms) for part in fragments_of(graph)]
    if listed[0] is molecules:  # one geometry, not a list with one
        (whole,) = geometries
        if isinstance(whole, Atoms):
            raise BondPerceptionError(
                f"no bonds were found for {whole.get_chemical_formula('reduce')}; its molecules are unknown: "
                "pass a list with the geometry of each molecule, with its charge in atoms.info['charge']"
            )
        return whole, [Part(part.graph, part.atoms) for part in fragments_of(whole.graph)]
    if len(geometries) < len(given):
        raise PhysConError(
            "geometries and SMILES are mixed in the list of molecules: pass one kind, since SMILES have no place"
        )
    return _beside(geometries)


def _with_graph(molecule: Any) -> Any:
    """`Atoms` with their graph, unless their bonds are unknown; other molecules as they are."""
    if not isinstance(molecule, Atoms):
        return molecule
    check_atoms(molecule)
    graph = graph_of_geometry(molecule, charge_and_multiplicity(molecule)[0])
    return molecule if graph is None else Geometry(molecule, graph)


def _beside(geometries: Sequence[Geometry | Atoms]) -> tuple[Geometry | Atoms, list[Part]]:
    """A complex of geometries that stay where they are."""
    whole, parts, charge = Atoms(), [], 0
    for given in geometries:
        atoms, graph = (given, None) if isinstance(given, Atoms) else (given.atoms, given.graph)
        parts.append(Part(graph, np.arange(len(whole), len(whole) + len(atoms)), atoms))
        whole += Atoms(atoms.numbers, atoms.positions, masses=atoms.get_masses())
        charge += charge_and_multiplicity(atoms)[0]
    whole.info["charge"] = charge
    known = [own for own in geometries if isinstance(own, Geometry)]
    if len(known) < len(geometries):
        return whole, parts
    origin = max((own.origin for own in known), key=len)  # one with added hydrogens, if there is any
    return Geometry(whole, joined([own.graph for own in known]), origin), parts

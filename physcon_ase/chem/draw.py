"""Images of structural formulas."""

import re
from typing import Final

from rdkit import Chem, rdBase
from rdkit.Chem import rdDepictor
from rdkit.Chem.Draw import rdMolDraw2D

from physcon_ase.chem.graph import MolGraph
from physcon_ase.chem.smiles import to_rdkit
from physcon_ase.errors import InvalidSmilesError

_SUPERFLUOUS: Final = re.compile(r"<\?xml.*?\?>|<!--.*?-->| (class|xmlns[:\w]*|version|baseProfile)='[^']*'", re.DOTALL)
"""Parts of an SVG image that a web page does not need."""


def depict(graph: MolGraph, size: tuple[int, int] = (400, 300)) -> bytes:
    """Skeletal formula with wedged bonds, as the content of a PNG file.

    Args:
        graph: the molecule.
        size: width and height [pixels].
    """
    with rdBase.BlockLogs():
        mol = Chem.RemoveHs(to_rdkit(graph))
    rdDepictor.Compute2DCoords(mol)
    canvas = rdMolDraw2D.MolDraw2DCairo(*size)
    rdMolDraw2D.PrepareAndDrawMolecule(canvas, mol)
    canvas.FinishDrawing()
    return canvas.GetDrawingText()


def depict_svg(smiles: str, size: tuple[int, int] = (300, 220)) -> str:
    """Skeletal formula with wedged bonds, as an `<svg>` element for a web page.

    Args:
        smiles: any SMILES that RDKit reads.
        size: width and height [pixels].

    Raises:
        InvalidSmilesError: RDKit does not read it.
    """
    with rdBase.BlockLogs():
        mol = Chem.MolFromSmiles(smiles)
    if mol is None or mol.GetNumAtoms() == 0:
        raise InvalidSmilesError(f"invalid SMILES {smiles!r}, which cannot be drawn; correct it")
    rdDepictor.Compute2DCoords(mol)
    canvas = rdMolDraw2D.MolDraw2DSVG(*size)
    canvas.drawOptions().clearBackground = False
    rdMolDraw2D.PrepareAndDrawMolecule(canvas, mol)
    canvas.FinishDrawing()
    return " ".join(_SUPERFLUOUS.sub("", canvas.GetDrawingText()).split())

"""Images of structural formulas."""

from rdkit import Chem, rdBase
from rdkit.Chem import rdDepictor
from rdkit.Chem.Draw import rdMolDraw2D

from physcon_ase.chem.graph import MolGraph
from physcon_ase.chem.smiles import to_rdkit


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

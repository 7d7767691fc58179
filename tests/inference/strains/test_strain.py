from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.constraints import FixAtoms
from rdkit import Chem

from physcon_ase.chem.rdkit_molecules import known_from_rdkit
from physcon_ase.chem.smiles import graph_from_smiles
from physcon_ase.errors import ConstraintError, FragmentsError, PhysConError
from physcon_ase.inference.one import optimize
from physcon_ase.inference.scans.scan import Scan
from physcon_ase.inference.scans.search import scan
from physcon_ase.inference.strains.report import format_strain
from physcon_ase.inference.strains.search import held_dihedrals, strain, strain_many
from physcon_ase.model.physcon import LoadedModel
from physcon_ase.units import EV_PER_KCAL_PER_MOL

CCCC = (0, 1, 2, 3)

SOFT = 0.02
"""Energy [kcal/mol] left by soft coordinates at 0.01 eV/Å."""


@pytest.fixture(scope="module")
def butane(double: LoadedModel) -> Scan:
    return scan("CCCC", CCCC, step=60.0, n_conformers=1, fmax=0.01, checkpoint=double, progress_bar=False)


def distorted(atoms: Atoms) -> Atoms:
    """The geometry with 1 % longer bonds, as in a structure that is not that of the model."""
    found = atoms.copy()
    found.positions *= 1.01
    return found


@pytest.mark.parametrize("point", [1, 2])
def test_strain_is_the_energy_of_the_torsion_above_the_lowest_conformer(
    point: int, butane: Scan, double: LoadedModel
) -> None:
    pose = distorted(butane.geometries[point,])
    found = strain(pose, n=10, checkpoint=double)
    assert found.held == (CCCC,)
    assert found.pose.get_dihedral(*CCCC) == pytest.approx(pose.get_dihedral(*CCCC), abs=1e-3)
    assert found.pose.constraints == []
    assert found.strain == pytest.approx(butane.relative_energies[point], abs=SOFT)
    assert found.judged() == ("ok", "")


def test_the_nearest_minimum_of_a_gauche_pose_is_the_gauche_conformer(butane: Scan, double: LoadedModel) -> None:
    found = strain(distorted(butane.geometries[2,]), n=10, checkpoint=double)
    gauche = optimize(butane.geometries[2,], checkpoint=double)
    above = (gauche.energy - butane.energies.min()) / EV_PER_KCAL_PER_MOL
    assert above > 0.3
    assert found.nearest_energy == pytest.approx(gauche.energy, abs=1e-3)
    assert found.local_strain == pytest.approx(found.strain - above, abs=SOFT)


def test_the_lowest_conformer_has_no_strain(butane: Scan, double: LoadedModel) -> None:
    found = strain(distorted(butane.geometries[0,]), n=1, checkpoint=double)
    assert found.strain == pytest.approx(0.0, abs=SOFT)
    assert found.strain >= found.local_strain - SOFT
    assert found.pose_rmsd < 0.03
    text = format_strain(found)
    assert "CCCC  (C4H10, 14 atoms)" in text
    assert "1 torsion held" in text


@pytest.mark.parametrize(
    ("smiles", "expected"),
    [
        ("CCO", []),  # a methyl and a hydroxyl group
        ("CC(=O)NC", [(2, 1, 3, 4)]),
        ("C1CCCCC1", []),
        ("CC#CC", []),
        ("OCCN", [(0, 1, 2, 3)]),
    ],
)
def test_torsions_with_heavy_atoms_at_both_ends_are_held(smiles: str, expected: Sequence[tuple]) -> None:
    found = held_dihedrals(graph_from_smiles(smiles))
    assert {frozenset(members[1:3]) for members in found} == {frozenset(members[1:3]) for members in expected}
    assert all(graph_from_smiles(smiles).atomic_numbers[list(members)].min() > 1 for members in found)


def test_poses_need_positions_and_one_molecule(butane: Scan, double: LoadedModel) -> None:
    with pytest.raises(PhysConError, match="'CCCC' has no positions"):
        strain("CCCC", checkpoint=double)
    with pytest.raises(PhysConError, match="n is 'many'"):
        strain(butane.geometries[0,], n="many", checkpoint=double)
    fixed = butane.geometries[0,].copy()
    fixed.set_constraint(FixAtoms([0]))
    with pytest.raises(ConstraintError, match="the geometry has constraints"):
        strain(fixed, checkpoint=double)
    two = butane.geometries[0,].copy()
    two += Atoms("OHH", [[9.0, 0, 0], [9.96, 0, 0], [8.76, 0.93, 0]])
    with pytest.raises(FragmentsError):
        strain(two, checkpoint=double)


def test_a_relaxation_that_does_not_converge_is_not_ok(butane: Scan, double: LoadedModel) -> None:
    found = strain(distorted(butane.geometries[1,]), n=2, max_steps=2, checkpoint=double)
    status, reason = found.judged()
    assert status == "not converged"
    assert reason.startswith("torsions held: ")


def test_poses_of_one_molecule_have_one_reference(butane: Scan, double: LoadedModel, tmp_path: Path) -> None:
    poses = ["CCCC", *(distorted(butane.geometries[point,]) for point in (1, 2))]
    journal, done = tmp_path / "journal", []
    whole = strain_many(poses, n=10, checkpoint=double, progress_bar=False)
    assert [record.status for record in whole] == ["failed", "ok", "ok"]
    one, other = (record.result for record in whole[1:])
    assert one is not None
    assert other is not None
    assert one.lowest_energy == pytest.approx(other.lowest_energy, abs=1e-4)
    with pytest.raises(KeyboardInterrupt):
        strain_many(poses, n=10, checkpoint=double, journal=journal, on_progress=interrupted)
    options = {"n": 10, "checkpoint": double, "journal": journal}
    resumed = strain_many(poses, **options, on_progress=lambda number, _: done.append(number))
    assert done == [3]
    assert resumed[1].result is not None
    assert resumed[1].result.to_dict() | {"seconds": 0} == one.to_dict() | {"seconds": 0}
    np.testing.assert_array_equal(resumed[1].result.pose.get_forces(), one.pose.get_forces())


def interrupted(n_finished: int, n_molecules: int) -> None:
    if n_finished == 2:
        raise KeyboardInterrupt


def test_missing_hydrogens_of_a_pose_are_added(butane: Scan, double: LoadedModel) -> None:
    heavy = Chem.MolFromMolBlock(Chem.MolToMolBlock(Chem.RemoveHs(as_rdkit(butane.geometries[2,]))), removeHs=False)
    assert known_from_rdkit(heavy).n_added == 10
    assert strain(heavy, n=10, checkpoint=double).strain == pytest.approx(butane.relative_energies[2], abs=SOFT)


def as_rdkit(atoms: Atoms) -> Chem.Mol:
    mol = Chem.AddHs(Chem.MolFromSmiles("CCCC"))
    conformer = Chem.Conformer(mol.GetNumAtoms())
    conformer.SetPositions(atoms.positions)
    mol.AddConformer(conformer)
    return mol

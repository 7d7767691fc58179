from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from physcon_ase.chem.conformers import embed, mmff94_minimize
from physcon_ase.chem.duplicates import ConformerSet, Tolerances, rmsd_table
from physcon_ase.chem.graph import MolGraph
from physcon_ase.chem.smiles import graph_from_smiles


def minima_of(smiles: str, n: int = 12) -> tuple[MolGraph, list[np.ndarray], list[float]]:
    graph = graph_from_smiles(smiles)
    minima = [mmff94_minimize(graph, start) for start in embed(graph, n=n)]
    return graph, [each.positions for each in minima], [each.energy for each in minima]


def test_butane_has_three_conformers_of_which_two_are_mirror_images() -> None:
    compared = ConformerSet(*minima_of("CCCC"), Tolerances())
    anti, *gauche = compared.distinct()
    assert len(gauche) == 2
    assert compared.are_mirror_images(anti, anti)
    assert compared.are_mirror_images(*gauche)
    assert not compared.are_mirror_images(gauche[0], gauche[0])
    assert len(compared.distinct(up_to_mirror_images=True)) == 2


def test_exchanged_hydrogens_and_rotated_molecules_are_duplicates() -> None:
    graph, (positions, *_), (energy, *_) = minima_of("CC(=O)N", n=1)
    permuted = positions.copy()
    permuted[[4, 5, 6]] = positions[[5, 6, 4]]  # hydrogens of the methyl group
    permuted[[7, 8]] = positions[[8, 7]]  # those of the amide
    moved = Rotation.from_rotvec([0.3, -1.0, 2.0]).apply(permuted) + 7.0
    compared = ConformerSet(graph, [positions, moved], [energy, energy], Tolerances())
    assert compared.distinct() == [0]
    assert compared.rmsd(0, 1) == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize("criterion", ["rmsd", "energy", "moments"])
def test_duplicates_agree_in_all_three_criteria(criterion: str) -> None:
    graph, positions, energies = minima_of("CCCC")
    loose = Tolerances(rmsd=10.0, energy=10.0, moments=10.0)
    assert len(ConformerSet(graph, positions, energies, loose).distinct()) == 1
    strict = replace(loose, **{criterion: getattr(Tolerances(), criterion)})
    # enantiomorphic gauche conformers differ in the RMSD only
    expected = 3 if criterion == "rmsd" else 2
    assert len(ConformerSet(graph, positions, energies, strict).distinct()) == expected


def test_orientation_of_a_hydroxyl_group_makes_a_conformer() -> None:
    compared = ConformerSet(*minima_of("CCO"), Tolerances(energy=1.0, moments=1.0))
    assert len(compared.distinct()) == 3


@pytest.mark.parametrize("smiles", ["O", "C", "[OH-]", "F"])
def test_small_molecules_have_one_conformer(smiles: str) -> None:
    graph = graph_from_smiles(smiles)
    positions = list(embed(graph, n=3))
    compared = ConformerSet(graph, positions, [0.0] * 3, Tolerances(rmsd=0.2, moments=0.5))
    assert compared.distinct() == [0]


def test_no_conformers_have_no_duplicates() -> None:
    graph = graph_from_smiles("CCO")
    assert ConformerSet(graph, [], [], Tolerances()).distinct() == []
    assert rmsd_table(graph, []).shape == (0, 0)


def test_table_of_deviations_is_that_of_the_pairs() -> None:
    graph, positions, energies = minima_of("OCCO", n=4)
    compared, table = ConformerSet(graph, positions, energies, Tolerances()), rmsd_table(graph, positions)
    assert np.array_equal(table, table.T)
    for row in range(4):
        for column in range(4):
            assert table[row, column] == pytest.approx(compared.rmsd(row, column), abs=1e-4)

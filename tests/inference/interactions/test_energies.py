from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from ase.constraints import FixAtoms
from rdkit import Chem

from physcon_ase.chem.files import sdf_block
from physcon_ase.chem.smiles import graph_from_smiles
from physcon_ase.errors import (
    BondPerceptionError,
    ConstraintError,
    FragmentsError,
    PhysConError,
    UnsupportedChargeError,
)
from physcon_ase.inference import outcome
from physcon_ase.inference.calculator import PhysConCalculator
from physcon_ase.inference.files import read_rows
from physcon_ase.inference.formats.rows import Geometry
from physcon_ase.inference.interactions.energies import interaction
from physcon_ase.inference.interactions.interaction import Interaction
from physcon_ase.inference.one import optimize
from physcon_ase.model.physcon import LoadedModel
from physcon_ase.units import COULOMB_EV_ANGSTROM
from tests.inference.interactions.water_dimer import dimer

EXACT = 1e-8
"""Difference [eV] of float64 energies of the same geometry."""


@pytest.fixture(scope="module")
def relaxed(double: LoadedModel) -> Interaction:
    return interaction("O.O", checkpoint=double)


def test_the_energy_is_that_of_the_complex_minus_that_of_its_parts(rigid: Interaction, double: LoadedModel) -> None:
    calculator, parts = PhysConCalculator(double), dimer()
    expected = calculator.get_potential_energy(parts[0] + parts[1])
    expected -= sum(calculator.get_potential_energy(part) for part in parts)
    assert rigid.energy == pytest.approx(expected, abs=EXACT)
    assert rigid.is_ok
    assert rigid.names == ("O", "O")
    assert (rigid.binding_energy, rigid.deformation_energy, rigid.relaxed) == (None, None, None)
    np.testing.assert_array_equal(rigid.complex.positions[:3], parts[0].positions)


def test_the_molecules_of_a_complex_are_found_by_their_bonds(rigid: Interaction, double: LoadedModel) -> None:
    parts = dimer()
    mixed = (parts[0] + parts[1])[[0, 3, 1, 4, 2, 5]]
    found = interaction(mixed, checkpoint=double)
    assert found.atoms == ((0, 2, 4), (1, 3, 5))
    assert found.energy == pytest.approx(rigid.energy, abs=EXACT)


def test_the_curve_passes_the_complex_and_ends_at_zero(rigid: Interaction, double: LoadedModel) -> None:
    curve = rigid.curve
    assert curve is not None
    contact = rigid.molecules[0].positions[:, None] - rigid.molecules[1].positions
    own = np.linalg.norm(contact, axis=-1).min()
    at_complex = np.abs(curve.distances - own).argmin()
    assert curve.energies[at_complex] == pytest.approx(rigid.energy, abs=EXACT)
    assert abs(curve.energies[-1]) < 0.02
    centres = interaction(dimer(), checkpoint=double, along="centres", distances=[2.5, 30.0]).curve
    assert centres is not None
    assert centres.distances.tolist() == [2.5, 30.0]
    assert abs(centres.energies[1]) < 1e-3


def test_overlapping_molecules_have_no_energy(double: LoadedModel) -> None:
    curve = interaction(dimer(), checkpoint=double, distances=[0.05, 2.0]).curve
    assert curve is not None
    assert np.isnan(curve.energies).tolist() == [True, False]


def test_smiles_are_relaxed_and_bound(relaxed: Interaction) -> None:
    assert relaxed.is_ok, relaxed.status
    assert relaxed.relaxed is not None
    assert relaxed.energy < 0
    assert relaxed.deformation_energy is not None
    assert relaxed.deformation_energy > -1e-3  # what fmax leaves
    assert relaxed.binding_energy == pytest.approx(relaxed.energy + relaxed.deformation_energy)
    assert relaxed.relaxation is not None
    assert relaxed.relaxation.start == "mmff94"
    assert len(repr(relaxed)) < 200


def test_a_model_that_does_not_separate_the_molecules_is_not_ok(
    double: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    predict = PhysConCalculator.predict

    def leaking(self: PhysConCalculator, structures: list[Atoms], *arguments, **options) -> list:
        """A model with an error of 0.5 eV for six atoms, however far apart."""
        found = predict(self, structures, *arguments, **options)
        return [replace(f, energy=f.energy + 0.5 * (len(s) == 6)) for f, s in zip(found, structures, strict=True)]

    monkeypatch.setattr(PhysConCalculator, "predict", leaking)
    found = interaction(dimer(), checkpoint=double)
    assert found.remainder == pytest.approx(0.5, abs=0.01)
    assert not found.is_ok
    assert "leaves 0.5" in found.status
    assert "50 Å apart" in found.status


def test_the_coulomb_energy_of_ions_is_no_remainder(double: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    predict = PhysConCalculator.predict

    def ideal(self: PhysConCalculator, structures: list[Atoms], *arguments, **options) -> list:
        """Point charges +1 on the first and -1 on the second of two atoms, 0 eV alone."""
        found = predict(self, structures, *arguments, **options)
        energies = [-COULOMB_EV_ANGSTROM / s.get_distance(0, 1) if len(s) == 2 else 0.0 for s in structures]
        return [replace(f, energy=energy) for f, energy in zip(found, energies, strict=True)]

    monkeypatch.setattr(PhysConCalculator, "predict", ideal)
    cation, anion = Atoms("H", info={"charge": 1}), Atoms("F", [[0, 0, 3.0]], info={"charge": -1})
    found = interaction([cation, anion], checkpoint=double)
    assert found.remainder == pytest.approx(0, abs=1e-9)
    assert "between the molecules" not in found.status


def test_a_charge_at_the_end_of_a_long_ion_is_no_remainder(
    double: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    predict = PhysConCalculator.predict

    def ideal(self: PhysConCalculator, structures: list[Atoms], *arguments, **options) -> list:
        """A charge -1 on fluorine, and +1 on the nitrogen at the end of a chain of carbon."""
        found = []
        for prediction, atoms in zip(predict(self, structures, *arguments, **options), structures, strict=True):
            charges = 1.0 * (atoms.numbers == 7) - 1.0 * (atoms.numbers == 9)
            energy = -COULOMB_EV_ANGSTROM / atoms.get_distance(0, -1) if charges.any() and not charges.sum() else 0.0
            found.append(replace(prediction, energy=energy, charges=charges))
        return found

    monkeypatch.setattr(PhysConCalculator, "predict", ideal)
    chain = Atoms("NC7", [[1.4 * n, 0, 0] for n in range(8)], info={"charge": 1})
    found = interaction([chain, Atoms("F", [[0, 0, 3.0]], info={"charge": -1})], checkpoint=double)
    assert found.remainder == pytest.approx(0, abs=1e-9)


def test_ions_keep_their_charges(double: LoadedModel) -> None:
    found = interaction(["[F-]", "O", "O"], checkpoint=double, max_steps=30)
    assert [atoms.info["charge"] for atoms in found.molecules] == [-1, 0, 0]
    assert found.complex.info["charge"] == -1
    assert found.energy < -0.2
    assert found.curve is None


def test_a_molecule_that_does_not_converge_is_said(double: LoadedModel) -> None:
    found = interaction("O.O", checkpoint=double, max_steps=1)
    assert not found.is_ok
    assert found.status.startswith("complex: step limit reached")


def test_default_distances_of_concentric_molecules_are_positive(double: LoadedModel) -> None:
    ring, guest = molecule("C6H6"), molecule("H2")
    guest.translate([0, 0, 0.2] - guest.positions.mean(axis=0))
    curve = interaction([ring, guest], checkpoint=double, along="centres").curve
    assert curve is not None
    assert 0 < curve.distances.min() < 0.2


def triplet_oxygen() -> Atoms:
    oxygen = molecule("O2")
    oxygen.translate([0, 0, 4])
    oxygen.info["spin"] = 3
    return oxygen


@pytest.mark.parametrize(
    ("molecules", "options", "error", "message"),
    [
        ("O", {}, FragmentsError, "O is one molecule; an interaction energy needs two or more"),
        (molecule("H2O"), {}, FragmentsError, "one molecule"),
        ([], {}, PhysConError, "list of molecules is empty"),
        (["O", molecule("H2O")], {}, PhysConError, "geometries and SMILES are mixed"),
        ("O.O", {"relax": False}, PhysConError, "relax=False requires geometries"),
        ("O.O", {"along": "x"}, PhysConError, "unknown line 'x'"),
        (dimer(), {"distances": [0.0]}, PhysConError, r"distance \[Å\] is 0.0"),
        ([triplet_oxygen(), molecule("H2O")], {}, UnsupportedChargeError, "spin multiplicity 3 is not supported"),
        (Atoms("H3", [[0, 0, 0], [0, 0, 0.9], [0, 0, 5]]), {}, BondPerceptionError, "pass a list with the geometry"),
    ],
)
def test_input_that_makes_no_sense_is_refused(
    molecules, options: dict, error: type, message: str, double: LoadedModel
) -> None:
    with pytest.raises(error, match=message):
        interaction(molecules, checkpoint=double, **options)


def test_doubts_about_a_rigid_complex_are_its_status(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = molecule("H2O")
    other = pair.copy()
    other.positions += [0, 0, 3.0]
    assert interaction([pair, other]).status == "ok"
    monkeypatch.setattr(outcome, "doubts_of", lambda *_: ("few training molecules have this",))
    assert interaction([pair, other]).status == "uncertain: few training molecules have this"


def test_a_member_of_the_list_with_several_fragments_is_refused(double: LoadedModel) -> None:
    """The energy would be relative to three molecules, that of the same geometries to two."""
    with pytest.raises(FragmentsError, match=r"'O.O' in the list of molecules has several fragments"):
        interaction(["O.O", "C"], checkpoint=double)
    assert interaction(["O.O"], checkpoint=double).names == ("O", "O")


@pytest.mark.parametrize("are_together", [True, False])
def test_constraints_are_refused_in_a_relaxation(are_together: bool, double: LoadedModel) -> None:
    first, second = dimer()
    first.set_constraint(FixAtoms([0]))
    given = first + second if are_together else [first, second]
    with pytest.raises(ConstraintError, match="would hold the complex, but not its molecules alone"):
        interaction(given, relax=True, checkpoint=double)
    assert interaction(given, checkpoint=double).is_ok


def from_sd_file(smiles: str, positions: np.ndarray, path: Path) -> Geometry:
    graph = graph_from_smiles(smiles, allow_fragments=True)
    path.write_text(sdf_block(graph, positions, {}))
    (row,) = read_rows(path)
    return row.molecule


def test_the_bonds_of_a_file_are_those_of_the_complex(double: LoadedModel, tmp_path: Path) -> None:
    smiles = "[O-]S(=O)(=O)C.[NH4+]"
    placed = optimize(smiles, checkpoint=double, max_steps=0).atoms.positions
    given = from_sd_file(smiles, placed, tmp_path / "pair.sdf")
    found = interaction(given, checkpoint=double)
    assert found.names == ("CS(=O)(=O)[O-]", "[NH4+]")
    assert not found.status.startswith("uncertain: no bonds")
    relaxed = interaction(given, relax=True, checkpoint=double, max_steps=1).relaxation
    assert relaxed is not None
    assert relaxed.smiles == "CS(=O)(=O)[O-].[NH4+]"


def test_a_complex_with_other_bonds_than_its_file_is_not_ok(double: LoadedModel, tmp_path: Path) -> None:
    water, ammonia = molecule("H2O"), molecule("NH3")
    ammonia.positions += [0, 0, 4]
    smiles = "[OH-].[NH4+]"  # positions of H2O and NH3
    numbers = graph_from_smiles(smiles, allow_fragments=True).atomic_numbers
    assert numbers.tolist() == [8, 7, 1, 1, 1, 1, 1]
    order = [water.positions[0], ammonia.positions[0], water.positions[1], *ammonia.positions[1:], water.positions[2]]
    found = interaction(from_sd_file(smiles, np.array(order), tmp_path / "moved.sdf"), checkpoint=double)
    assert not found.is_ok
    assert found.status.startswith("changed: the geometry does not have the bonds of the input")
    assert found.judged() == ("changed", found.status)


def test_added_hydrogens_make_a_rigid_complex_uncertain(double: LoadedModel) -> None:
    heavy = Chem.MolFromSmiles("O.O")
    conformer = Chem.Conformer(2)
    conformer.SetPositions(np.array([[0.0, 0, 0], [2.8, 0, 0.1]]))
    conformer.Set3D(True)
    heavy.AddConformer(conformer)
    found = interaction(heavy, checkpoint=double)
    assert found.status.startswith("uncertain: geometry (4 hydrogens added), and their positions affect the energy")

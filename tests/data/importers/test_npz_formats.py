import pytest

from physcon_ase.data.importers.npz_formats import FORMATS, format_with
from physcon_ase.errors import StoreError


def test_every_format_is_told_apart_by_its_fields():
    assert len({layout.fields for layout in FORMATS}) == len(FORMATS)


def test_frequencies_are_no_structures():
    with pytest.raises(StoreError, match="contains frequencies without structures"):
        format_with(("gdb", "n_modes", "frequencies", "zpve", "dipole_debye"), "any_name.npz")


def test_unknown_fields_are_refused():
    graph = {"n_atoms", "n_bonds", "atomic_numbers", "bonds", "bond_orders", "formal_charges", "smiles"}
    assert format_with({*graph, "positions", "energy_b3lyp"}, "any_name.npz").name == "c7h10o2_b3lyp"
    with pytest.raises(StoreError, match=r"any_name\.npz has the fields .* no known archive; allowed are"):
        format_with({*graph, "positions", "energy_b3lyp", "energy_ccsd"}, "any_name.npz")
    with pytest.raises(StoreError, match="no known archive"):
        format_with({"n_atoms"}, "any_name.npz")

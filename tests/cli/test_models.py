import pytest

from physcon_ase.cli import main


def test_models_are_listed_described_and_verified(capsys: pytest.CaptureFixture) -> None:
    assert main(["models", "list"]) == 0
    assert "physcon-1  levels gfn2, b3lyp, m062x, mp2  energies and structures" in capsys.readouterr().out
    assert main(["models", "info", "physcon-1"]) == 0
    listed = capsys.readouterr().out
    assert "gfn2: GFN2-xTB; H C N O F Si P S Cl Br I; charge -1, 0, +1" in listed
    assert "b3lyp: B3LYP/6-31G(2df,p), a correction to gfn2 with its own encoder; H C N O; charge 0" in listed
    assert "m062x: M06-2X/def2-TZVP, a correction to gfn2 with its own last layer; H C N O F P S Cl; charge 0" in listed
    assert main(["models", "verify", "physcon-1"]) == 0
    assert "physcon-1 is intact, revision" in capsys.readouterr().out

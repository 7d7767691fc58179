import pytest

from physcon_ase.cli import main


def test_models_are_listed_described_and_verified(capsys: pytest.CaptureFixture) -> None:
    assert main(["models", "list"]) == 0
    assert "physcon-2  levels b3lyp-d3, wb97m, b3lyp  energies and structures" in capsys.readouterr().out
    assert main(["models", "info", "physcon-2"]) == 0
    listed = capsys.readouterr().out
    assert "b3lyp-d3: B3LYP-D3(BJ)/DZVP; H C N O F P S Cl Br; charge -2, -1, 0, +1, +2" in listed
    assert "wb97m: ωB97M-D3(BJ)/def2-TZVPP as the AIMNet2 ensemble gives it; H B C N O F Si P S Cl As Se" in listed
    assert "b3lyp: B3LYP/6-31G(2df,p); H C N O F; charge 0" in listed
    assert main(["models", "verify", "physcon-2"]) == 0
    assert "physcon-2 is intact, revision" in capsys.readouterr().out

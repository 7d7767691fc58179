"""The engine with a scripted stand-in of the AIMNet2 file, and with the file itself where it is found."""

import hashlib
import io
import os
import pickle
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from physcon_ase.chem.conformers import embed
from physcon_ase.chem.smiles import graph_from_smiles
from physcon_ase.data.store import Store, open_store
from physcon_ase.errors import EngineError
from physcon_ase.labelling.engines import EngineLabel, Molecule, aimnet2_engine, engine_by_name
from physcon_ase.labelling.engines import aimnet2 as module
from tests.tiny import ETHANOL, ETHANOL_NUMBERS, WATER, WATER_NUMBERS

ENERGY, FORCE = 1e-5, 1e-4
"""Float32 networks, alone and padded [eV, eV/Å]."""

PADDED_ENERGY = 1.3e-4
"""[eV] One rounding of an atomic energy of up to 2,048 eV, in float32 in the file; it depends on the processor."""

SMILES = ("O", "CC(=O)[O-]", "C[NH3+]", "CC(=O)Oc1ccccc1C(=O)O")


class Member(nn.Module):
    """A repulsion that differs from member to member, with the inputs and outputs of an AIMNet2 network."""

    def __init__(self, strength: float):
        super().__init__()
        self.strength = strength

    def forward(self, data: dict[str, Tensor]) -> dict[str, Tensor]:
        coord, numbers = data["coord"], data["numbers"]
        mask = (numbers > 0).to(coord.dtype)
        difference = coord[:, :, None] - coord[:, None]
        inverse = mask[:, :, None] * mask[:, None] / (1 + (difference * difference).sum(dim=-1))
        energy = self.strength * inverse.sum(dim=(1, 2)).double() + 10.0 * data["charge"].double()
        pull = 4 * self.strength * (inverse * inverse)[..., None] * difference
        charges = mask * (data["charge"] / mask.sum(dim=1))[:, None]
        return {"energy": energy, "forces": pull.sum(dim=2), "charges": charges}


class Ensemble(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.models = nn.ModuleList([Member(strength) for strength in (1.0, 1.1, 1.2, 1.5)])

    def forward(self, data: dict[str, Tensor]) -> dict[str, Tensor]:
        return self.models[0](data)


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "members.jpt"
    torch.jit.script(Ensemble()).save(str(path))
    monkeypatch.setattr(module, "SHA256", hashlib.sha256(path.read_bytes()).hexdigest())
    monkeypatch.setenv(module.PATH_VARIABLE, str(path))
    module._networks.cache_clear()
    yield path
    module._networks.cache_clear()


def real_file() -> Path | None:
    try:
        return module.find_file()
    except EngineError:
        return None


needs_file = pytest.mark.skipif(real_file() is None, reason=f"no AIMNet2 file; set {module.PATH_VARIABLE}")


def molecules() -> list[Molecule]:
    graphs = [graph_from_smiles(smiles) for smiles in SMILES]
    return [Molecule(g.atomic_numbers, embed(g, seed=1)[0], g.charge, row=row) for row, g in enumerate(graphs)]


def by_hand(path: Path, member: int, molecule: Molecule) -> dict[str, Tensor]:
    """The TorchScript file called as its authors do."""
    network = getattr(torch.jit.load(io.BytesIO(module._read_file(path))).models, str(member))
    return network(
        {
            "coord": torch.as_tensor(molecule.positions, dtype=torch.float32)[None],
            "numbers": torch.as_tensor(molecule.atomic_numbers.astype(np.int64))[None],
            "charge": torch.tensor([float(molecule.charge)]),
        }
    )


def assert_labels_are_those_of_the_file(path: Path) -> None:
    asked = molecules()
    for member in range(module.N_MEMBERS):
        engine = aimnet2_engine(path, member=member)
        together = engine.label_many(asked)
        for molecule, padded in zip(asked, together, strict=True):
            expected = by_hand(path, member, molecule)
            for label, tolerance in ((engine(molecule), ENERGY), (padded, PADDED_ENERGY)):
                assert label.energy == pytest.approx(float(expected["energy"].detach()), abs=tolerance)
                np.testing.assert_allclose(label.forces, expected["forces"][0].detach(), atol=FORCE)
                np.testing.assert_allclose(label.charges, expected["charges"][0].detach(), atol=FORCE)
                assert label.charges.sum() == pytest.approx(molecule.charge, abs=1e-3)
                assert label.force_spread is None


def test_labels_are_those_of_the_file_alone_and_padded_neutral_and_charged(stand_in: Path) -> None:
    assert_labels_are_those_of_the_file(stand_in)


@needs_file
def test_labels_are_those_of_the_real_file() -> None:
    module._networks.cache_clear()
    path = real_file()
    assert path is not None
    assert_labels_are_those_of_the_file(path)


@needs_file
def test_single_atoms_together_have_the_energies_that_they_have_alone() -> None:
    module._networks.cache_clear()
    engine = aimnet2_engine(real_file(), member=0)
    halides = [Molecule(np.array([number]), np.zeros((1, 3)), -1) for number in (9, 17, 35, 9)]
    for molecule, label in zip(halides, engine.label_many(halides), strict=True):
        assert isinstance(label, EngineLabel)
        assert label.energy == pytest.approx(engine(molecule).energy, abs=ENERGY)
        assert -1.01 < label.charges.sum() < -0.99


def test_networks_take_turns_by_row_and_their_mean_has_a_spread(stand_in: Path) -> None:
    asked = [Molecule(WATER_NUMBERS, WATER, row=row) for row in range(6)]
    members = [aimnet2_engine(member=member)(asked[0]) for member in range(4)]
    in_turn = pickle.loads(pickle.dumps(engine_by_name("aimnet2"))).label_many(asked)
    assert [label.energy for label in in_turn] == [members[row % 4].energy for row in range(6)]
    mean = engine_by_name("aimnet2-mean")(asked[0])
    assert mean.energy == pytest.approx(np.mean([label.energy for label in members]))
    forces = np.stack([label.forces for label in members])
    np.testing.assert_allclose(mean.forces, forces.mean(axis=0), atol=FORCE)
    deviations = np.sqrt(((forces - forces.mean(axis=0)) ** 2).sum(axis=2).mean(axis=0))
    assert mean.force_spread == pytest.approx(deviations.max(), rel=1e-5)
    assert engine_by_name("aimnet2-3")(asked[0]).energy == members[3].energy
    assert engine_by_name("aimnet2").n_turns == 4
    assert mean.energy != members[0].energy


def test_geometries_on_which_the_networks_disagree_get_no_label(stand_in: Path) -> None:
    asked = [Molecule(ETHANOL_NUMBERS, ETHANOL), Molecule(WATER_NUMBERS, WATER)]
    spreads = [label.force_spread for label in aimnet2_engine(mean=True).label_many(asked)]
    limit = sum(spreads) / 2
    kept, refused = sorted(
        aimnet2_engine(mean=True, max_spread=limit).label_many(asked), key=lambda label: isinstance(label, EngineError)
    )
    assert kept.force_spread == min(spreads)
    assert f"disagree by {max(spreads):.2f} eV/Å, more than {limit:.2f}" in str(refused)


def test_the_wheel_is_read_as_it_is(stand_in: Path, tmp_path: Path) -> None:
    wheel = tmp_path / "Auto3D-2.3.1-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.write(stand_in, module.MEMBER_FILE)
    label = aimnet2_engine(wheel, member=1)(Molecule(WATER_NUMBERS, WATER))
    assert label.energy == aimnet2_engine(stand_in, member=1)(Molecule(WATER_NUMBERS, WATER)).energy


def test_a_file_that_is_not_the_recorded_one_is_never_loaded(stand_in: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in.write_bytes(stand_in.read_bytes() + b"x")

    def load(*_: object, **__: object) -> None:
        raise AssertionError("loaded")

    monkeypatch.setattr(torch.jit, "load", load)
    with pytest.raises(EngineError, match=r"has the SHA-256 [0-9a-f]{64}, expected [0-9a-f]{64}; .* is not loaded"):
        aimnet2_engine()


def test_a_missing_file_is_an_error_that_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    remedy = "`pip download --no-deps Auto3D==2.3.1`.* set the environment variable PHYSCON_AIMNET2"
    with pytest.raises(EngineError, match=f"there is no AIMNet2 file .*nowhere.jpt; {remedy}"):
        aimnet2_engine(tmp_path / "nowhere.jpt")
    monkeypatch.delenv(module.PATH_VARIABLE, raising=False)
    monkeypatch.setattr(module, "_installed_file", lambda: None)
    with pytest.raises(EngineError, match=f"the AIMNet2 networks were not found; {remedy}"):
        engine_by_name("aimnet2")
    with pytest.raises(EngineError, match=r"AIMNet2 network 4 .*: give one of 0 to 3, or the mean"):
        aimnet2_engine(member=4)


def test_what_the_networks_do_not_know_is_refused_one_by_one(stand_in: Path) -> None:
    sodium = Molecule(np.array([11, 17]), WATER[:2])
    radical = Molecule(WATER_NUMBERS, WATER, 1, 2)
    labels = aimnet2_engine().label_many([sodium, Molecule(WATER_NUMBERS, WATER), radical])
    assert "AIMNet2 does not cover Na, only H B C N O F Si P S Cl As Se Br I; use another engine" in str(labels[0])
    assert labels[1].energy > 0
    assert "only covers closed shells, received multiplicity 2" in str(labels[2])
    with pytest.raises(EngineError, match="does not cover Na"):
        aimnet2_engine()(sodium)


def test_auto3d_is_never_imported(stand_in: Path) -> None:
    script = (
        "import sys\nfrom physcon_ase.labelling.engines import engine_by_name\n"
        "try: engine_by_name('aimnet2')\nexcept ValueError: pass\n"
        "assert not any(name.lower().startswith('auto3d') for name in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True, env={**os.environ})


@needs_file
@pytest.mark.slow
def test_a_killed_run_with_the_real_file_goes_on_and_a_second_one_is_refused(tmp_path: Path) -> None:
    killed, whole = tmp_path / "killed.h5", tmp_path / "whole.h5"
    smiles = ["C" * (k % 12 + 1) + "OCN"[k % 3] for k in range(120)]
    (tmp_path / "all.smi").write_text("\n".join(smiles))

    def command(output: Path) -> list[str]:
        arguments = ["label", str(tmp_path / "all.smi"), "--engine", "aimnet2", "--geometries", "conformer:1,thermal:2"]
        return [sys.executable, "-m", "physcon_ase.cli", *arguments, "--jobs", "1", "--seed", "3", "-o", str(output)]

    journal = killed.with_name("killed.h5.journal")
    with subprocess.Popen(command(killed), stderr=subprocess.DEVNULL) as process:
        while not (journal.exists() and '"energy"' in journal.read_text()) and process.poll() is None:
            time.sleep(0.02)
        second = subprocess.run(command(killed), capture_output=True, text=True, check=False)
        is_running = process.poll() is None
        process.kill()
    assert is_running
    assert second.returncode == 2
    assert "another process is currently labelling" in second.stderr
    n_saved = journal.read_text().count('"energy"')
    assert 0 < n_saved < 3 * len(smiles)
    for output in (killed, whole):
        subprocess.run(command(output), check=True, stderr=subprocess.DEVNULL)
    resumed, uninterrupted = (open_store(path) for path in (killed, whole))
    assert resumed.geometries.kind.tolist() == uninterrupted.geometries.kind.tolist()
    for label, expected in zip(_arrays(resumed), _arrays(uninterrupted), strict=True):
        np.testing.assert_allclose(label, expected, atol=FORCE)


def _arrays(store: Store) -> list[np.ndarray]:
    labels = store.labels["wb97m"]
    assert labels.forces is not None
    assert labels.charges is not None
    return [labels.energy, labels.forces, labels.charges]

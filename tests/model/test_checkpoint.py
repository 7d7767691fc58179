import json
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from torch import nn

from physcon_ase.errors import (
    CheckpointNotFoundError,
    CheckpointVersionError,
    CorruptCheckpointError,
    PhysConError,
)
from physcon_ase.model import checkpoint
from physcon_ase.model.checkpoint import (
    load_into,
    read_checkpoint,
    resolve,
    save_checkpoint,
    shipped_names,
    shipped_root,
    write_manifest,
)

CONFIG = {"levels": ["gfn2"], "cutoff": 5.0}


@pytest.fixture
def tensors() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "layer.weight": torch.randn(4, 3, generator=generator),
        "layer.bias": torch.randn(4, generator=generator, dtype=torch.float64),
        "atomic_numbers": torch.tensor([1, 6, 8]),
    }


@pytest.fixture
def folder(tmp_path: Path, tensors: dict[str, torch.Tensor]) -> Path:
    save_checkpoint(tmp_path / "tiny", tensors, CONFIG, recipe="steps = 3\n")
    return tmp_path / "tiny"


@pytest.fixture
def shipped(tmp_path: Path, tensors: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of two shipped checkpoints in place of the real one."""
    root = tmp_path / "checkpoints"
    save_checkpoint(root / "small", tensors, CONFIG)
    save_checkpoint(root / "large", {"w": torch.ones(2)}, CONFIG)
    write_manifest(root)
    monkeypatch.setattr(checkpoint, "shipped_root", lambda: root)
    return root


def test_reading_returns_what_was_saved_to_the_last_bit(folder: Path, tensors: dict[str, torch.Tensor]) -> None:
    found = read_checkpoint(folder)
    assert found.tensors.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert found.tensors[name].dtype == tensor.dtype
        assert torch.equal(found.tensors[name], tensor)
    assert (found.name, found.config, found.recipe) == ("tiny", CONFIG, "steps = 3\n")


def test_a_file_of_a_checkpoint_stands_for_its_folder(folder: Path) -> None:
    assert read_checkpoint(folder / "model.safetensors").revision == read_checkpoint(folder).revision


def test_equal_weights_have_equal_revisions_whatever_their_order(
    tmp_path: Path, tensors: dict[str, torch.Tensor]
) -> None:
    first = save_checkpoint(tmp_path / "a", tensors, CONFIG)
    second = save_checkpoint(tmp_path / "b", dict(reversed(tensors.items())), {})
    changed = save_checkpoint(tmp_path / "c", tensors | {"layer.weight": tensors["layer.weight"] + 1e-6}, CONFIG)
    assert first == second != changed


def test_a_moved_checkpoint_keeps_its_name(folder: Path) -> None:
    moved = folder.rename(folder.parent / "elsewhere")
    assert read_checkpoint(moved).name == "tiny"


def test_tied_weights_and_views_are_saved(tmp_path: Path) -> None:
    weight = torch.arange(6.0).reshape(2, 3)
    save_checkpoint(tmp_path / "tied", {"a": weight, "b": weight, "c": weight.T}, {})
    assert torch.equal(read_checkpoint(tmp_path / "tied").tensors["c"], weight.T)


# ---- saving is atomic


def test_saving_over_a_checkpoint_replaces_it_and_keeps_the_card(folder: Path) -> None:
    (folder / "README.md").write_text("a card")
    save_checkpoint(folder, {"w": torch.zeros(1)}, {})
    assert read_checkpoint(folder).tensors.keys() == {"w"}
    assert (folder / "README.md").read_text() == "a card"
    assert [path.name for path in folder.parent.iterdir()] == ["tiny"]


def test_saving_over_other_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(PhysConError, match=r"not a checkpoint folder: it contains thesis\.tex"):
        save_checkpoint(tmp_path, {"w": torch.zeros(1)}, {})
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


@pytest.mark.parametrize("survivors", [0, 1, 2])
def test_a_save_killed_at_any_write_leaves_the_old_checkpoint(
    folder: Path, survivors: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, write, n_written = read_checkpoint(folder).revision, checkpoint._write_durably, 0

    def write_then_die(path: Path, data: bytes) -> None:
        nonlocal n_written
        if n_written == survivors:
            raise KeyboardInterrupt
        write(path, data)
        n_written += 1

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "_write_durably", write_then_die)
        with pytest.raises(KeyboardInterrupt):
            save_checkpoint(folder, {"w": torch.zeros(1)}, {})
    assert read_checkpoint(folder).revision == before
    save_checkpoint(folder, {"w": torch.zeros(1)}, {})
    assert read_checkpoint(folder).revision != before


@pytest.mark.parametrize("renames_done", [0, 1])
def test_a_save_killed_between_its_renames_leaves_the_old_checkpoint(
    folder: Path, renames_done: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, rename, n_renamed = read_checkpoint(folder).revision, Path.rename, 0

    def rename_then_die(self: Path, target: Path) -> Path:
        nonlocal n_renamed
        if n_renamed == renames_done:
            raise KeyboardInterrupt
        n_renamed += 1
        return rename(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", rename_then_die)
        with pytest.raises(KeyboardInterrupt):
            save_checkpoint(folder, {"w": torch.zeros(1)}, {})
    assert read_checkpoint(folder).revision == before
    after = save_checkpoint(folder, {"w": torch.zeros(1)}, {})
    assert read_checkpoint(folder).revision == after


# ---- what is refused


class _Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5, "torch"])
def test_a_renamed_pickle_never_executes(folder: Path, tmp_path: Path, protocol: int | str) -> None:
    exploded = tmp_path / "exploded"
    if protocol == "torch":
        torch.save(_Bomb(exploded), folder / "model.safetensors")
    else:
        (folder / "model.safetensors").write_bytes(pickle.dumps(_Bomb(exploded), protocol=int(protocol)))
    with pytest.raises(CorruptCheckpointError, match="is a pickle, which could run code, and was not opened"):
        read_checkpoint(folder)
    assert not exploded.exists()


def test_a_header_that_starts_like_a_pickle_is_still_safetensors(tmp_path: Path) -> None:
    for n_tensors in range(1, 20):
        for extra in range(0, 64, 8):
            tensors = {f"{index:0{5 + extra}d}": torch.zeros(1) for index in range(n_tensors)}
            data = checkpoint.safetensors.torch.save(tensors)
            if data[:2] == b"\x80\x02":
                save_checkpoint(tmp_path / "odd", tensors, {})
                assert read_checkpoint(tmp_path / "odd").tensors.keys() == tensors.keys()
                return
    pytest.fail("no header of 640 bytes among the candidates")


@pytest.mark.parametrize("n_bytes", [0, 4, 9, 50, -1])
def test_truncated_weights_are_refused(folder: Path, n_bytes: int) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:n_bytes])
    with pytest.raises(CorruptCheckpointError, match="truncated"):
        read_checkpoint(folder)


def test_one_flipped_bit_in_the_weights_is_refused(folder: Path) -> None:
    weights = bytearray((folder / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (folder / "model.safetensors").write_bytes(weights)
    with pytest.raises(CorruptCheckpointError, match=r"sha256 .* expects"):
        read_checkpoint(folder)


def test_a_web_page_is_refused_by_name(folder: Path) -> None:
    (folder / "model.safetensors").write_text("\n<!DOCTYPE html><html><body>503</body></html>")
    with pytest.raises(CorruptCheckpointError, match="is a web page"):
        read_checkpoint(folder)


def test_a_broken_header_with_the_right_sha256_is_refused(folder: Path) -> None:
    data = (20).to_bytes(8, "little") + b"{" + b"?" * 40
    (folder / "model.safetensors").write_bytes(data)
    _edit_header(folder, weights_sha256=checkpoint.hashlib.sha256(data).hexdigest())
    with pytest.raises(CorruptCheckpointError, match="not a valid safetensors file"):
        read_checkpoint(folder)


@pytest.mark.parametrize(
    "text", ["", "[]", "{", '{"format_version": "1"}', '{"format_version": 1, "name": "x"}', "\xff"]
)
def test_a_config_that_is_none_is_refused(folder: Path, text: str) -> None:
    (folder / "config.json").write_text(text, encoding="latin-1")
    with pytest.raises(CorruptCheckpointError, match=r"config\.json (is not JSON|has no valid)"):
        read_checkpoint(folder)


def test_missing_files_are_named(folder: Path) -> None:
    (folder / "config.json").unlink()
    with pytest.raises(CorruptCheckpointError, match=r"config\.json is missing"):
        read_checkpoint(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointNotFoundError, match=r"has no model\.safetensors"):
        read_checkpoint(folder)


def test_a_newer_format_asks_for_an_upgrade(folder: Path) -> None:
    _edit_header(folder, format_version=checkpoint.format_version() + 1)
    with pytest.raises(CheckpointVersionError, match=r"newer than the package\. Upgrade physcon-ase"):
        read_checkpoint(folder)


def test_an_older_format_goes_through_every_upgrade_in_turn(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def upgrade_v3_v4(config: dict, tensors: dict) -> tuple[dict, dict]:
        return {**config, "seen": [1]}, {key.replace("layer", "block"): value for key, value in tensors.items()}

    def upgrade_v4_v5(config: dict, tensors: dict) -> tuple[dict, dict]:
        return {**config, "seen": [*config["seen"], 2]}, tensors

    monkeypatch.setattr(checkpoint, "UPGRADES", (upgrade_v3_v4, upgrade_v4_v5))
    _edit_header(folder, format_version=3)
    found = read_checkpoint(folder)
    assert found.config["seen"] == [1, 2]
    assert "block.weight" in found.tensors
    save_checkpoint(folder, found.tensors, found.config)
    assert read_checkpoint(folder).config["seen"] == [1, 2]


@pytest.mark.parametrize("version", [1, 2])
def test_formats_of_networks_that_are_gone_are_refused(folder: Path, version: int) -> None:
    _edit_header(folder, format_version=version)
    with pytest.raises(CheckpointVersionError, match=f"format {version}, whose network this package no longer has"):
        read_checkpoint(folder)


def _edit_header(folder: Path, **changes: object) -> None:
    header = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(header | changes))


# ---- names and the manifest


def test_shipped_names_resolve_and_others_list_them(shipped: Path) -> None:
    assert shipped_names() == ("large", "small")
    assert resolve("small") == shipped / "small"
    with pytest.raises(CheckpointNotFoundError, match=r"'huge' does not exist\. Shipped checkpoints: large, small"):
        resolve("huge")


def test_a_shipped_checkpoint_is_read_by_name(shipped: Path) -> None:
    assert read_checkpoint("small").name == "small"


@pytest.mark.parametrize("file_name", ["config.json", "recipe.toml", "model.safetensors"])
def test_a_shipped_file_that_differs_from_the_manifest_is_refused(shipped: Path, file_name: str) -> None:
    save_checkpoint(shipped / "small", {"w": torch.zeros(1)}, {"other": 1}, recipe="other = 1")
    genuine = json.loads((shipped / "manifest.json").read_text())
    # Only this one file differs from what the manifest says.
    current = write_manifest(shipped)
    current["small"][file_name] = genuine["small"][file_name]
    (shipped / "manifest.json").write_text(json.dumps(current))
    with pytest.raises(CorruptCheckpointError, match=rf"{file_name} is .*manifest\.json expects"):
        read_checkpoint("small")


def test_a_shipped_folder_outside_the_manifest_is_refused(shipped: Path) -> None:
    shutil.copytree(shipped / "small", shipped / "copy")
    with pytest.raises(CorruptCheckpointError, match=r"copy is not in manifest\.json"):
        read_checkpoint(shipped / "copy")


def test_the_manifest_of_this_package_is_up_to_date(tmp_path: Path) -> None:
    copy = shutil.copytree(shipped_root(), tmp_path / "checkpoints")
    assert write_manifest(copy) == json.loads((shipped_root() / "manifest.json").read_text())
    assert [read_checkpoint(name).name for name in shipped_names()] == list(shipped_names())


# ---- into a module


def test_load_into_copies_every_tensor() -> None:
    torch_layer, other = nn.Linear(3, 2), nn.Linear(3, 2)
    load_into(other, torch_layer.state_dict())
    assert torch.equal(other.weight, torch_layer.weight)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bias": None}, "missing bias"),
        ({"scale": torch.ones(1)}, "unexpected scale"),
        ({"weight": torch.zeros(3, 2)}, r"weight has shape \(3, 2\) instead of \(2, 3\)"),
    ],
)
def test_tensors_that_do_not_fit_are_named(change: dict, message: str) -> None:
    layer = nn.Linear(3, 2)
    tensors = {key: value for key, value in (layer.state_dict() | change).items() if value is not None}
    with pytest.raises(CorruptCheckpointError, match=message):
        load_into(layer, tensors)


def test_another_file_does_not_stand_for_the_weights_beside_it(shipped: Path) -> None:
    folder = shipped / "small"
    assert resolve(folder / "model.safetensors") == folder
    (folder / "other.pt").write_bytes(b"")
    with pytest.raises(CheckpointNotFoundError, match=r"other.pt' is not a file of a checkpoint folder"):
        resolve(folder / "other.pt")

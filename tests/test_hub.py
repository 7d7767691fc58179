import hashlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants

from physcon_ase.errors import (
    CheckpointNotFoundError,
    CorruptCheckpointError,
    HubError,
    PhysConError,
)
from physcon_ase.hub import download, from_pretrained, push_to_hub, verify
from physcon_ase.model.checkpoint import read_checkpoint, save_checkpoint
from tests.hub_server import WRITE_TOKEN, HubServer, serve

REPO = "chemists/tiny"
ABSENT_COMMIT = "0123456789" * 4
WEIGHTS = "model.safetensors"


@pytest.fixture(autouse=True)
def _plain_http(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    # Read from the environment when huggingface_hub is imported, so too late to set there.
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.delenv("HF_TOKEN", raising=False)


@pytest.fixture
def hub() -> Iterator[HubServer]:
    with serve() as server:
        yield server


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_checkpoint(tmp_path / "tiny", {"w": torch.arange(300.0)}, {"cutoff": 5.0}, recipe="steps = 3\n")
    (tmp_path / "tiny" / "README.md").write_text("---\nlicense: mit\n---\n# tiny\n")
    return tmp_path / "tiny"


@pytest.fixture
def commit(hub: HubServer, folder: Path) -> str:
    return hub.commit(REPO, {path.name: path.read_bytes() for path in folder.iterdir()})


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


# ---- download


def test_a_pinned_revision_arrives_complete(hub: HubServer, folder: Path, commit: str, cache: Path) -> None:
    hub.commit(REPO, {WEIGHTS: b"a later, different commit"})
    found = download(REPO, revision=commit, cache_dir=cache, endpoint=hub.endpoint)
    assert {path.name: path.read_bytes() for path in found.iterdir()} == {
        path.name: path.read_bytes() for path in folder.iterdir()
    }


def test_the_second_call_asks_the_hub_nothing(hub: HubServer, commit: str, cache: Path) -> None:
    first = download(REPO, revision=commit, cache_dir=cache, endpoint=hub.endpoint)
    n_requests = len(hub.log)
    assert n_requests > 0
    assert download(REPO, revision=commit, cache_dir=cache, endpoint=hub.endpoint) == first
    assert len(hub.log) == n_requests


def test_card_and_recipe_may_be_absent(hub: HubServer, folder: Path, cache: Path) -> None:
    commit = hub.commit(REPO, {name: (folder / name).read_bytes() for name in (WEIGHTS, "config.json")})
    found = download(REPO, revision=commit, cache_dir=cache, endpoint=hub.endpoint)
    assert {path.name for path in found.iterdir()} == {WEIGHTS, "config.json"}


def test_a_broken_connection_is_resumed(hub: HubServer, folder: Path, commit: str, cache: Path) -> None:
    hub.break_off_after = 20
    found = download(REPO, revision=commit, cache_dir=cache, endpoint=hub.endpoint)
    assert verify(found) == verify(folder)
    assert hub.log.count(f"GET /{REPO}/resolve/{commit}/config.json") == 2


@pytest.mark.parametrize("revision", ["main", "v1.0", "abcdef1", ABSENT_COMMIT.upper() + "X"])
def test_a_moving_revision_is_refused(revision: str) -> None:
    with pytest.raises(PhysConError, match="is not a commit: branches and tags can move"):
        download(REPO, revision=revision)


def test_absent_repository_commit_and_files_are_not_found(hub: HubServer, commit: str, cache: Path) -> None:
    with pytest.raises(CheckpointNotFoundError, match="the Hub has no chemists/none"):
        download("chemists/none", revision=commit, cache_dir=cache, endpoint=hub.endpoint)
    with pytest.raises(CheckpointNotFoundError, match=f"the Hub has no {REPO} at commit {ABSENT_COMMIT}"):
        download(REPO, revision=ABSENT_COMMIT, cache_dir=cache, endpoint=hub.endpoint)
    other = hub.commit("chemists/other", {"pytorch_model.bin": b"?"})
    with pytest.raises(CheckpointNotFoundError, match="is not a physcon_ase checkpoint"):
        download("chemists/other", revision=other, cache_dir=cache, endpoint=hub.endpoint)
    with pytest.raises(CheckpointNotFoundError, match="is not a repository name"):
        download("a/b/c", revision=commit, cache_dir=cache, endpoint=hub.endpoint)


def test_a_private_repository_needs_its_token(hub: HubServer, commit: str, cache: Path) -> None:
    hub.repositories[REPO].private = True
    with pytest.raises(CheckpointNotFoundError, match="or it is private"):
        download(REPO, revision=commit, cache_dir=cache, endpoint=hub.endpoint)
    assert download(REPO, revision=commit, cache_dir=cache, endpoint=hub.endpoint, token=WRITE_TOKEN).is_dir()


# ---- wrong bytes


def _short(content: bytes) -> bytes:
    return content[:100]


def _flipped(content: bytes) -> bytes:
    return content[:-1] + bytes([content[-1] ^ 1])


def _web_page(content: bytes) -> bytes:
    return b"<!DOCTYPE html><html><body>Sign in to the guest network</body></html>"


def _pickle(content: bytes) -> bytes:
    return b"\x80\x04" + bytes(len(content) - 2)


@pytest.mark.parametrize(
    ("announce", "deliver", "message"),
    [
        (bytes, _short, "is incomplete"),
        (_short, _short, "truncated"),
        (bytes, _flipped, "sha256 .* expects"),
        (bytes, _web_page, "is incomplete"),
        (_web_page, _web_page, "is a web page"),
        (bytes, _pickle, "is a pickle"),
    ],
)
def test_wrong_weights_are_refused_and_fetched_anew_next_time(
    hub: HubServer, folder: Path, commit: str, cache: Path, announce, deliver, message: str
) -> None:
    hub.announce[WEIGHTS], hub.deliver[WEIGHTS] = announce, deliver
    for _ in range(2):
        with pytest.raises(CorruptCheckpointError, match=message):
            download(REPO, revision=commit, cache_dir=cache, endpoint=hub.endpoint)
        assert _cached_weights(cache) == []
    hub.announce.clear()
    hub.deliver.clear()
    assert verify(download(REPO, revision=commit, cache_dir=cache, endpoint=hub.endpoint)) == verify(folder)


def test_a_web_page_in_place_of_the_config_is_refused(hub: HubServer, commit: str, cache: Path) -> None:
    hub.announce["config.json"] = hub.deliver["config.json"] = _web_page
    with pytest.raises(CorruptCheckpointError, match="is not JSON"):
        download(REPO, revision=commit, cache_dir=cache, endpoint=hub.endpoint)
    assert _cached_weights(cache) == []


def test_weights_changed_in_the_cache_are_refused_once_and_then_replaced(
    hub: HubServer, folder: Path, commit: str, cache: Path
) -> None:
    weights = download(REPO, revision=commit, cache_dir=cache, endpoint=hub.endpoint) / WEIGHTS
    weights.resolve().write_bytes(_flipped(weights.read_bytes()))
    with pytest.raises(CorruptCheckpointError, match="sha256"):
        download(REPO, revision=commit, cache_dir=cache, endpoint=hub.endpoint)
    assert verify(download(REPO, revision=commit, cache_dir=cache, endpoint=hub.endpoint)) == verify(folder)


def test_the_sha256_of_the_caller_is_checked(hub: HubServer, folder: Path, commit: str, cache: Path) -> None:
    right = hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()
    assert download(REPO, revision=commit, sha256=right, cache_dir=cache, endpoint=hub.endpoint).is_dir()
    # Once from the cache, once from the Hub.
    for _ in range(2):
        with pytest.raises(CorruptCheckpointError, match=f"sha256 {right} instead of {'0' * 64}"):
            download(REPO, revision=commit, sha256="0" * 64, cache_dir=cache, endpoint=hub.endpoint)


def test_a_mistyped_sha256_does_not_cost_the_cache(hub: HubServer, commit: str, cache: Path) -> None:
    cached = download(REPO, revision=commit, cache_dir=cache, endpoint=hub.endpoint)
    n_requests = len(hub.log)
    with pytest.raises(CorruptCheckpointError, match=f"have sha256 {verify(cached)} instead of {'0' * 64}"):
        download(REPO, revision=commit, sha256="0" * 64, cache_dir=cache, endpoint=hub.endpoint)
    assert download(REPO, revision=commit, cache_dir=cache, endpoint=hub.endpoint) == cached
    assert len(hub.log) == n_requests


def _cached_weights(cache: Path) -> list[Path]:
    """Files that a later call could take for the weights."""
    return [path for path in cache.rglob("*") if path.name == WEIGHTS or path.suffix == ".incomplete"]


# ---- without a connection


def test_offline_needs_the_cache_and_says_so(
    hub: HubServer, commit: str, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(CheckpointNotFoundError, match="not in the cache and HF_HUB_OFFLINE is set"):
        download(REPO, revision=commit, cache_dir=cache, endpoint=hub.endpoint)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    online = download(REPO, revision=commit, cache_dir=cache, endpoint=hub.endpoint)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    n_requests = len(hub.log)
    assert download(REPO, revision=commit, cache_dir=cache, endpoint=hub.endpoint) == online
    assert len(hub.log) == n_requests


def test_offline_a_wrong_sha256_does_not_cost_the_cache(
    hub: HubServer, commit: str, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    download(REPO, revision=commit, cache_dir=cache, endpoint=hub.endpoint)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(CorruptCheckpointError, match="instead of"):
        download(REPO, revision=commit, sha256="0" * 64, cache_dir=cache, endpoint=hub.endpoint)
    assert download(REPO, revision=commit, cache_dir=cache, endpoint=hub.endpoint).is_dir()


_READ_ONLY = """
import errno, os, sys
cache, repo, revision = sys.argv[1:]

def refuse_writing(event, args):
    # chmod would not stop root, under whom tests often run.
    writing = event in ("os.mkdir", "os.remove", "os.rename", "os.symlink", "os.truncate") or (
        event == "open" and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
    )
    if writing and any(isinstance(a, (str, bytes)) and os.path.abspath(os.fsdecode(a)).startswith(cache) for a in args):
        raise OSError(errno.EROFS, "Read-only file system", args[0])

sys.addaudithook(refuse_writing)
from physcon_ase.errors import PhysConError
from physcon_ase.hub import download, verify
try:
    print(verify(download(repo, revision=revision)))
except PhysConError as error:
    print(type(error).__name__, error)
"""


def _in_a_fresh_process(script: str, *arguments: str, **environment: str) -> str:
    """Standard output of a script; huggingface_hub reads its environment once, at import."""
    root = Path(__file__).resolve().parents[1]
    completed = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        env={"PYTHONPATH": str(root), "PATH": "", "HF_HUB_DISABLE_XET": "1", "OMP_NUM_THREADS": "1"} | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert completed.returncode == 0, completed.stderr
    return completed.stdout.strip()


def test_a_read_only_cache_is_read_and_the_environment_honoured(
    hub: HubServer, folder: Path, commit: str, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    environment = {"HF_HOME": str(home), "HF_ENDPOINT": hub.endpoint}
    empty = _in_a_fresh_process(_READ_ONLY, str(home / "hub"), REPO, commit, **environment)
    assert "HubError" in empty
    assert "cannot be written to the cache" in empty
    download(REPO, revision=commit, cache_dir=home / "hub", endpoint=hub.endpoint)
    offline = environment | {"HF_HUB_OFFLINE": "1"}
    assert _in_a_fresh_process(_READ_ONLY, str(home / "hub"), REPO, commit, **offline) == verify(folder)


def test_an_unreachable_hub_is_reported(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serve() as gone:
        endpoint = gone.endpoint
    monkeypatch.setattr("huggingface_hub.file_download._ETAG_RETRY_TIMEOUT", 0.1, raising=False)
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)
    with pytest.raises(CheckpointNotFoundError, match="not in the cache and the Hub does not answer"):
        download(REPO, revision=ABSENT_COMMIT, cache_dir=cache, endpoint=endpoint)


# ---- push


def test_pushed_weights_come_back_identical(hub: HubServer, folder: Path, cache: Path) -> None:
    commit = push_to_hub(folder, REPO, token=WRITE_TOKEN, endpoint=hub.endpoint)
    assert hub.repositories[REPO].commits[commit].keys() == {WEIGHTS, "config.json", "recipe.toml", "README.md"}
    found = from_pretrained(REPO, revision=commit, cache_dir=cache, endpoint=hub.endpoint)
    before, after = read_checkpoint(folder), read_checkpoint(found)
    assert torch.equal(before.tensors["w"], after.tensors["w"])
    assert (before.name, before.revision, before.config) == (after.name, after.revision, after.config)


def test_a_second_push_makes_a_second_commit_and_keeps_the_first(hub: HubServer, folder: Path, cache: Path) -> None:
    first = push_to_hub(folder, REPO, token=WRITE_TOKEN, endpoint=hub.endpoint)
    old = verify(folder)
    new = save_checkpoint(folder, {"w": torch.zeros(3)}, {})
    second = push_to_hub(folder, REPO, token=WRITE_TOKEN, endpoint=hub.endpoint)
    for commit, sha256 in ((first, old), (second, new)):
        download(REPO, revision=commit, sha256=sha256, cache_dir=cache, endpoint=hub.endpoint)


@pytest.mark.parametrize("private", [True, False])
def test_a_new_repository_is_private_on_request(hub: HubServer, folder: Path, private: bool) -> None:
    push_to_hub(folder, REPO, token=WRITE_TOKEN, private=private, endpoint=hub.endpoint)
    assert hub.repositories[REPO].private is private


def test_pushing_without_permission_is_an_error_that_says_how(hub: HubServer, folder: Path) -> None:
    with pytest.raises(HubError, match="token with write permission"):
        push_to_hub(folder, REPO, token="hf_read", endpoint=hub.endpoint)
    assert hub.repositories == {}


def test_an_upload_that_the_storage_refuses_is_an_error(hub: HubServer, folder: Path) -> None:
    hub.refuse_uploads = True
    with pytest.raises(HubError, match=r"Error while uploading 'model\.safetensors'"):
        push_to_hub(folder, REPO, token=WRITE_TOKEN, endpoint=hub.endpoint)
    assert hub.repositories[REPO].commits == {}


def test_a_corrupt_checkpoint_is_not_pushed(hub: HubServer, folder: Path) -> None:
    (folder / WEIGHTS).write_bytes(_flipped((folder / WEIGHTS).read_bytes()))
    with pytest.raises(CorruptCheckpointError, match="sha256"):
        push_to_hub(folder, REPO, token=WRITE_TOKEN, endpoint=hub.endpoint)
    assert hub.log == []


def test_pushing_offline_is_an_error(hub: HubServer, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(HubError, match="HF_HUB_OFFLINE is set"):
        push_to_hub(folder, REPO, token=WRITE_TOKEN, endpoint=hub.endpoint)


# ---- names


def test_a_local_folder_needs_no_hub(folder: Path) -> None:
    assert from_pretrained(folder) == folder
    with pytest.raises(CorruptCheckpointError, match="instead of"):
        from_pretrained(folder, sha256="0" * 64)


def test_a_repository_without_a_commit_is_refused() -> None:
    with pytest.raises(CheckpointNotFoundError, match="pin its commit"):
        from_pretrained(REPO)

"""Download and upload of checkpoints from and to the Hugging Face Hub.

Downloads are pinned to a commit and verified on every call. The environment variables `HF_ENDPOINT`, `HF_HOME`,
`HF_HUB_OFFLINE` and `HF_TOKEN` are respected, and a read-only cache can be used.
"""

import re
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Final

from huggingface_hub import CommitOperationAdd, HfApi, constants, hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import (
    EntryNotFoundError,
    HfHubHTTPError,
    HFValidationError,
    HTTPError,  # pyright: ignore[reportPrivateImportUsage]  # of httpx or httpx2, depending on the version
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from physcon_ase.errors import CheckpointNotFoundError, CorruptCheckpointError, HubError, PhysConError
from physcon_ase.model.checkpoint import (
    CARD_FILE,
    CHECKPOINT_FILES,
    CONFIG_FILE,
    PROVENANCE_FILE,
    RECIPE_FILE,
    WEIGHTS_FILE,
    read_checkpoint,
    resolve,
    shipped_names,
)

_COMMIT: Final = re.compile(r"[0-9a-f]{40}")


def from_pretrained(
    name: Path | str,
    *,
    revision: str | None = None,
    sha256: str | None = None,
    cache_dir: Path | str | None = None,
    token: str | None = None,
    endpoint: str | None = None,
) -> Path:
    """Verified folder of a shipped checkpoint, a local checkpoint or a Hub repository "owner/name".

    The folder can be passed to the calculator and the generator.

    Args:
        name: repository on the Hub if `revision` is given, otherwise a shipped name or a folder.
        revision: commit of the repository, 40 hexadecimal digits.
        sha256: expected SHA-256 of the weights, for any source.
        cache_dir: see `download`.
        token: see `download`.
        endpoint: see `download`.

    Raises:
        CheckpointNotFoundError: no such checkpoint, or a repository without `revision`.
        CorruptCheckpointError: the verification of the files failed.
    """
    if revision is not None:
        return download(
            str(name), revision=revision, sha256=sha256, cache_dir=cache_dir, token=token, endpoint=endpoint
        )
    if _looks_like_a_repository(name):
        raise CheckpointNotFoundError(
            f"{name!r} is neither a shipped checkpoint ({', '.join(shipped_names()) or 'none'}) nor a local folder. "
            "For a repository on the Hub, pin its commit: revision=<40 hexadecimal digits>."
        )
    folder = resolve(name)
    _check_sum(verify(folder), sha256, folder)
    return folder


def download(
    repo_id: str,
    *,
    revision: str,
    sha256: str | None = None,
    cache_dir: Path | str | None = None,
    token: str | None = None,
    endpoint: str | None = None,
) -> Path:
    """Downloads a checkpoint from the Hub, unless it is cached, and verifies it.

    Args:
        repo_id: repository, "owner/name".
        revision: commit, 40 hexadecimal digits; branches and tags are not accepted because they can move.
        sha256: expected SHA-256 of the weights; by default that of the repository's `config.json`.
        cache_dir: cache folder; by default that of huggingface_hub.
        token: access token; by default the one stored by `hf auth login`.
        endpoint: address of the Hub; by default `HF_ENDPOINT`.

    Returns:
        The checkpoint folder in the cache.

    Raises:
        CheckpointNotFoundError: no such repository, commit or file, or not cached and no connection.
        CorruptCheckpointError: corrupt or incomplete files, which are removed from the cache; or intact weights with
            another sum than `sha256`, which stay there.
        HubError: the Hub rejected the request or the connection failed.
    """
    if not _COMMIT.fullmatch(revision):
        raise PhysConError(
            f"revision {revision!r} of {repo_id} is not a commit: branches and tags can move. Give the 40 hexadecimal "
            "digits of a commit."
        )

    source = f"{repo_id} at commit {revision}"
    try:
        folder = _cached(repo_id, revision, cache_dir) or _fetch(repo_id, revision, cache_dir, token, endpoint)
    except HFValidationError as error:
        raise CheckpointNotFoundError(f'{repo_id!r} is not a repository name of the form "owner/name".') from error
    except (RepositoryNotFoundError, RevisionNotFoundError) as error:
        raise CheckpointNotFoundError(
            f"the Hub has no {source}, or it is private. Check the name; for a private repository pass token or set "
            "HF_TOKEN."
        ) from error
    except (LocalEntryNotFoundError, OfflineModeIsEnabled) as error:
        why = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else "the Hub does not answer"
        raise CheckpointNotFoundError(
            f"{source} is not in the cache and {why}. Download it once while online; it is cached for offline use."
        ) from error
    except EntryNotFoundError as error:
        raise CheckpointNotFoundError(f"{source} is not a physcon_ase checkpoint: {_first_line(error)}") from error
    except HTTPError as error:
        raise HubError(f"downloading {source} failed: {_first_line(error)}. Try again later.") from error
    except OSError as error:
        raise _disk_or_length_error(error, source) from error
    try:
        found = verify(folder)
    except CorruptCheckpointError:
        _forget(folder)
        raise
    _check_sum(found, sha256, folder)
    return folder


def push_to_hub(
    directory: Path | str,
    repo_id: str,
    *,
    token: str | None = None,
    private: bool = False,
    endpoint: str | None = None,
) -> str:
    """Uploads a checkpoint folder with its model card in one commit; creates the repository if it does not exist.

    Args:
        directory: checkpoint folder or shipped name; verified before the upload.
        repo_id: repository, "owner/name".
        token: access token with write permission; by default the one stored by `hf auth login`.
        private: whether a new repository is private.
        endpoint: address of the Hub; by default `HF_ENDPOINT`.

    Returns:
        The commit, the `revision` to pass to `download`.

    Raises:
        CheckpointNotFoundError: there is no such checkpoint.
        CorruptCheckpointError: the verification of the checkpoint failed.
        HubError: the Hub rejected the request or the connection failed.
    """
    revision, folder = verify(directory), resolve(directory)
    operations = [
        CommitOperationAdd(path_in_repo=name, path_or_fileobj=folder / name)
        for name in CHECKPOINT_FILES
        if (folder / name).is_file()
    ]
    api = HfApi(endpoint=endpoint, token=token)
    try:
        api.create_repo(repo_id, private=private, exist_ok=True)
        commit = api.create_commit(repo_id, operations=operations, commit_message=f"Weights {revision[:12]}")
    except HFValidationError as error:
        raise HubError(f'{repo_id!r} is not a repository name of the form "owner/name".') from error
    except OfflineModeIsEnabled as error:
        raise HubError("HF_HUB_OFFLINE is set; unset it to push.") from error
    except HfHubHTTPError as error:
        raise HubError(
            f"the Hub rejected {repo_id}: {_first_line(error)}. Pushing needs a token with write permission: pass "
            "token or run `hf auth login`."
        ) from error
    # huggingface_hub raises RuntimeError if the upload to the storage backend fails.
    except (HTTPError, RuntimeError) as error:
        raise HubError(f"pushing {repo_id} failed: {_first_line(error)} Check the connection and try again.") from error
    return commit.oid


def verify(name_or_path: Path | str) -> str:
    """Reads and verifies a checkpoint and returns its revision (SHA-256 of the weights).

    Raises:
        CheckpointNotFoundError: there is no such checkpoint.
        CorruptCheckpointError: a file is truncated, modified or of the wrong format.
        CheckpointVersionError: the format is newer than the package, or no longer supported.
    """
    return read_checkpoint(name_or_path).revision


def _cached(repo_id: str, revision: str, cache_dir: Path | str | None) -> Path | None:
    # `_fetch` downloads the weights last, so the checkpoint is complete if they are cached.
    paths = [try_to_load_from_cache(repo_id, name, cache_dir, revision) for name in (CONFIG_FILE, WEIGHTS_FILE)]
    found = [Path(path).parent for path in paths if isinstance(path, str)]
    return found[0] if len(found) == len(paths) else None


def _fetch(repo_id: str, revision: str, cache_dir: Path | str | None, token: str | None, endpoint: str | None) -> Path:
    pinned = partial(hf_hub_download, repo_id, revision=revision, cache_dir=cache_dir, token=token, endpoint=endpoint)
    pinned(CONFIG_FILE)
    for optional in (RECIPE_FILE, PROVENANCE_FILE, CARD_FILE):
        with suppress(RemoteEntryNotFoundError):
            pinned(optional)
    return Path(pinned(WEIGHTS_FILE)).parent


def _check_sum(found: str, sha256: str | None, folder: Path) -> None:
    """Compares the sum of intact weights with that of the caller."""
    if sha256 is not None and found != sha256.lower():
        raise CorruptCheckpointError(
            f"the weights in {folder} have sha256 {found} instead of {sha256}. Check the source or the checksum."
        )


def _looks_like_a_repository(name: Path | str) -> bool:
    return isinstance(name, str) and re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", name) is not None and not Path(name).exists()


def _forget(folder: Path) -> None:
    """Removes a revision and the files it links to from the cache, unless the cache is read-only."""
    if constants.HF_HUB_OFFLINE:
        return
    for name in CHECKPOINT_FILES:
        link = folder / name
        # Files in a read-only cache are kept; every call verifies them again.
        with suppress(OSError):
            link.resolve().unlink(missing_ok=True)
            link.unlink(missing_ok=True)


def _disk_or_length_error(error: OSError, source: str) -> PhysConError:
    # huggingface_hub reports an incomplete download as an OSError without errno.
    if error.errno is None:
        return CorruptCheckpointError(f"the download of {source} is incomplete: {_first_line(error)} Try again.")
    return HubError(f"{source} cannot be written to the cache: {error}. Set HF_HOME or cache_dir to a writable folder.")


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n", maxsplit=1)[0]

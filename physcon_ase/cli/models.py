"""Commands for checkpoints: ``models list``, ``info``, ``verify`` and ``download``; ``check``."""

import argparse
from pathlib import Path

from physcon_ase.cli.command import DEFAULT_CHECKPOINT, SOME_FAILED, add_command


def add_models(commands: argparse._SubParsersAction) -> None:
    """Adds ``physcon models``."""
    models = commands.add_parser("models", help="checkpoints").add_subparsers(required=True, metavar="COMMAND")
    add_command(models, "list", _models_list, "list the checkpoints shipped with the package")
    command = add_command(models, "info", _models_info, "print levels, elements, size and revision of a checkpoint")
    command.add_argument("name", help="shipped name or folder")
    command = add_command(models, "verify", _models_verify, "check that a checkpoint is complete and unchanged")
    command.add_argument("name", help="shipped name or folder")
    command = add_command(models, "download", _models_download, "download a checkpoint from the Hub and verify it")
    command.add_argument("repo_id", metavar="OWNER/NAME", help="repository")
    command.add_argument("--revision", required=True, help="commit, 40 hexadecimal digits")
    command.add_argument("--sha256", help="expected SHA-256 of the weights")
    command.add_argument("--cache-dir", type=Path, help="cache folder (default: that of huggingface_hub)")


def _models_list(_: argparse.Namespace) -> int:
    from physcon_ase.model.describe import describe_shipped

    print(describe_shipped())
    return 0


def _models_info(options: argparse.Namespace) -> int:
    from physcon_ase.model.describe import describe_checkpoint

    print(describe_checkpoint(options.name))
    return 0


def _models_verify(options: argparse.Namespace) -> int:
    from physcon_ase.hub import verify

    print(f"{options.name} is intact, revision {verify(options.name)}")
    return 0


def _models_download(options: argparse.Namespace) -> int:
    from physcon_ase.hub import download

    folder = download(options.repo_id, revision=options.revision, sha256=options.sha256, cache_dir=options.cache_dir)
    print(f"{options.repo_id} is verified and in {folder}")
    return 0


def add_check(commands: argparse._SubParsersAction) -> None:
    """Adds ``physcon check``."""
    text = "check the physical consistency of a checkpoint; exit code 1 if a tolerance is exceeded"
    command = add_command(commands, "check", _check, text)
    command.add_argument(
        "checkpoint", nargs="?", default=DEFAULT_CHECKPOINT, metavar="CHECKPOINT", help="shipped name or folder"
    )
    command.add_argument("--level", help="level of theory (default: all)")
    command.add_argument(
        "--seed", type=int, default=0, help="random seed of geometries, rotations and velocities (default: 0)"
    )


def _check(options: argparse.Namespace) -> int:
    from physcon_ase.checks import check_checkpoint, format_checks

    passed = True
    for title, checks in check_checkpoint(options.checkpoint, level=options.level, seed=options.seed):
        print(title)
        print(format_checks(checks))
        passed = passed and all(check.passed for check in checks)
    return 0 if passed else SOME_FAILED

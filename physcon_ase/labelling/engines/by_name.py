"""Lookup of engines by the name of their level or program."""

from collections.abc import Callable, Mapping
from typing import Any, Final

from physcon_ase.errors import EngineError
from physcon_ase.labelling.engines.aimnet2 import N_MEMBERS, aimnet2_engine
from physcon_ase.labelling.engines.checkpoint import checkpoint_engine
from physcon_ase.labelling.engines.engine import Engine
from physcon_ase.labelling.engines.mopac import MOPAC_METHODS, mopac_engine
from physcon_ase.labelling.engines.pyscf import PYSCF_LEVELS, pyscf_engine
from physcon_ase.labelling.engines.tblite import TBLITE_METHODS, tblite_engine

AIMNET2_NAMES: Final[Mapping[str, Mapping[str, Any]]] = {
    "aimnet2": {},
    "aimnet2-mean": {"mean": True},
    **{f"aimnet2-{member}": {"member": member} for member in range(N_MEMBERS)},
}
"""Options of `aimnet2_engine` by engine name."""


def _aimnet2(name: str) -> Engine:
    return aimnet2_engine(**AIMNET2_NAMES[name])


def engine_by_name(name: str, *, level: str | None = None) -> Engine:
    """Engine for a level of theory or a checkpoint.

    Args:
        name: a key of `TBLITE_METHODS`, `MOPAC_METHODS` or `PYSCF_LEVELS`; "aimnet2" (the four networks in turn),
            "aimnet2-mean" (their mean) or "aimnet2-0" to "aimnet2-3" (a single one); or a checkpoint (name or folder).
        level: level of theory, for checkpoints only.

    Raises:
        EngineError: the program is not installed, or a level was given for an engine other than a checkpoint.
        CheckpointNotFoundError: the name is neither that of an engine nor of a checkpoint.
    """
    makers: tuple[tuple[Mapping[str, object], Callable[[str], Engine]], ...] = (
        (TBLITE_METHODS, tblite_engine),
        (MOPAC_METHODS, mopac_engine),
        (PYSCF_LEVELS, pyscf_engine),
        (AIMNET2_NAMES, _aimnet2),
    )
    for names, make in makers:
        if name in names:
            if level is not None:
                raise EngineError(f"engine {name!r} is itself a level of theory; omit the level {level!r}")
            return make(name)
    return checkpoint_engine(name, level=level)

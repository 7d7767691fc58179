"""Compiled programs for energies and forces of one structure after another, as in molecular dynamics.

For a small molecule, half of the time is overhead of launching a few hundred operations; a compiled program has few.
A program is compiled by `torch.compile` on first use, for one level, number of atoms and width of the neighbour list;
PyTorch caches it on disk.
"""

import os
import shutil
from collections.abc import Callable
from typing import Any, Final

import torch
from torch import Tensor

from physcon_ase.batch import Batch
from physcon_ase.errors import CompilationError
from physcon_ase.model.charge_groups import in_order
from physcon_ase.model.energy import Levels
from physcon_ase.model.pairs import MATRIX_SLOTS, find_neighbours, pairs_of, searches_neighbours
from physcon_ase.model.physcon import Outputs, PhysCon

_WIDTH: Final = 8
"""Neighbour lists are padded to a multiple of this number, by at least half of it, so that the program of the first
geometry also fits the following ones."""

_MOST_PROGRAMS: Final = 1000
"""Maximum number of compiled programs per process (PyTorch's recompilation limit)."""


class CompiledModel:
    """Energies, charges and forces of single structures.

    Batches, overlapping cores and separate groups are not compiled.
    """

    def __init__(self, model: PhysCon):
        """Checks that programs can be compiled; the first is compiled on first use.

        Raises:
            CompilationError: the model is not on a CPU, or there is no C++ compiler.
        """
        if model.energy.embedding.weight.device.type != "cpu":
            raise CompilationError("compile=True is for the CPU; omit it on other devices")
        names = (os.environ.get("CXX"), "g++", "clang++", "cl")
        if not any(name and shutil.which(name) for name in names):
            raise CompilationError(
                "compile=True needs a C++ compiler: install g++ or clang++, set CXX, or omit compile=True"
            )
        self.model = model
        self._programs: dict[tuple[str, int, int], Callable[..., Any]] = {}

    def __getstate__(self) -> dict[str, Any]:
        # programs can neither be copied nor sent to another process
        return {"model": self.model, "_programs": {}}

    @torch.no_grad()
    def evaluate(self, batch: Batch, level: str) -> Outputs:
        """`PhysCon.evaluate` with forces.

        Raises:
            CompilationError: the program could not be compiled.
            UnknownLevelError: there is no such level.
        """
        n_slots = batch.positions.shape[1]
        if len(batch) != 1 or n_slots > MATRIX_SLOTS:
            return self.model.evaluate(batch, level, forces=True)
        neighbours, mask = self._neighbours(batch, level)
        key = level, n_slots, 0 if neighbours is None else neighbours.shape[2]
        is_new = key not in self._programs
        if is_new:
            self._programs[key] = torch.compile(_program(self.model, level), fullgraph=True, dynamic=False)
        arguments = (batch.atomic_numbers, batch.positions, batch.charge, batch.multiplicity, neighbours, mask)
        outputs, is_valid = self._first_run(key, arguments) if is_new else self._programs[key](*arguments)
        return outputs if is_valid.item() else self.model.evaluate(batch, level, forces=True)

    def _first_run(self, key: tuple[str, int, int], arguments: tuple[Tensor | None, ...]) -> tuple[Outputs, Tensor]:
        """Compiles a program and runs it."""
        import torch._dynamo.exc  # a second of import

        try:
            with torch._dynamo.config.patch(recompile_limit=_MOST_PROGRAMS, accumulated_recompile_limit=_MOST_PROGRAMS):
                return self._programs[key](*arguments)
        except torch._dynamo.exc.TorchDynamoException as error:
            del self._programs[key]
            reason = str(error).strip().split("\n", maxsplit=1)[0]
            raise CompilationError(f"the model could not be compiled: {reason}; omit compile=True") from error

    def _neighbours(self, batch: Batch, level: str) -> tuple[Tensor, Tensor] | tuple[None, None]:
        """Neighbour list, padded to the width of an existing program if possible."""
        if not searches_neighbours(batch):
            return None, None
        neighbours, mask = find_neighbours(batch, self.model.config.encoder.cutoff)
        needed, n_slots = neighbours.shape[2], neighbours.shape[1]
        widths = [width for name, slots, width in self._programs if (name, slots) == (level, n_slots)]
        new = needed + _WIDTH // 2
        width = min((width for width in widths if width >= needed), default=new + -new % _WIDTH)
        padding = neighbours[:, :, :1].expand(-1, -1, width - needed)
        return (
            torch.cat([neighbours, padding], dim=2),
            torch.cat([mask, torch.zeros_like(padding, dtype=torch.bool)], dim=2),
        )


def _program(model: PhysCon, level: str) -> Callable[..., tuple[Outputs, Tensor]]:
    levels = Levels((model.level(level).name,))

    def evaluate(
        atomic_numbers: Tensor,
        positions: Tensor,
        charge: Tensor,
        multiplicity: Tensor,
        neighbours: Tensor | None,
        mask: Tensor | None,
    ) -> tuple[Outputs, Tensor]:
        batch = Batch(atomic_numbers, positions, charge, multiplicity)
        pairs = pairs_of(batch, neighbours, mask)
        is_valid = in_order(batch, pairs, model.config.encoder.cutoff).all() & ~model.core.are_close(batch, pairs).any()
        return model.evaluate_apart(batch, levels, pairs, None), is_valid

    return evaluate

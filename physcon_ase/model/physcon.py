"""The model: one encoder, one energy head (and maybe last layers) per level of theory, and the structure head."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from physcon_ase.batch import Batch, EnergyFn, select
from physcon_ase.errors import MissingHeadError, PhysConError, UnknownLevelError
from physcon_ase.model.checkpoint import load_into, read_checkpoint
from physcon_ase.model.config import LevelConfig, ModelConfig, config_from_dict
from physcon_ase.model.encoder import Encoder, OwnLayers
from physcon_ase.model.forces import energies_and_forces
from physcon_ase.model.gradient import energies_of_atoms
from physcon_ase.model.heads import CoreRepulsion, DirectForceHead, EnergyHead, References, fade_in
from physcon_ase.model.layers import Pairs, make_pairs
from physcon_ase.model.structure import Denoiser, StructureHead
from physcon_ase.model.uncertainty import EnergyRigidity, ForceRigidity, features_of_atoms

DEFAULT_CHECKPOINT = "physcon-1"
"""The checkpoint that ships with the package."""

DTYPES: Final[dict[str, torch.dtype]] = {"float32": torch.float32, "float64": torch.float64}
"""Number formats by name."""


@dataclass(frozen=True)
class LoadedModel:
    """A model with what results quote of its origin."""

    model: "PhysCon"
    """The model, in evaluation mode, without gradients of its weights."""
    name: str
    """Name of the checkpoint, such as "physcon-1"."""
    revision: str
    """sha256 of the weights."""


def load_model(
    checkpoint: Path | str = DEFAULT_CHECKPOINT,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | str = torch.float32,
) -> LoadedModel:
    """The model of a checkpoint: a shipped name or a folder.

    Raises:
        PhysConError: a number format or a device that cannot be used.
        CheckpointNotFoundError, CorruptCheckpointError, CheckpointVersionError: see `checkpoint.read_checkpoint`.
    """
    dtype, device = _usable_dtype(dtype), _usable_device(device)
    stored = read_checkpoint(checkpoint)
    with torch.random.fork_rng(devices=[]):  # the weights are drawn before they are replaced; loading leaves no trace
        model = PhysCon(config_from_dict(stored.config), dtype=dtype)
    load_into(model, stored.tensors)
    return LoadedModel(model.to(device).eval().requires_grad_(False), stored.name, stored.revision)


def _usable_dtype(dtype: torch.dtype | str) -> torch.dtype:
    found = DTYPES.get(dtype) if isinstance(dtype, str) else dtype
    if found is None or found not in DTYPES.values():
        raise PhysConError(f"dtype {dtype!r} is not supported; use {' or '.join(DTYPES)}")
    return found


def _usable_device(device: torch.device | str) -> torch.device:
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:  # PyTorch without CUDA asserts
        reason = str(error).split("\n", maxsplit=1)[0]
        raise PhysConError(f"device {str(device)!r} cannot be used: {reason}; use 'cpu'") from error


class PhysCon(nn.Module):
    """Energies at several levels of theory, and equilibrium structures, from one network."""

    def __init__(self, config: ModelConfig, *, dtype: torch.dtype = torch.float32):
        super().__init__()
        self.config = config
        self.encoder = Encoder(config.encoder)
        self.own_layers = nn.ModuleDict(
            {level.name: OwnLayers(config.encoder, level.own_layers) for level in config.levels if level.own_layers > 0}
        )
        self.core = CoreRepulsion()
        self.heads = nn.ModuleDict({level.name: EnergyHead(config.encoder.channels, level) for level in config.levels})
        n_vectors = config.encoder.output_vectors
        self.direct_heads = nn.ModuleDict(
            {level.name: DirectForceHead(n_vectors, level) for level in config.levels} if n_vectors else {}
        )
        self.structure = None if config.structure is None else StructureHead(config.structure)
        self.references = nn.ModuleDict({level.name: References(level) for level in config.levels})
        self.energy_rigidity = nn.ModuleDict(
            {name: EnergyRigidity(self.n_features(name)) for name in config.energy_uncertainty}
        )
        self.force_rigidity = nn.ModuleDict(
            {name: ForceRigidity(self.n_features(name)) for name in config.forces_uncertainty}
        )
        self.to(dtype)
        # Asked at each evaluation whether they require a gradient: walking through the modules would take too long.
        self._weights = (*self.encoder.parameters(), *self.own_layers.parameters(), *self.heads.parameters())

    @property
    def level_names(self) -> tuple[str, ...]:
        """Names of the levels; the first is the default."""
        return tuple(level.name for level in self.config.levels)

    def level(self, name: str) -> LevelConfig:
        """The level of this name.

        Raises:
            UnknownLevelError: if there is none.
        """
        for level in self.config.levels:
            if level.name == name:
                return level
        raise UnknownLevelError(f"unknown level {name!r}; this model has {', '.join(self.level_names)}")

    def atomic_energies(self, batch: Batch, level: str) -> Float[Tensor, "molecules slots"]:
        """Energy [eV, float64] of each atom, references included; 0 in empty slots."""
        (interaction,), _ = self._one_pass(batch, [level])
        return interaction + self.references[level](batch)

    def atomic_energies_and_features(
        self, batch: Batch, level: str
    ) -> tuple[Float[Tensor, "molecules slots"], Float[Tensor, "molecules slots features"]]:
        """`atomic_energies`, and what the last layers behind them see of each atom, the level's own first.

        The features carry no gradient; in empty slots they are 0.
        """
        (interaction,), hidden = self._one_pass(batch, [level])
        of_heads = torch.cat([hidden[name].detach() for name in self._with_bases([level])], dim=-1)
        return interaction + self.references[level](batch), features_of_atoms(of_heads, batch.atom_mask)

    def chain(self, level: str) -> list[str]:
        """The level, that which it corrects, that which this one corrects, and so on.

        Raises:
            UnknownLevelError: the model has no such level.
        """
        base = self.level(level).base
        return [level, *(self.chain(base) if base else [])]

    def n_features(self, level: str) -> int:
        """Number of features in `atomic_energies_and_features`."""
        return sum(cast(EnergyHead, self.heads[name]).n_hidden for name in self._with_bases([level]))

    def energy_uncertainties(
        self, features: Float[Tensor, "molecules slots features"], level: str
    ) -> Float[Tensor, " molecules"] | None:
        """Standard deviation [eV] of the energies, from `atomic_energies_and_features`; None without a table."""
        return self.energy_rigidity[level](features) if level in self.energy_rigidity else None

    def force_uncertainties(
        self, features: Float[Tensor, "molecules slots features"], batch: Batch, level: str
    ) -> Float[Tensor, "molecules slots"] | None:
        """Standard deviation [eV/Å] of each component of the force on each atom; None without a table."""
        return self.force_rigidity[level](features, batch.atomic_numbers) if level in self.force_rigidity else None

    def energies(self, batch: Batch, level: str) -> Float[Tensor, " molecules"]:
        """Total energy [eV, float64] of each molecule."""
        return self.atomic_energies(batch, level).sum(dim=1)

    def energy_fn(self, level: str) -> EnergyFn:
        """The energies at one level as a function of the batch alone."""
        self.level(level)
        return functools.partial(self.energies, level=level)

    def interaction_energies(self, batch: Batch, levels: Sequence[str]) -> Float[Tensor, "molecules slots levels"]:
        """Energy [eV] of each atom at each level without the references, in the number format of the model."""
        found: dict[str, Tensor] = {}
        for together in self._passes(levels):
            energies, _ = self._one_pass(batch, together)
            found |= dict(zip(together, energies, strict=True))
        return torch.stack([found[name] for name in levels], dim=-1)

    def _passes(self, levels: Sequence[str]) -> list[list[str]]:
        """The levels, those together that share all layers of the encoder."""
        passes: dict[str, list[str]] = {}
        for name in levels:
            passes.setdefault(self._owner_of_layers(name), []).append(name)
        return list(passes.values())

    def _owner_of_layers(self, level: str) -> str:
        """The first of the level and those which it corrects that has layers of its own; "" if none has."""
        return next((name for name in self.chain(level) if name in self.own_layers), "")

    def _layers_of(self, levels: Sequence[str]) -> OwnLayers | None:
        """What stands in for the encoder's last layers at levels that share all layers."""
        owner = self._owner_of_layers(levels[0])
        return cast(OwnLayers, self.own_layers[owner]) if owner else None

    def _one_pass(
        self, batch: Batch, levels: Sequence[str]
    ) -> tuple[list[Float[Tensor, "molecules slots"]], dict[str, Tensor]]:
        """Energies at levels that share all layers, and the hidden layer of each head that they need."""
        names = self._with_bases(levels)
        of_heads, hidden, pairs, overlap = self._energies_of_heads(batch, names, self._layers_of(levels))
        energies = self._totals(batch, dict(zip(names, of_heads, strict=True)), levels, pairs, overlap)
        return energies, dict(zip(names, hidden, strict=True))

    def _totals(
        self, batch: Batch, own: dict[str, Tensor], levels: Sequence[str], pairs: Pairs, overlap: Tensor | None
    ) -> list[Float[Tensor, "molecules slots"]]:
        """What the heads say with what their bases say and the repulsion of the cores."""
        energies = [self._with_base(own, name) for name in levels]
        if overlap is not None:
            repulsion = self.core(batch, pairs, overlap)
            energies = [energy + repulsion for energy in energies]
        atom_mask = batch.atom_mask
        return [energy * atom_mask for energy in energies]

    def _energies_of_heads(
        self, batch: Batch, names: Sequence[str], own: OwnLayers | None
    ) -> tuple[Sequence[Tensor], Sequence[Tensor], Pairs, Tensor | None]:
        """What the heads say, their hidden layers, the pairs of atoms, and the overlap of their cores if any."""
        heads = [cast(EnergyHead, self.heads[name]) for name in names]
        if batch.positions.requires_grad and not any(weight.requires_grad for weight in self._weights):
            with torch.no_grad():
                pairs = make_pairs(batch, self.config.encoder.cutoff)
                overlap = self.core.overlap(batch, pairs)
            if overlap is None:
                return *energies_of_atoms(self.encoder, heads, batch, pairs, own), pairs, None
        scalars, _, pairs, overlap = self._features(batch, own)
        energies, hidden = zip(*(head.traced(scalars) for head in heads), strict=True)
        return energies, hidden, pairs, overlap

    def _features(self, batch: Batch, own: OwnLayers | None) -> tuple[Tensor, Tensor | None, Pairs, Tensor | None]:
        """Scalars and vectors of the encoder, the pairs of atoms, and the overlap of their cores if there is any."""
        pairs = make_pairs(batch, self.config.encoder.cutoff)
        overlap = self.core.overlap(batch, pairs)
        scalars, vectors = self.encoder(batch, pairs, None if overlap is None else fade_in(overlap), own)
        return scalars, vectors, pairs, overlap

    def energies_at(self, batch: Batch, level_index: Int[Tensor, " molecules"]) -> Float[Tensor, " molecules"]:
        """Total energy [eV, float64] of each molecule, each at a level of its own (an index into `level_names`)."""
        (energies,) = self._at_levels(batch, level_index, self._totals_of_molecules)
        return energies

    def _at_levels(
        self,
        batch: Batch,
        level_index: Int[Tensor, " molecules"],
        function: Callable[[Batch, Sequence[str]], tuple[Tensor, ...]],
    ) -> tuple[Tensor, ...]:
        """What a function of levels that share all layers says [molecules, levels, ...], each molecule at its level."""
        passes = self._passes(self.level_names)
        parts, chosen = [], []
        for together in passes:
            index = torch.tensor([together.index(name) if name in together else -1 for name in self.level_names])
            place = index.to(level_index.device)[level_index]
            rows = (place >= 0).nonzero().squeeze(1)
            if len(rows) == 0 and len(passes) > 1:
                continue
            found = function(select(batch, rows) if len(passes) > 1 else batch, together)
            parts.append([result[torch.arange(len(rows), device=rows.device), place[rows]] for result in found])
            chosen.append(rows)
        back = torch.cat(chosen).argsort()
        return tuple(torch.cat(results)[back] for results in zip(*parts, strict=True))

    def _totals_of_molecules(self, batch: Batch, levels: Sequence[str]) -> tuple[Tensor]:
        energies, _ = self._one_pass(batch, levels)
        return (self._sums(batch, energies, levels),)

    def _sums(self, batch: Batch, energies: Sequence[Tensor], levels: Sequence[str]) -> Tensor:
        """Total energies [molecules, levels, float64] with the references."""
        of_atoms = [energy + self.references[name](batch) for energy, name in zip(energies, levels, strict=True)]
        return torch.stack([of_level.sum(dim=1) for of_level in of_atoms], dim=1)

    def denoiser(self, level: str) -> Denoiser:
        """The structure head; if it is guided, by the forces of this level.

        Raises:
            UnknownLevelError: there is no such level.
            MissingHeadError: the model has no structure head.
        """
        return self._denoiser(self.energy_fn(level))

    def denoiser_at(self, level_index: Int[Tensor, " molecules"]) -> Denoiser:
        """The same with a level of its own for each molecule (an index into `level_names`).

        Raises:
            MissingHeadError: the model has no structure head.
        """
        return self._denoiser(functools.partial(self.energies_at, level_index=level_index))

    def _denoiser(self, energy_fn: EnergyFn) -> Denoiser:
        head = self.structure
        if head is None:
            raise MissingHeadError("this model has no structure head; train one with a [structure] section")
        if not head.config.guided:
            return head

        def guided(batch: Batch, sigma: Tensor) -> Tensor:
            _, forces = energies_and_forces(energy_fn, batch, create_graph=batch.positions.requires_grad)
            return head(batch, sigma, forces)

        return guided

    def atomic_energies_and_direct_forces(
        self, batch: Batch, level: str
    ) -> tuple[Float[Tensor, "molecules slots"], Float[Tensor, "molecules slots 3"]]:
        """`atomic_energies` and the forces [eV/Å] of the direct head, which derive from no energy, from one pass.

        Raises:
            UnknownLevelError: there is no such level.
            MissingHeadError: the model has no such heads.
        """
        (interaction,), (forces,) = self._energies_and_direct_forces(batch, [level])
        return interaction + self.references[level](batch), forces

    def energies_and_direct_forces(
        self, batch: Batch, level: str
    ) -> tuple[Float[Tensor, " molecules"], Float[Tensor, "molecules slots 3"]]:
        """The same with the total energy [eV, float64] of each molecule."""
        atomic, forces = self.atomic_energies_and_direct_forces(batch, level)
        return atomic.sum(dim=1), forces

    def energies_and_direct_forces_at(
        self, batch: Batch, level_index: Int[Tensor, " molecules"]
    ) -> tuple[Float[Tensor, " molecules"], Float[Tensor, "molecules slots 3"]]:
        """The same with a level of its own for each molecule (an index into `level_names`)."""

        def function(chosen: Batch, levels: Sequence[str]) -> tuple[Tensor, Tensor]:
            energies, forces = self._energies_and_direct_forces(chosen, levels)
            return self._sums(chosen, energies, levels), torch.stack(forces, dim=1)

        energies, forces = self._at_levels(batch, level_index, function)
        return energies, forces

    def _energies_and_direct_forces(
        self, batch: Batch, levels: Sequence[str]
    ) -> tuple[list[Float[Tensor, "molecules slots"]], list[Float[Tensor, "molecules slots 3"]]]:
        names = self._with_bases(levels)
        if not len(self.direct_heads):
            raise MissingHeadError("this model has no direct-force heads; train one with encoder.output_vectors > 0")
        scalars, vectors, pairs, overlap = self._features(batch, self._layers_of(levels))
        energies = {name: self.heads[name](scalars) for name in names}
        forces = {name: self.direct_heads[name](vectors, batch.atom_mask) for name in names}
        return (
            self._totals(batch, energies, levels, pairs, overlap),
            [self._with_base(forces, name) for name in levels],
        )

    def _with_bases(self, levels: Sequence[str]) -> tuple[str, ...]:
        bases = {base for name in levels for base in self.chain(name)[1:]}
        return tuple(dict.fromkeys([*levels, *sorted(bases)]))

    def _with_base(self, own: dict[str, Tensor], name: str) -> Tensor:
        return functools.reduce(torch.add, [own[part] for part in self.chain(name)])


def energies_forces_and_features(
    model: PhysCon, batch: Batch, level: str
) -> tuple[
    Float[Tensor, "molecules slots"], Float[Tensor, "molecules slots 3"], Float[Tensor, "molecules slots features"]
]:
    """`PhysCon.atomic_energies_and_features` and the forces [eV/Å], all from one evaluation and without a graph."""
    kept: list[tuple[Tensor, Tensor]] = []

    def energy_fn(moved: Batch) -> Tensor:
        kept.append(model.atomic_energies_and_features(moved, level))
        return kept[0][0].sum(dim=1)

    _, forces = energies_and_forces(energy_fn, batch)
    ((energies, features),) = kept
    return energies.detach(), forces, features

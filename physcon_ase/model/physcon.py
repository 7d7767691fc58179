"""The model: energy network with several levels of theory, and structure network."""

import functools
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from physcon_ase.batch import Batch, EnergyFn, with_positions
from physcon_ase.errors import MissingHeadError, PhysConError, UnknownLevelError
from physcon_ase.model.charge_groups import ChargeGroups
from physcon_ase.model.checkpoint import load_into, read_checkpoint
from physcon_ase.model.config import LevelConfig, ModelConfig, config_from_dict
from physcon_ase.model.couplings import Couplings, CouplingTable, make_couplings, stored_couplings
from physcon_ase.model.energy import EnergyNetwork, Evaluation, Levels, chosen
from physcon_ase.model.environments import EnvironmentTable
from physcon_ase.model.forces import energies_and_forces
from physcon_ase.model.gradient import energies_and_gradient, energies_of_atoms
from physcon_ase.model.heads import CoreRepulsion, DirectForceHead, References, fade_in
from physcon_ase.model.pairs import Pairs, make_pairs
from physcon_ase.model.structure import Denoiser, StructureNetwork
from physcon_ase.model.uncertainty import EnergyRigidity, ForceRigidity, features_of_atoms

DEFAULT_CHECKPOINT = "physcon-2"
"""The checkpoint that ships with the package."""

TABLES: Final = ("energy_rigidity", "force_rigidity", "environments")
"""Attributes of `PhysCon` with the tables of `training.calibrate`, whose tensors have names that begin with them."""

DTYPES: Final[dict[str, torch.dtype]] = {"float32": torch.float32, "float64": torch.float64}
"""Number formats by name."""


@dataclass(frozen=True)
class LoadedModel:
    """A model with its name and revision, which results quote."""

    model: "PhysCon"
    """The model, in evaluation mode, without gradients of its weights."""
    name: str
    """Name of the checkpoint, such as "physcon-2"."""
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
    dtype, device = _usable_dtype(dtype), usable_device(device)
    stored = read_checkpoint(checkpoint)
    with torch.random.fork_rng(devices=[]):  # the weights are drawn before they are replaced; loading leaves no trace
        model = PhysCon(config_from_dict(stored.config), dtype=dtype, couplings=stored_couplings(stored.tensors))
    load_into(model, stored.tensors)
    return LoadedModel(model.to(device).eval().requires_grad_(False), stored.name, stored.revision)


def _usable_dtype(dtype: torch.dtype | str) -> torch.dtype:
    found = DTYPES.get(dtype) if isinstance(dtype, str) else dtype
    if found is None or found not in DTYPES.values():
        raise PhysConError(f"dtype {dtype!r} is not supported; use {' or '.join(DTYPES)}")
    return found


def usable_device(device: torch.device | str) -> torch.device:
    """The device, with its number.

    Raises:
        PhysConError: it cannot be used here.
    """
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:  # PyTorch without CUDA asserts
        reason = str(error).split("\n", maxsplit=1)[0]
        raise PhysConError(f"device {str(device)!r} cannot be used: {reason}; use 'cpu'") from error


@dataclass(frozen=True)
class Outputs:
    """Results of one evaluation; 0 in empty slots."""

    atomic_energies: Float[Tensor, "molecules slots"]
    """Energy of each atom [eV, float64], reference included."""
    features: Float[Tensor, "molecules slots features"]
    """Features that the last layer of the energy head reads, without gradient."""
    charges: Float[Tensor, "molecules slots"] | None
    """Partial charges [e]; they sum to the total charge. None for a network without."""
    early_charges: Float[Tensor, "molecules slots"] | None = None
    """The same before the last layer."""
    local_charges: tuple[Float[Tensor, "molecules slots"], ...] = ()
    """Both as predicted from the surroundings alone; only while the network is trained."""
    groups: ChargeGroups | None = None
    """Groups of atoms with total charges of their own; None if each molecule is one, or the network has no charges."""
    forces: Float[Tensor, "molecules slots 3"] | None = None
    """Forces [eV/Å], the derivative of the energies, if asked for."""
    direct_forces: Float[Tensor, "molecules slots 3"] | None = None
    """Forces [eV/Å] of the direct head, if asked for."""

    @property
    def energies(self) -> Float[Tensor, " molecules"]:
        """Total energy [eV, float64] of each molecule."""
        return self.atomic_energies.sum(dim=1)


class PhysCon(nn.Module):
    """Energies at several levels of theory from the energy network, structures from the structure network."""

    def __init__(self, config: ModelConfig, *, dtype: torch.dtype = torch.float32, couplings: Couplings | None = None):
        """Makes a model with random weights.

        Args:
            config: what it is made of.
            dtype: number format of the weights.
            couplings: constant matrices of a checkpoint; None to make them (e3nn is imported).

        Raises:
            UnknownLevelError: a table of uncertainty is of no level.
        """
        super().__init__()
        self.config = config
        couplings = couplings or make_couplings()
        self.couplings = CouplingTable(couplings)
        names = [level.name for level in config.levels]
        self.energy = EnergyNetwork(config.encoder, names, couplings)
        self.core = CoreRepulsion()
        n_vectors = config.encoder.output_vectors
        self.direct_heads = nn.ModuleDict({name: DirectForceHead(n_vectors) for name in names if n_vectors})
        self.structure = None if config.structure is None else StructureNetwork(config.structure, couplings)
        self.references = nn.ModuleDict({level.name: References(level) for level in config.levels})
        for name in (*config.energy_uncertainty, *config.forces_uncertainty):
            self.level(name)
        n_features = config.encoder.channels // 2
        self.energy_rigidity = nn.ModuleDict({name: EnergyRigidity(n_features) for name in config.energy_uncertainty})
        self.force_rigidity = nn.ModuleDict({name: ForceRigidity(n_features) for name in config.forces_uncertainty})
        self.environments = EnvironmentTable(config.n_environments) if config.n_environments else None
        self.to(dtype)
        # Asked at each evaluation whether they require a gradient: walking through the modules would take too long.
        self._weights = (*self.energy.parameters(), *self.direct_heads.parameters())

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

    def evaluate(
        self,
        batch: Batch,
        level: str | Int[Tensor, " molecules"],
        *,
        forces: bool = False,
        direct_forces: bool = False,
    ) -> Outputs:
        """Energies, features and charges of the atoms of a batch; all evaluations of the energy network use it.

        The energies are differentiable with respect to the positions and, of a model in training, to the weights; with
        `forces` they and the forces are so with respect to the weights alone.

        Args:
            batch: the molecules.
            level: level of theory of all molecules, or of each, as an index into `level_names`.
            forces: whether forces are derived from the energies, too.
            direct_forces: whether the direct heads are evaluated, too.

        Raises:
            UnknownLevelError: there is no such level.
            MissingHeadError: the model has no direct heads.
        """
        levels = Levels((self.level(level).name,)) if isinstance(level, str) else self._levels_present(level)
        if forces:
            return self._with_forces(with_positions(batch, batch.positions.detach()), levels, direct_forces)
        if direct_forces or self._in_training or not batch.positions.requires_grad:
            return self._by_autograd(batch, levels, direct_forces)
        with torch.no_grad():
            pairs = make_pairs(batch, self.config.encoder.cutoff)
            overlap = self.core.overlap(batch, pairs)
        if overlap is not None:
            return self._by_autograd(batch, levels)
        energies, hidden, charges = energies_of_atoms(self.energy, batch, levels, pairs)
        early, late = charges or (None, None)
        return self._outputs(batch, levels, energies, hidden, late, early)

    def energies(self, batch: Batch, level: str | Int[Tensor, " molecules"]) -> Float[Tensor, " molecules"]:
        """Total energy [eV, float64] of each molecule; `level` as in `evaluate`."""
        return self.evaluate(batch, level).energies

    def energy_fn(self, level: str | Int[Tensor, " molecules"]) -> EnergyFn:
        """The energies as a function of the batch alone; `level` as in `evaluate`.

        Raises:
            UnknownLevelError: there is no such level.
        """
        if isinstance(level, str):
            self.level(level)
        return functools.partial(self.energies, level=level)

    def energies_and_direct_forces(
        self, batch: Batch, level: str | Int[Tensor, " molecules"]
    ) -> tuple[Float[Tensor, " molecules"], Float[Tensor, "molecules slots 3"]]:
        """Total energies [eV] and the forces [eV/Å] of the direct heads, which are not derived from an energy.

        Raises:
            MissingHeadError: the model has no direct heads.
        """
        outputs = self.evaluate(batch, level, direct_forces=True)
        assert outputs.direct_forces is not None
        return outputs.energies, outputs.direct_forces

    def partial_charges(self, batch: Batch, level: str) -> Float[Tensor, "molecules slots"] | None:
        """Partial charges [e], differentiable with respect to the positions; None for a model without.

        Raises:
            UnknownLevelError: there is no such level.
        """
        return self._by_autograd(batch, Levels((self.level(level).name,))).charges

    def energy_uncertainties(
        self, features: Float[Tensor, "molecules slots features"], level: str
    ) -> Float[Tensor, " molecules"] | None:
        """Standard deviation [eV] of the energies, from `Outputs.features`; None without a table."""
        return self.energy_rigidity[level](features) if level in self.energy_rigidity else None

    def uncertainty_limit(self, level: str, n_atoms: int) -> float:
        """Energy uncertainty [eV] from which a molecule of `n_atoms` atoms is doubtful; infinite without a table."""
        if level not in self.energy_rigidity:
            return math.inf
        return cast(EnergyRigidity, self.energy_rigidity[level]).limit.item() * n_atoms**0.5

    def force_uncertainties(
        self, features: Float[Tensor, "molecules slots features"], batch: Batch, level: str
    ) -> Float[Tensor, "molecules slots"] | None:
        """Standard deviation [eV/Å] of each component of the force on each atom; None without a table."""
        return self.force_rigidity[level](features, batch.atomic_numbers) if level in self.force_rigidity else None

    def _levels_present(self, index: Int[Tensor, " molecules"]) -> Levels:
        """The levels of a batch without those that do not occur: their weights then get no gradient instead of zero."""
        present, index = index.unique(return_inverse=True)
        names = tuple(self.level_names[number] for number in present.tolist()) or self.level_names[:1]
        return Levels(names, index if len(names) > 1 else None)

    @property
    def _in_training(self) -> bool:
        return any(weight.requires_grad for weight in self._weights)

    def _with_forces(self, batch: Batch, levels: Levels, direct_forces: bool) -> Outputs:
        pairs = make_pairs(batch, self.config.encoder.cutoff)
        if direct_forces or self.core.overlap(batch, pairs) is not None:
            trained = torch.is_grad_enabled() and self._in_training
            with torch.enable_grad():
                batch = with_positions(batch, batch.positions.requires_grad_())
                outputs = self._by_autograd(batch, levels, direct_forces)
                (gradient,) = torch.autograd.grad(outputs.energies.sum(), batch.positions, create_graph=trained)
            outputs = replace(outputs, forces=-gradient)
            return outputs if trained else _detached(outputs)
        return self.evaluate_apart(batch, levels, pairs, self.energy.charge_groups(batch, pairs))

    def evaluate_apart(self, batch: Batch, levels: Levels, pairs: Pairs, groups: ChargeGroups | None) -> Outputs:
        """Energies and forces where no cores overlap (`core.are_close`): `evaluate` without its choices."""
        found, gradient = energies_and_gradient(self.energy, batch, levels, pairs, groups)
        return replace(self._from_evaluation(batch, levels, found), forces=-gradient)

    def _by_autograd(self, batch: Batch, levels: Levels, direct_forces: bool = False) -> Outputs:
        pairs = make_pairs(batch, self.config.encoder.cutoff)
        overlap = self.core.overlap(batch, pairs)
        found = self.energy(batch, levels, pairs, None if overlap is None else fade_in(overlap))
        if overlap is not None:
            found = replace(found, energies=found.energies + self.core(batch, pairs, overlap))
        outputs = self._from_evaluation(batch, levels, found)
        if not direct_forces:
            return outputs
        if not len(self.direct_heads):
            raise MissingHeadError("this model has no direct-force heads; train one with encoder.output_vectors > 0")
        forces = [self.direct_heads[name](found.vectors, batch.atom_mask) for name in levels.names]
        return replace(outputs, direct_forces=chosen(forces, levels))

    def _from_evaluation(self, batch: Batch, levels: Levels, found: Evaluation) -> Outputs:
        early, late = found.charges or (None, None)
        outputs = self._outputs(
            batch, levels, found.energies, found.hidden, late and late.partial, early and early.partial
        )
        return replace(outputs, local_charges=tuple(own.local for own in found.charges), groups=found.groups)

    def _outputs(
        self,
        batch: Batch,
        levels: Levels,
        energies: Tensor,
        hidden: Tensor,
        charges: Tensor | None,
        early: Tensor | None,
    ) -> Outputs:
        mask = batch.atom_mask
        references = chosen([self.references[name](batch) for name in levels.names], levels)
        return Outputs(energies * mask + references, features_of_atoms(hidden.detach(), mask), charges, early)

    def denoiser(self, level: str) -> Denoiser:
        """The structure network; if it is guided, by the forces of this level.

        Raises:
            UnknownLevelError: there is no such level.
            MissingHeadError: the model has no structure network.
        """
        return self._denoiser(self.energy_fn(level))

    def denoiser_at(self, level_index: Int[Tensor, " molecules"]) -> Denoiser:
        """The same with a level of its own for each molecule (an index into `level_names`).

        Raises:
            MissingHeadError: the model has no structure network.
        """
        return self._denoiser(self.energy_fn(level_index))

    def _denoiser(self, energy_fn: EnergyFn) -> Denoiser:
        head = self.structure
        if head is None:
            raise MissingHeadError("this model has no structure network; train one with a [structure] section")
        if not head.config.guided:
            return head

        def guided(batch: Batch, sigma: Tensor) -> Tensor:
            _, forces = energies_and_forces(energy_fn, batch, create_graph=batch.positions.requires_grad)
            return head(batch, sigma, forces)

        return guided


def _detached(outputs: Outputs) -> Outputs:
    """The same without gradient."""
    tensors = {name: value.detach() for name, value in vars(outputs).items() if isinstance(value, Tensor)}
    return replace(outputs, **tensors, local_charges=tuple(own.detach() for own in outputs.local_charges))

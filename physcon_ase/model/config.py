"""Configuration of a model: sizes of its networks and levels of theory, as in `config.json` of a checkpoint."""

from dataclasses import asdict, dataclass, field
from typing import Any, Final

from physcon_ase.errors import CorruptCheckpointError

MAX_ATOMIC_NUMBER: Final = 94
"""Size of tables by atomic number; which elements a level covers is stated in its `LevelConfig`."""


@dataclass(frozen=True)
class EncoderConfig:
    """Sizes of an `energy.EnergyNetwork`."""

    cutoff: float = 5.0
    """Cutoff radius [Å] of an interaction layer."""
    n_layers: int = 2
    """Number of interaction layers; the features of an atom depend on atoms within `n_layers * cutoff`."""
    n_radial: int = 10
    """Number of radial basis functions."""
    channels: int = 64
    """Scalar features per atom."""
    mixed_channels: int = 64
    """Channels of the density after mixing radial functions and sources, per angular momentum."""
    source_scalars: int = 16
    """Scalar features that an atom sends to its neighbours."""
    source_vectors: int = 0
    """Vector (l = 1) features that an atom sends to its neighbours from the second layer on; 0 sends scalars only."""
    hidden: int = 128
    """Width of the hidden layer of the update networks."""
    output_vectors: int = 0
    """Vector features for direct-force heads; 0 for a model without such heads."""
    charged: bool = False
    """Whether the network predicts partial charges, for which the total charge of a molecule is an input."""
    long_range: bool = False
    """Whether the dispersion energy and, with partial charges, the Coulomb energy are added."""


@dataclass(frozen=True)
class StructureConfig:
    """Sizes of a `structure.StructureNetwork`."""

    n_layers: int = 4
    """Number of interaction layers."""
    n_radial: int = 10
    """Number of learned pair functions of distance, bond category and noise level."""
    channels: int = 96
    """Scalar features per atom."""
    mixed_channels: int = 64
    """Channels of the density after mixing, per angular momentum."""
    source_scalars: int = 16
    """Scalar features that an atom sends to the others."""
    source_vectors: int = 8
    """Vector features that an atom sends to the others."""
    hidden: int = 128
    """Width of the hidden layer of the update networks."""
    guided: bool = False
    """Whether the forces of an energy level at the noisy structure are an input."""
    sigma_min: float = 0.01
    """Smallest noise standard deviation [Å per coordinate] of the training."""
    sigma_max: float = 5.0
    """Largest noise standard deviation [Å per coordinate], at which the structure is almost completely lost."""


@dataclass(frozen=True)
class LevelConfig:
    """One level of theory of a model."""

    name: str
    """Short name such as ``"gfn2"``."""
    description: str
    """Method and basis set in full."""
    elements: tuple[int, ...]
    """Atomic numbers that the level covers."""
    references: tuple[float, ...]
    """Fitted atomic reference energy [eV] of each of `elements`."""
    charges: tuple[int, ...] = (0,)
    """Total charges [e] that the level covers."""


@dataclass(frozen=True)
class ModelConfig:
    """A `physcon.PhysCon`."""

    levels: tuple[LevelConfig, ...]
    """Levels of theory; the first is the default."""
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    """Sizes of the energy network."""
    structure: StructureConfig | None = None
    """The structure network; None for a model that predicts energies only."""
    energy_uncertainty: tuple[str, ...] = ()
    """Levels with a table for the uncertainty of energies."""
    forces_uncertainty: tuple[str, ...] = ()
    """Levels with a table for the uncertainty of forces."""
    n_environments: int = 0
    """Number of atomic environments in the table of those in the training molecules; 0 without a table."""


def config_to_dict(config: ModelConfig) -> dict[str, Any]:
    """The configuration as JSON-ready data."""
    return asdict(config)


def config_from_dict(data: dict[str, Any]) -> ModelConfig:
    """The configuration from data of `config_to_dict`.

    Raises:
        CorruptCheckpointError: keys are missing or unknown.
    """
    try:
        levels = tuple(_level_from_dict(level) for level in data["levels"])
        structure = data["structure"]
        return ModelConfig(
            levels=levels,
            encoder=EncoderConfig(**data["encoder"]),
            structure=None if structure is None else StructureConfig(**structure),
            energy_uncertainty=tuple(data.get("energy_uncertainty", ())),
            forces_uncertainty=tuple(data.get("forces_uncertainty", ())),
            n_environments=data.get("n_environments", 0),
        )
    except (KeyError, TypeError) as error:
        raise CorruptCheckpointError(
            f"the model configuration cannot be read: {error}; fetch the checkpoint again"
        ) from error


def _level_from_dict(data: dict[str, Any]) -> LevelConfig:
    """JSON has no tuples; a level without charges is one of neutral molecules."""
    rows = {key: tuple(data[key]) for key in ("elements", "references", "charges") if key in data}
    return LevelConfig(**{**data, **rows})

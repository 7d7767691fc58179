"""Recipe of a training: all settings that determine a checkpoint, as plain records."""

from dataclasses import dataclass, field, replace

from physcon_ase.data.selection import DataSet
from physcon_ase.model.config import EncoderConfig, StructureConfig


@dataclass(frozen=True)
class LevelRecipe:
    """A level of theory to be trained."""

    name: str
    """Short name; data sets refer to it."""
    description: str
    """Method and basis set in full."""
    like: str = ""
    """Level listed before this one that initialises its embedding, head and missing references; empty for a zero
    embedding and a random head."""


@dataclass(frozen=True)
class LossRecipe:
    """Weights of the loss terms; a term of weight 0 is not computed."""

    energy: float = 0.2
    """Weight of the energy error [1/eV]."""
    relative_energy: float = 0.0
    """Weight of the error of energies relative to the mean of the molecule in the batch [1/eV], see
    `DataSet.together`."""
    forces: float = 1.0
    """Weight of the force error [Å/eV]."""
    relative_forces: float = 0.0
    """Weight of the error of forces relative to the mean of geometries of a molecule close to each other in the batch
    [Å/eV], see `DataSet.together`."""
    displacement: float = 0.0
    """Weight of the error of the forces as a Newton step [1/Å], see `losses.displacement`."""
    charges: float = 0.0
    """Weight of the error of partial charges [1/e]."""
    total_charge: float = 0.0
    """Weight of the deviation of the sum of local charges from the total charge [1/e]."""
    direct_forces: float = 0.0
    """Weight of the error of the direct-force heads [Å/eV]."""
    structure: float = 0.0
    """Weight of the denoising error [1/Å²]."""
    refinement: float = 0.0
    """Weight of the error of predictions from predicted structures, see `losses.structure` [1]."""
    optimality: float = 0.0
    """Weight of optimality consistency, see `losses.consistency` [1/eV; 1/Å² for variant "newton"]."""
    score: float = 0.0
    """Weight of score consistency, see `losses.consistency` [1/Å²]."""
    score_matching: float = 0.0
    """Weight of score matching on geometries without labels, see `losses.asteroid` [Å²/eV²]."""


@dataclass(frozen=True)
class OptimalityRecipe:
    """Optimality consistency: predicted structures are minima of an energy."""

    level: str = ""
    """Level of theory of the teacher; empty for that of each minimum."""
    variant: str = "hinge"
    """One of `OPTIMALITY_VARIANTS`."""
    sigma_min: float = 0.3
    """Smallest noise τ [Å] of the structures from which predictions are made."""
    sigma_max: float = 3.0
    """Largest noise τ [Å]."""
    width: float = 0.05
    """Standard deviation [Å] of the displacements η of "hinge"."""
    max_force: float = 5.0
    """Maximum force [eV/Å] on an atom in the gradient of "hinge"; larger ones are clipped."""


@dataclass(frozen=True)
class ScoreRecipe:
    """Score consistency: the score of the structure network is the force divided by k_B T."""

    level: str = ""
    """Level of theory of the teacher; empty for that of each minimum."""
    variant: str = "noisy"
    """One of `SCORE_VARIANTS`."""
    sigma_min: float = 0.01
    """Smallest noise τ [Å]."""
    sigma_max: float = 0.1
    """Largest noise τ [Å]."""
    kt: float = 0.1
    """k_B T [eV] of the thermal distribution."""
    stiffness: float = 0.0
    """k_B T is at least this [eV/Å²] times τ²: the law is valid only for modes with τ² k below k_B T."""


@dataclass(frozen=True)
class AsteroidRecipe:
    """Training on inaccurate labels, weighted with a model of the accurate ones, see `losses.asteroid`."""

    checkpoint: str = ""
    """Name or folder of that model; its forces weight the labels of data sets with `borrow_forces_from`. Empty for
    equal weights."""
    gamma: float = 0.0434
    """Bias [eV/Å] at which the weight of a label is 1/e; 1 kcal/mol/Å as published."""
    kt: float = 0.0431
    """k_B T [eV] of the geometries of score matching; 500 K as published."""


OPTIMALITY_VARIANTS = ("hinge", "newton")
"""Forms of optimality consistency."""


SCORE_VARIANTS = ("noisy", "clean", "newton")
"""Forms of score consistency."""


@dataclass(frozen=True)
class OptimRecipe:
    """The optimiser and its schedule: warm-up, constant, then linear decay to zero."""

    steps: int
    """Number of optimiser steps."""
    lr: float = 2e-3
    """Learning rate of the constant part."""
    warmup: int = 200
    """Steps of linear warm-up."""
    decay: float = 0.5
    """Fraction of `steps` in the final decay."""
    weight_decay: float = 1e-4
    """Decoupled weight decay of matrices."""
    ema: float = 0.998
    """Decay of the moving average of the weights, which is validated and saved."""
    clip: float = 10.0
    """Largest norm of the gradient."""
    atoms_per_batch: int = 512
    """Slots per batch and process, empty ones included."""
    train: tuple[str, ...] = ()
    """Parts of the model that are trained: prefixes of parameter names such as ``"structure"``; empty for all."""


@dataclass(frozen=True)
class Recipe:
    """A training."""

    name: str
    """Name of the checkpoint."""
    levels: tuple[LevelRecipe, ...]
    """Levels of theory; the first is the default level of the checkpoint."""
    data: tuple[DataSet, ...]
    """Data sets."""
    optim: OptimRecipe
    """Optimiser and schedule."""
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    """Sizes of the encoder."""
    structure: StructureConfig | None = None
    """Sizes of the structure network; None for a model without one."""
    loss: LossRecipe = field(default_factory=LossRecipe)
    """Weights of the loss terms."""
    optimality: OptimalityRecipe | None = None
    """Settings of optimality consistency, if it has a weight."""
    score: ScoreRecipe | None = None
    """Settings of score consistency, if it has a weight."""
    asteroid: AsteroidRecipe | None = None
    """Settings of bias-aware weights and of score matching, if they are used."""
    seed: int = 0
    """Random seed of the initial weights, the order of the data and the noise."""
    start_from: tuple[str, ...] = ()
    """Checkpoints (names or folders) whose weights are used as initial weights where names and shapes agree, in this
    order; "checkpoint#structure" uses only parameters whose names begin with "structure". Paths are relative to the
    working directory."""


def with_steps(recipe: Recipe, steps: int) -> Recipe:
    """The same recipe for another number of steps."""
    return replace(recipe, optim=replace(recipe.optim, steps=steps))

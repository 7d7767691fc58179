"""Exceptions raised by the package.

Each message states the problem, the value received, what is allowed and a remedy.
"""


class PhysConError(ValueError):
    """Base class of all errors about invalid input."""


class InvalidSmilesError(PhysConError):
    """A SMILES that cannot be parsed or contains no atoms."""


class DummyAtomError(PhysConError):
    """A SMILES with a dummy atom (``*``)."""


class FragmentsError(PhysConError):
    """Several disconnected fragments where a single molecule is required."""


class UnsupportedStereoError(PhysConError):
    """A SMILES with the configuration of a centre that is not tetrahedral."""


class TooManyStereoisomersError(PhysConError):
    """A molecule whose stereoisomers are too many to be enumerated."""


class EmbeddingError(PhysConError):
    """No start geometry was found within the time limit."""


class NoConformersError(PhysConError):
    """A conformer search of which no geometry remained."""


class MissingParametersError(PhysConError):
    """A molecule without MMFF94 parameters."""


class BondPerceptionError(PhysConError):
    """Bonds that are chemically invalid, or a geometry for which no bonds were found."""


class UnknownElementError(PhysConError):
    """An unknown atomic number or element symbol."""


class UnsupportedElementError(PhysConError):
    """An element not covered by the chosen level of theory."""


class UnsupportedChargeError(PhysConError):
    """A total charge or spin multiplicity not supported by the model."""


class SpinParityError(PhysConError):
    """A spin multiplicity that is inconsistent with the number of electrons."""


class PeriodicCellError(PhysConError):
    """A periodic structure; the models are for molecules."""


class EmptyStructureError(PhysConError):
    """A structure without atoms."""


class NonFinitePositionsError(PhysConError):
    """Positions that are NaN or infinite."""


class OverlappingAtomsError(PhysConError):
    """Two atoms at an unphysically short distance."""


class ConstraintError(PhysConError):
    """A constraint that is not supported, or a dihedral angle that cannot be fixed or scanned."""


class UnknownLevelError(PhysConError):
    """A level of theory that is not available in the model."""


class MissingHeadError(PhysConError):
    """A checkpoint without the required head, e.g. a structure network."""


class CheckpointNotFoundError(PhysConError):
    """A checkpoint name or path that does not exist."""


class CorruptCheckpointError(PhysConError):
    """Checkpoint files that are truncated, modified or of the wrong format."""


class CheckpointVersionError(PhysConError):
    """A checkpoint whose format is newer than this version of physcon_ase, or no longer supported."""


class HubError(PhysConError):
    """A request that was rejected or not answered by the Hugging Face Hub."""


class RecipeError(PhysConError):
    """An invalid training recipe."""


class LabelError(PhysConError):
    """Labels that are missing, not finite or of the wrong shape."""


class StoreError(PhysConError):
    """A data file that cannot be read or written, or lacks the requested content."""


class EngineError(PhysConError):
    """A labelling program that is not installed, or that failed for a geometry."""


class NotEnoughMemoryError(PhysConError):
    """A molecule that does not fit into memory on its own."""


class MissingPackageError(PhysConError):
    """A request that needs an optional package which is not installed."""


class CompilationError(PhysConError):
    """A model that could not be compiled: no C++ compiler, or an unsupported device."""


class UncertainWarning(UserWarning):
    """A molecule unlike those of the training, or with a large estimated error."""

"""The mistakes a caller may want to catch, one name each.

Each message says what is wrong, the value received, what is allowed and what to do.
"""


class PhysConError(ValueError):
    """Any input that physcon_ase refuses."""


class InvalidSmilesError(PhysConError):
    """A SMILES that cannot be read, or that describes no molecule."""


class DummyAtomError(PhysConError):
    """A SMILES with a dummy atom (``*``), which has no geometry."""


class FragmentsError(PhysConError):
    """A SMILES of several disconnected fragments where one molecule is needed."""


class StereoError(PhysConError):
    """A geometry or graph whose stereochemistry is not the one asked for."""


class EmbeddingError(PhysConError):
    """No start geometry was found within the time cap."""


class MissingParametersError(PhysConError):
    """A molecule for which the force field MMFF94 has no parameters."""


class BondPerceptionError(PhysConError):
    """Bonds that describe no molecule, or a geometry for which no bonds were found."""


class UnknownElementError(PhysConError):
    """An atomic number or symbol that is no element."""


class UnsupportedElementError(PhysConError):
    """An element that the chosen level of theory does not cover."""


class UnsupportedChargeError(PhysConError):
    """A total charge or spin multiplicity that the model cannot use."""


class SpinParityError(PhysConError):
    """A spin multiplicity that the number of electrons does not allow."""


class PeriodicCellError(PhysConError):
    """A periodic structure given to a molecular model."""


class EmptyStructureError(PhysConError):
    """A structure without atoms."""


class NonFinitePositionsError(PhysConError):
    """Positions that are NaN or infinite."""


class OverlappingAtomsError(PhysConError):
    """Two atoms closer than any chemistry allows."""


class UnknownLevelError(PhysConError):
    """A level of theory that the model does not have."""


class MissingHeadError(PhysConError):
    """A checkpoint without the head that the request needs (for instance a structure head)."""


class CheckpointNotFoundError(PhysConError):
    """A checkpoint name or path that does not exist."""


class CorruptCheckpointError(PhysConError):
    """Weights that are truncated, tampered with, or no safetensors file."""


class CheckpointVersionError(PhysConError):
    """A checkpoint written by a newer physcon_ase."""


class HubError(PhysConError):
    """A request that the model hub refused or never answered."""


class RecipeError(PhysConError):
    """A training recipe that cannot be run."""


class LabelError(PhysConError):
    """Training labels that are missing, not finite or of the wrong shape."""


class StoreError(PhysConError):
    """A data file that cannot be read, or that lacks what is asked of it."""


class EngineError(PhysConError):
    """A labelling program that is missing, or that found no label for a geometry."""

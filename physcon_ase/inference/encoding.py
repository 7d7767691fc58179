"""Records as JSON and back, exactly; used by the journals of long runs.

A record is a dataclass of numbers, texts, arrays, structures and other records; its annotations determine the types
that are decoded.
"""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from types import NoneType
from typing import Any, Final, TypeVar, get_args, get_origin, get_type_hints

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import dict2constraint

from physcon_ase.errors import StoreError
from physcon_ase.jobs.journal import packed, unpacked

_PLAIN: Final = (NoneType, bool, int, float, str)

_ARRAY: Final = "__array__"
_ATOMS: Final = "__atoms__"
_PAIRS: Final = "__pairs__"
"""Of keys and values of a mapping whose keys are tuples."""

T = TypeVar("T")


def encoded(value: Any) -> Any:
    """Value as a tree of dictionaries, lists, numbers and texts.

    Raises:
        StoreError: it contains an object that cannot be represented, e.g. in `Atoms.info`.
    """
    if isinstance(value, _PLAIN):
        return value
    if isinstance(value, np.generic):
        return encoded(value.item())
    if isinstance(value, np.ndarray):
        return _encoded_array(value)
    if isinstance(value, Atoms):
        return {_ATOMS: _encoded_atoms(value)}
    if is_dataclass(value):
        return {field.name: encoded(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping) and all(isinstance(key, tuple) for key in value):
        return {_PAIRS: [[encoded(key), encoded(item)] for key, item in value.items()]} if value else {}
    if isinstance(value, Mapping):
        return {str(key): encoded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [encoded(item) for item in value]
    raise StoreError(f"{value!r} cannot be kept in a journal; remove it, for instance from atoms.info")


def decoded(kind: type[T], value: Any) -> T:
    """Inverse of `encoded` for a dataclass, or any type that its annotations name."""
    return _decoded(kind, value)


def _decoded(hint: Any, value: Any) -> Any:
    if isinstance(value, dict) and _ATOMS in value:
        return _decoded_atoms(value[_ATOMS])
    if isinstance(value, dict) and _ARRAY in value:
        return unpacked(value[_ARRAY], value["dtype"], tuple(value["shape"])).copy()
    if isinstance(value, dict) and _PAIRS in value:
        kind = get_args(hint)[-1] if get_args(hint) else Any
        return {tuple(key): _decoded(kind, item) for key, item in value[_PAIRS]}
    if isinstance(hint, type) and is_dataclass(hint):
        hints = get_type_hints(hint)
        return hint(**{field.name: _decoded(hints[field.name], value[field.name]) for field in fields(hint)})
    options = [option for option in get_args(hint) if option not in (NoneType, Ellipsis)]
    if isinstance(value, list):
        items = [_decoded(_of_item(hint, options, place), item) for place, item in enumerate(value)]
        return tuple(items) if tuple in (get_origin(hint), hint) else items
    if isinstance(value, dict):
        # one of several types, e.g. a record or None
        record = next((option for option in options if isinstance(option, type) and is_dataclass(option)), None)
        if record is not None and get_origin(hint) is not dict:
            return _decoded(record, value)
        return {key: _decoded(options[-1] if options else Any, item) for key, item in value.items()}
    return value


def _of_item(hint: Any, options: list[Any], place: int) -> Any:
    """Annotation of an item of a list, or of a tuple with one annotation for all items or one for each."""
    if get_origin(hint) not in (list, tuple):  # one of several types: look for the sequence among them
        hint = next((option for option in options if get_origin(option) in (list, tuple)), Any)
        options = [option for option in get_args(hint) if option is not Ellipsis]
    return options[min(place, len(options) - 1)] if options else Any


def _encoded_array(array: np.ndarray) -> Any:
    if array.dtype.kind in "USO":
        return encoded(array.tolist())
    dtype = array.dtype.newbyteorder("<").str
    return {_ARRAY: packed(array, dtype), "dtype": dtype, "shape": list(array.shape)}


def _encoded_atoms(atoms: Atoms) -> dict[str, Any]:
    results = {} if atoms.calc is None else atoms.calc.results
    return {
        "arrays": {name: encoded(array) for name, array in atoms.arrays.items()},
        "cell": encoded(np.array(atoms.cell)),
        "pbc": encoded(atoms.pbc),
        "info": encoded(atoms.info),
        "constraints": [encoded(constraint.todict()) for constraint in atoms.constraints],
        "results": encoded(results),
    }


def _decoded_atoms(value: dict[str, Any]) -> Atoms:
    found = _decoded(dict[str, Any], value)
    arrays = found["arrays"]
    atoms = Atoms(arrays.pop("numbers"), arrays.pop("positions"), cell=found["cell"], pbc=found["pbc"])
    for name, array in arrays.items():
        atoms.set_array(name, np.array(array))
    atoms.info = found["info"]
    atoms.set_constraint([dict2constraint(constraint) for constraint in found["constraints"]])
    if found["results"]:
        atoms.calc = SinglePointCalculator(atoms, **found["results"])
    return atoms

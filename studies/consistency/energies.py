"""Energies of predicted structures by an expensive program; each is written to a file at once."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float

from physcon_ase.chem.graph import MolGraph
from physcon_ase.errors import EngineError
from physcon_ase.labelling.engines import Engine, Molecule, pyscf_energy, record_as_dict


@dataclass(frozen=True)
class KeptEnergies:
    """A functional and the file of what it has computed, by its settings and the name of the structure."""

    path: Path
    """A JSON file, made when there is none."""
    engine: Engine
    """Of `pyscf_engine`."""

    def energy(self, name: str, graph: MolGraph, positions: Float[np.ndarray, "atoms 3"]) -> float:
        """Energy [eV] of the structure of this name; infinite where the engine finds none (atoms that clash)."""
        settings = json.dumps(record_as_dict(self.engine.record), sort_keys=True)
        kept = json.loads(self.path.read_text()) if self.path.exists() else {}
        own = kept.setdefault(settings, {})
        if name not in own:
            try:
                own[name] = pyscf_energy(
                    self.engine, Molecule(graph.atomic_numbers, positions, graph.charge, graph.multiplicity)
                )
            except EngineError:
                own[name] = float("inf")
            # a run that is killed while it writes must not take the other energies with it
            unfinished = self.path.with_suffix(".part")
            unfinished.write_text(json.dumps(kept, indent=1))
            unfinished.replace(self.path)
        return own[name]

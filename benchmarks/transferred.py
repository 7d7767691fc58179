"""Errors of transferred labels on held-out torsion drives, by the weight of the residuals.

    PHYSCON_AIMNET2=WHEEL python transferred.py --stores STORES [--limit 60]

AIMNet2 is the teacher. The lowest geometry of each drive takes the part of the minimum; the forces that it has are
subtracted from those that the correction cancels. Weight 0 is the prediction of the model alone, and `teacher` the
label of AIMNet2, as in anchored labels but without a shift of bond lengths and angles.
"""

from collections.abc import Sequence

import numpy as np
from heldout import Molecule, aimnet2_forces, covered, model_forces, predict_all, read_test_molecules
from reporting import Row, Table, add_stores, finish, make_parser, start

from physcon_ase.batch import unpad
from physcon_ase.labelling.correction import correction_at, float64_batch
from physcon_ase.labelling.transferred import with_residuals
from physcon_ase.units import EV_PER_KCAL_PER_MOL

STORE = "openff_torsions.h5"
LEVEL, TEACHER = "b3lyp-d3", "wb97m"
WEIGHTS = (0.0, 0.25, 0.5, 0.75, 1.0)
MEV = 1000.0

Predictions = tuple[np.ndarray, list[np.ndarray]]
"""Energies [eV] and forces [eV/Å] of the geometries of a molecule."""


def main(argv: Sequence[str] | None = None) -> None:
    parser = make_parser(__doc__, limit=60)
    add_stores(parser)
    arguments = parser.parse_args(argv)
    loaded, clock = start(arguments)
    found = read_test_molecules(arguments.stores / STORE, limit=arguments.limit, seed=arguments.seed, with_energy=LEVEL)
    molecules = covered(found, loaded.model.level(LEVEL))
    force_fns = (model_forces(loaded.model, LEVEL), model_forces(loaded.model, TEACHER), aimnet2_forces())
    predictions = [
        [
            predict_all(force_fn, [m.graph] * len(m.all_geometries), [g.positions for g in m.all_geometries])
            for force_fn in force_fns
        ]
        for m in molecules
    ]
    rows = [row("teacher", molecules, [teacher for _, _, teacher in predictions])]
    for weight in WEIGHTS:
        mixed = [combined(model, cheap, teacher, weight) for model, cheap, teacher in predictions]
        rows.append(row(f"weight {weight:g}", molecules, mixed))
    note = (
        "Energies: root mean square error per drive, without the mean; forces: mean absolute error. Corrected: with "
        "the correction that cancels the error of the forces at the lowest geometry, which does not count."
    )
    title = f"Labels of {len(molecules)} torsion drives, {sum(len(m.all_geometries) for m in molecules)} geometries"
    finish("transferred", arguments, clock, [Table(title, rows, note)], loaded)


def combined(model: Predictions, of_teacher_level: Predictions, teacher: Predictions, weight: float) -> Predictions:
    """Predictions of the model at the accurate level with its residuals at the level of the teacher."""
    energies = with_residuals(model[0], of_teacher_level[0], teacher[0], weight)
    forces = zip(model[1], of_teacher_level[1], teacher[1], strict=True)
    return energies, [with_residuals(accurate, cheap, label, weight) for accurate, cheap, label in forces]


def row(name: str, molecules: Sequence[Molecule], predictions: Sequence[Predictions]) -> Row:
    """Errors with and without the correction."""
    plain = [errors(m, own) for m, own in zip(molecules, predictions, strict=True)]
    better = [errors(m, corrected(m, own)) for m, own in zip(molecules, predictions, strict=True)]
    result: dict[str, str | float] = {"labels": name}
    for kind, found in (("", plain), (", corrected", better)):
        of_energies = np.array([energy for energy, _ in found])
        result[f"energy, median{kind} [kcal/mol]"] = float(np.median(of_energies))
        result[f"mean{kind}"] = float(of_energies.mean())
        result[f"forces{kind} [meV/Å]"] = MEV * float(np.concatenate([forces for _, forces in found]).mean())
    return result


def lowest_of(molecule: Molecule) -> int:
    """The geometry of the lowest energy."""
    return int(np.argmin([geometry.energies[LEVEL] for geometry in molecule.all_geometries]))


def errors(molecule: Molecule, predictions: Predictions) -> tuple[float, np.ndarray]:
    """RMSE [kcal/mol] of relative energies; absolute errors [eV/Å] of the forces of all geometries but the lowest."""
    geometries, lowest = molecule.all_geometries, lowest_of(molecule)
    differences = predictions[0] - np.array([geometry.energies[LEVEL] for geometry in geometries])
    forces = [
        np.abs(own - geometry.forces[LEVEL]).ravel()
        for index, (own, geometry) in enumerate(zip(predictions[1], geometries, strict=True))
        if index != lowest
    ]
    return float(differences.std()) / EV_PER_KCAL_PER_MOL, np.concatenate(forces)


def corrected(molecule: Molecule, predictions: Predictions) -> Predictions:
    """Predictions with the correction that cancels the error of the forces at the lowest geometry."""
    geometries, lowest, n = molecule.all_geometries, lowest_of(molecule), len(molecule.all_geometries)
    error = predictions[1][lowest] - geometries[lowest].forces[LEVEL]
    at = float64_batch([molecule.graph] * n, [geometries[lowest].positions] * n)
    correction = correction_at(at, [molecule.graph] * n, float64_batch([molecule.graph] * n, [error] * n).positions)
    places = float64_batch([molecule.graph] * n, [geometry.positions for geometry in geometries])
    values, gradients = correction(places.positions)
    forces = [own + g for own, g in zip(predictions[1], unpad(places, gradients), strict=True)]
    return predictions[0] - values.numpy(), forces


if __name__ == "__main__":
    main()

from dataclasses import replace
from pathlib import Path

from physcon_ase.data.store import write_store
from physcon_ase.labelling.engines import checkpoint_engine
from physcon_ase.model.checkpoint import read_checkpoint, save_checkpoint
from physcon_ase.model.config import config_from_dict, config_to_dict
from physcon_ase.model.physcon import DEFAULT_CHECKPOINT
from studies.shared.selfmade import ACCURATE, split_smiles, study_smiles
from studies.shared.selfmade import make_store as make_selfmade
from tests.benchmark_scripts import STUDIES, rows_of, run


def write_teacher(folder: Path) -> None:
    """The shipped checkpoint with its default level under the name of the accurate level of the study."""
    stored = read_checkpoint(DEFAULT_CHECKPOINT)
    config = config_from_dict(stored.config)
    own, *others = config.levels
    levels = (replace(own, name=ACCURATE), *others)
    config = replace(config, levels=levels, energy_uncertainty=(), forces_uncertainty=())
    tensors = {
        name.replace(f".{own.name}.", f".{ACCURATE}."): value
        for name, value in stored.tensors.items()
        if "_rigidity." not in name
    }
    save_checkpoint(folder, tensors, config_to_dict(config))


def test_limits_of_local_physics_are_those_of_a_finished_study(benchmark, capsys, tmp_path) -> None:
    teacher = tmp_path / "row0-0" / "row0-0"
    write_teacher(teacher)
    store, _ = make_selfmade(split_smiles(study_smiles(), 1, 2), checkpoint_engine(str(teacher)), progress=False)
    write_store(tmp_path / "selfmade.h5", store)
    arguments = ("--folder", tmp_path, "--samples", 1, "--checkpoint", teacher)
    results = run(
        benchmark(STUDIES / "consistency" / "limits.py"), capsys, *arguments, json_path=tmp_path / "limits.json"
    )
    cheap, _, _, relaxed = rows_of(results)
    assert relaxed["RMSD, mean [Å]"] < cheap["RMSD, mean [Å]"] / 2, "the true minima are those of the teacher"
    before, after = rows_of(results, 1)
    assert "of 2 relaxations converged" in results["tables"][1]["note"]
    assert before["smallest of the samples"] == before["RMSD, mean [Å]"] != after["RMSD, mean [Å]"]

from physcon_ase.data.store import write_store
from physcon_ase.labelling.engines import tblite_engine
from studies.shared.selfmade import make_store as make_selfmade
from studies.shared.selfmade import split_smiles, study_smiles
from tests.benchmark_scripts import ROOT, STUDIES, rows_of, run


def test_limits_of_local_physics_are_those_of_a_finished_study(benchmark, capsys, tmp_path) -> None:
    store, _ = make_selfmade(split_smiles(study_smiles(), 1, 2), tblite_engine(), progress=False)
    write_store(tmp_path / "selfmade.h5", store)
    (tmp_path / "row0-0").mkdir()
    (tmp_path / "row0-0" / "row0-0").symlink_to(ROOT / "checkpoints" / "physcon-1")
    arguments = ("--folder", tmp_path, "--samples", 1)
    results = run(
        benchmark(STUDIES / "consistency" / "limits.py"), capsys, *arguments, json_path=tmp_path / "limits.json"
    )
    cheap, _, _, relaxed = rows_of(results)
    assert relaxed["RMSD, mean [Å]"] < cheap["RMSD, mean [Å]"]
    before, after = rows_of(results, 1)
    assert "of 2 relaxations converged" in results["tables"][1]["note"]
    assert before["smallest of the samples"] == before["RMSD, mean [Å]"] != after["RMSD, mean [Å]"]

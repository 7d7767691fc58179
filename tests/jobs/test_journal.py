from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
from filelock import BaseFileLock, FileLock

from physcon_ase.errors import StoreError
from physcon_ase.jobs.journal import Journal, fingerprint, json_line, output_lock, packed, unpacked

OF = {"program": "physcon", "depends_on": "molecules or settings"}


def test_lines_are_on_disk_at_once_and_half_a_line_is_forgotten(tmp_path: Path) -> None:
    path = tmp_path / "out.journal"
    with Journal(path, "abc", **OF) as journal:
        journal.append([json_line(index=0, name="naïve\u2028"), json_line(index=1)])
        assert path.read_bytes().count(b"\n") == 3
    with path.open("a") as file:
        file.write('{"index": 2, "na')
    with Journal(path, "abc", **OF) as journal:
        assert journal.resumed == [{"index": 0, "name": "naïve\u2028"}, {"index": 1}]
        journal.append([json_line(index=3)])
    with Journal(path, "abc", **OF) as journal:
        assert [entry["index"] for entry in journal.resumed] == [0, 1, 3]


def test_a_journal_of_another_run_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "out.journal"
    Journal(path, fingerprint({"seed": 1}, [b"C", b"O"]), **OF).__exit__(None, None, None)
    for other in (fingerprint({"seed": 2}, [b"C", b"O"]), fingerprint({"seed": 1}, [b"CO"])):
        with pytest.raises(StoreError, match="a run with different molecules or settings; choose another output"):
            Journal(path, other, **OF)
    path.write_text("nonsense\n")
    with pytest.raises(StoreError, match="is not a journal of physcon"):
        Journal(path, "abc", **OF)


@pytest.mark.parametrize(
    "text", ['{"precious": [1, 2, 3]}', "[1]\n", "12\n", "null\n", '{"index": 1}\n', "a table, without an end"]
)
def test_another_file_is_neither_read_nor_overwritten(text: str, tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    path.write_text(text)
    with pytest.raises(StoreError, match="is not a journal of physcon"):
        Journal(path, "abc", **OF)
    assert path.read_text() == text
    for start in ("", '{"jour'):  # killed before the first line was complete
        path.write_text(start)
        with Journal(path, "abc", **OF) as journal:
            assert journal.resumed == []


@pytest.mark.parametrize("dtype", ["<f8", "<f4", "<i4", "|u1"])
def test_arrays_are_kept_to_the_last_bit(dtype: str) -> None:
    array = (np.arange(6).reshape(2, 3) / 7).astype(dtype)
    np.testing.assert_array_equal(unpacked(packed(array, dtype), dtype, (2, 3)), array)


def test_an_output_has_one_writer(tmp_path: Path) -> None:
    output = tmp_path / "out"
    refused = pytest.raises(StoreError, match="another process is currently writing")
    with output_lock(output, "writing"), refused, output_lock(output, "writing"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_writer_that_ends_leaves_the_lock_of_the_next_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output, release, second = tmp_path / "out", FileLock.release, ExitStack()
    taken = []

    def released(lock: BaseFileLock, force: bool = False) -> None:
        release(lock, force=force)
        if not taken:
            taken.append(second.enter_context(output_lock(output, "writing")))

    monkeypatch.setattr(FileLock, "release", released)
    with output_lock(output, "writing"):
        pass
    assert taken
    with pytest.raises(StoreError, match="another process is currently writing"), output_lock(output, "writing"):
        pass
    second.close()
    assert list(tmp_path.iterdir()) == []

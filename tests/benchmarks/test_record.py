"""A row tells which code was measured: rows written before it are no change of the code."""

import shutil
from pathlib import Path

import pytest
from hotpath.benchmarks import record


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_rows_just_written_do_not_make_the_commit_dirty_but_changed_code_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(record, "ROOT", tmp_path)
    monkeypatch.setattr(record, "RESULTS", tmp_path / "rows" / "results.jsonl")
    assert record.commit() == "unknown"
    record.RESULTS.parent.mkdir()
    record.RESULTS.write_text("{}\n")
    (tmp_path / "code.py").write_text("1\n")
    record.git("init", "-q")
    record.git("add", ".")
    record.git("-c", "user.name=a", "-c", "user.email=a@localhost", "commit", "-qm", "first")
    clean = record.commit()
    assert len(clean) >= 7
    record.RESULTS.write_text("{}\n{}\n")
    assert record.commit() == clean
    (tmp_path / "code.py").write_text("2\n")
    assert record.commit() == f"{clean}-dirty"

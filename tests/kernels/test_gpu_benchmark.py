"""The command that will be run where a GPU is at hand works in miniature, and times nothing that is wrong."""

import json
import os
import subprocess
import sys

import pytest
from hotpath.kernels import tuning
from hotpath.tests.testing import ROOT

RESULTS = ROOT / "benchmarks" / "results.jsonl"


def run(*arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, str(ROOT / "benchmarks" / "gpu.py"), *arguments]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_in_miniature_each_operation_is_proven_tuned_and_timed() -> None:
    pytest.importorskip("triton", reason="Triton is not installed")
    before = RESULTS.read_bytes(), sorted(tuning.FOLDER.glob("*"))
    ran = run("--dry")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "0 wrong" in ran.stdout
    *rows, total = (json.loads(line) for line in ran.stdout.splitlines() if line.startswith("{"))
    assert total["cases"] == len(rows) == 6
    assert {row["case"].split()[0] for row in rows} == {"attention", "group_norm_silu", "geglu", "add_layer_norm"}
    assert {text.split()[0] for text in total["tried"]} == {
        "attention", "attention_short", "group_norm_silu", "geglu", "add_layer_norm",
    }  # fmt: skip
    assert all(row["triton"]["median_us"] > 0 for row in rows)
    assert (RESULTS.read_bytes(), sorted(tuning.FOLDER.glob("*"))) == before, "a run in miniature writes nothing"


def test_without_a_gpu_it_says_so() -> None:
    ran = run()
    assert ran.returncode == 2
    assert "found none" in ran.stdout


def test_tuned_tiles_are_used_and_foreign_ones_are_not(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning, "FOLDER", tmp_path)
    tuning.table.cache_clear()
    (tmp_path / "sm_90.json").write_text(json.dumps({"tiles": {"geglu": {"16": [256, 2], "32": [1]}}}))
    (tmp_path / "sm_86.json").write_text("{")
    assert tuning.tuned("geglu", 90, "16", (1024, 4)) == (256, 2)
    assert tuning.tuned("geglu", 90, "32", (1024, 4)) == (1024, 4), "a table of another form"
    assert tuning.tuned("geglu", 86, "16", (1024, 4)) == (1024, 4), "a damaged table"
    assert tuning.tuned("geglu", 120, "16", (1024, 4)) == (1024, 4)
    tuning.table.cache_clear()

"""The command that will be run where a GPU is at hand works in miniature, and times nothing that is wrong."""

import json
import os
import subprocess
import sys

import pytest
from hotpath.benchmarks import gpu_models, gpu_unet
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
    operations, networks = [row for row in rows if "triton" in row], [row for row in rows if "ours" in row]
    assert total["cases"] == len(rows) == 10
    names = {"attention", "group_norm_silu", "instance_norm_act", "geglu", "add_layer_norm"}
    assert {row["case"].split()[0] for row in operations} == names
    assert {text.split()[0] for text in total["tried"]} == names | {"attention_short"}
    assert all(row["triton"]["median_us"] > 0 for row in operations)
    assert [row["case"].split()[0] for row in networks] == ["e2gan", "unet"]
    for row in networks:
        assert all(row[variant]["median_us"] > 0 for variant in ("eager", "channels_last", "ours")), row
        assert row["eager off"] == 0
        assert row["ours off"] <= 2e-2
    assert (RESULTS.read_bytes(), sorted(tuning.FOLDER.glob("*"))) == before, "a run in miniature writes nothing"


def test_our_operations_in_a_unet_are_seen_when_they_are_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("diffusers", reason="diffusers is not installed")
    add = gpu_unet.add_layer_norm
    monkeypatch.setattr(gpu_unet, "add_layer_norm", lambda x, residual, *rest: (x, add(x, residual, *rest)[1]))
    row = gpu_models.timed_network("unet", gpu_models.sd15("cpu", 64, 1, toy=True), dry=True)
    assert "ours is" in row["wrong"]
    assert "times_best_of_torch" not in row


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

"""Two processes of batch B do what one process of batch 2 B does; one writes; a lost one ends the run with a sentence."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

PROGRAM = """
import json, os, sys
import torch
torch.set_num_threads(1)
from contextlib import nullcontext
torch.autocast = lambda *_: nullcontext()  # in float32, or rounding hides what is compared
from dataclasses import replace
from types import SimpleNamespace
from pathlib import Path
from hotpath.engine.e2gan.model import Generator, initialise
from hotpath.tests.testing import TINY, digest
from hotpath.tests.training.test_loop import SETTINGS, FakeLPIPS, pairs
from hotpath.training.command import run
from hotpath.training.loop import Trainer
from hotpath.training.spread import spread

batch, out, lost = int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3] == "lost"
processes = spread()
generator = initialise(Generator(TINY), 0).to(memory_format=torch.channels_last)
settings = replace(SETTINGS, steps=6, batch=batch)
trainer = Trainer(generator, dict(generator.named_parameters()), pairs(), FakeLPIPS(), settings, processes)
if lost and processes.rank == 1:
    trainer.train_step()
    os._exit(9)
run(trainer, SimpleNamespace(out=out, resume=False, every=3, device="cpu"), "checkpoint.safetensors", {})
processes.end()
(out / f"weights_{processes.rank}").write_text(digest(dict(generator.named_parameters())))
"""


def launch(processes: int, batch: int, out: Path, kind: str = "whole") -> subprocess.CompletedProcess:
    program = out / "program.py"
    out.mkdir()
    program.write_text(PROGRAM, encoding="utf-8")
    # On a CPU, `accelerate launch` itself wants MPI; torch's launcher sets the same variables.
    several = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    command = [sys.executable, *(several if processes > 1 else ()), str(program), str(batch), str(out), kind]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=240, env=environment)


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("spread") / "one"
    ran = launch(1, 4, out)
    assert ran.returncode == 0, ran.stderr[-2000:]
    return out


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("accelerate")
    out = tmp_path_factory.mktemp("spread") / "two"
    ran = launch(2, 2, out)
    assert ran.returncode == 0, ran.stderr[-2000:]
    return out


def losses(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


def test_the_losses_are_those_of_one_process_with_the_doubled_batch(one: Path, two: Path) -> None:
    (alone,), (together,) = losses(one), losses(two)
    assert alone["step"] == together["step"] == 6
    for name in ("l1", "lpips", "critic"):
        assert together[name] == pytest.approx(alone[name], rel=1e-4), name


def test_all_processes_end_with_the_same_weights(two: Path) -> None:
    assert (two / "weights_0").read_text() == (two / "weights_1").read_text()


def test_the_weights_are_nearly_those_of_one_process(one: Path, two: Path) -> None:
    from safetensors.torch import load_file

    alone, together = (load_file(out / "checkpoint.safetensors") for out in (one, two))
    names = [name for name in alone if name.startswith("parameter/")]
    assert names
    assert all(torch.allclose(alone[name], together[name], atol=1e-3) for name in names)


def test_the_checkpoint_is_written_once(two: Path) -> None:
    assert len(list(two.glob("checkpoint*"))) == 1
    assert (two / "log.jsonl").read_text().count("\n") == 1


def test_a_lost_process_ends_the_run_with_a_sentence(tmp_path: Path) -> None:
    pytest.importorskip("accelerate")
    ran = launch(2, 2, tmp_path / "lost", "lost")
    assert ran.returncode != 0
    assert "one is gone" in ran.stderr or "exitcode  : 9" in ran.stderr

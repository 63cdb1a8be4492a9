"""The command lines, what they write beside the weights, and where the corpus is cached."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hotpath.tests.testing import TINY, pictures, tiny_generator
from hotpath.tests.training.test_loop import SETTINGS, base_trainer
from hotpath.training import icons
from hotpath.training.command import check_same_run, check_sizes, run
from hotpath.training.grid import save_grid, to_uint8
from hotpath.training.loop import Pairs, Settings, Step
from hotpath.training.photographs import Picture
from hotpath.training.report import Progress
from hotpath.training.sources import cache_dir
from hotpath.training.teachers import CONCEPT_POOL, NEUTRAL, POOL, WIDER_POOL
from PIL import Image


@pytest.mark.parametrize(
    ("module", "options"),
    [
        ("base", ("--out", "--steps", "--resume", "--loss-crop")),
        ("concept", ("--base", "--concept", "--ranks", "--full", "--resume")),
        ("corpus", ("--out", "--concepts", "--limit")),
    ],
)
def test_help(module: str, options: tuple[str, ...], tmp_path: Path) -> None:
    command = [sys.executable, "-m", f"hotpath.training.{module}", "--help"]
    ran = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert ran.returncode == 0, ran.stderr
    assert f"python -m hotpath.training.{module}" in ran.stdout
    assert all(option in ran.stdout for option in options)
    assert not list(tmp_path.iterdir()), "asking for help writes nothing"


@pytest.mark.parametrize("module", ["base", "concept"])
def test_a_missing_argument_is_named(module: str) -> None:
    command = [sys.executable, "-m", f"hotpath.training.{module}"]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 2
    assert "--out" in ran.stderr


def test_the_pool_has_one_neutral_concept_and_unique_names() -> None:
    assert len(POOL) == len(CONCEPT_POOL) + len(WIDER_POOL) + 1 == len({concept.prompt for concept in POOL.values()})
    assert not POOL[NEUTRAL].held_from_base
    assert all(look.held_from_base for look in WIDER_POOL), "the bundled base knows nothing of them"
    assert all(concept.teacher.source and concept.teacher.licence for concept in POOL.values())


def test_a_scene_is_never_on_both_sides_of_the_split() -> None:
    image = Image.new("RGB", (2, 2))
    scenes = [f"scene {index}" for index in range(500)]
    held = [Picture(scene, image).held_out for scene in scenes]
    assert held == [Picture(scene, image.copy()).held_out for scene in scenes]
    assert 0.08 < sum(held) / len(held) < 0.2


def test_the_cache_is_where_it_was_asked_to_be(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOTPATH_CACHE", str(tmp_path))
    assert cache_dir() == tmp_path
    monkeypatch.delenv("HOTPATH_CACHE")
    assert cache_dir().name == "hotpath"


def test_the_cache_may_be_named_by_a_relative_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOTPATH_CACHE", "mine")
    assert cache_dir() == tmp_path / "mine"
    monkeypatch.setenv("HOTPATH_CACHE", "~/mine")
    assert cache_dir() == Path.home() / "mine"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"crop": 40}, "multiple of 16 from 16 to 256 px, got 40"),
        ({"crop": 272}, "multiple of 16 from 16 to 256 px, got 272"),
        ({"loss_crop": 176}, "from 16 px to the crop's 160, got 176"),
        ({"loss_crop": 8}, "from 16 px to the crop's 160, got 8"),
        ({"batch": 0}, "above 0, got 0"),
        ({"lr": -1.0}, "above 0, got 6, 9 and -1.0"),
    ],
)
def test_sizes_that_cannot_be_trained_with(changes: dict[str, float], words: str) -> None:
    good = Settings(steps=9, crop=160, loss_crop=96)
    check_sizes(good, 256)
    with pytest.raises(SystemExit, match=words):
        check_sizes(replace(good, **changes), 256)


@pytest.mark.parametrize("change", [{}, {"steps": 8}, {"lr": 0.5}, {"base": "another"}])
def test_only_a_run_in_the_same_terms_is_gone_on_with(tmp_path: Path, change: dict) -> None:
    """A run may be made longer; nothing else of it may change, or its file would tell a wrong story."""

    def go(resume: bool, base: str = "this", **changes: float) -> int:
        trainer = base_trainer(settings=replace(SETTINGS, **{"steps": 4, **changes}))
        run(trainer, SimpleNamespace(out=tmp_path, resume=resume, every=2, device="cpu"), "c.safetensors", {"base": base})
        return trainer.step

    assert go(False) == 4
    if change.keys() <= {"steps"}:
        assert go(True, **change) == change.get("steps", 4)
    else:
        with pytest.raises(SystemExit, match=f"is of another run \\({next(iter(change))}: .*--resume out"):
            go(True, **change)


def test_a_damaged_checkpoint_gets_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "c.safetensors").write_bytes(b"damaged")
    with pytest.raises(SystemExit, match=r"c\.safetensors, but it is damaged .*: take it away"):
        check_same_run(tmp_path / "c.safetensors", {})


def test_a_trial_does_not_take_the_place_of_the_corpus(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hotpath.training.corpus", "--limit", "3"]
    environment = {**os.environ, "HOTPATH_CACHE": str(tmp_path)}
    ran = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert ran.returncode == 2
    assert "an --out of its own" in ran.stderr
    assert not list(tmp_path.iterdir())


def test_progress_averages_and_logs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    progress = Progress(tmp_path / "log.jsonl", steps=5, first_step=0, every=2)
    for index in range(1, 6):
        progress.show(Step(index, {"l1": float(index)}))
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [(line["step"], line["l1"]) for line in lines] == [(2, 1.5), (4, 3.5), (5, 5.0)]
    assert "5/5" in capsys.readouterr().out


def test_the_grid_shows_photograph_teacher_student(tmp_path: Path) -> None:
    photographs = to_uint8(pictures(4, 32, 48))
    contexts = torch.randn(2, TINY.text_tokens, TINY.text_width)
    pairs = Pairs(photographs, [255 - photographs, photographs], contexts, [False, True])
    save_grid(tmp_path / "grid.png", tiny_generator(), pairs, range(2), columns=2)
    grid = np.asarray(Image.open(tmp_path / "grid.png"))
    assert grid.shape == (2 * 32, 2 * 3 * 48, 3)
    assert (grid[:32, :48] == photographs[0].numpy()).all()
    assert (grid[:32, 48:96] == 255 - photographs[0].numpy()).all()
    assert (grid[32:, :48, 0] == grid[32:, :48, 2]).all(), "a concept with grey input shows a grey photograph"


def test_icons_of_one_family_fall_on_one_side_of_the_split() -> None:
    assert icons.held_out("one-oclock") == icons.held_out("nine-oclock")
    share = sum(icons.held_out(f"thing-{index}") for index in range(1000)) / 1000
    assert 0.1 < share < 0.2


def test_near_copies_are_found_whatever_their_brightness() -> None:
    noise = np.random.default_rng(0).integers(0, 120, (3, 64, 64, 3), dtype=np.uint8)
    known = [Image.fromarray(picture) for picture in noise]
    brighter, new = Image.fromarray(noise[1] + 100), Image.fromarray(noise[2][::-1].copy())
    assert icons.near_copies([brighter, new, Image.new("RGB", (64, 64), "white")], known) == [True, False, False]

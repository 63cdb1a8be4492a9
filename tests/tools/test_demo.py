"""The demo writes every picture and its exit code tells the truth."""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from hotpath.tests.tools.test_graph import INFO, LOAD, save
from hotpath.tools import comfyui, demo, server
from hotpath.tools.client import Run
from hotpath.tools.environment import Refusal


@pytest.fixture
def examples(tmp_path: Path) -> Path:
    image = pytest.importorskip("PIL.Image")
    folder = tmp_path / "examples"
    (folder / "images").mkdir(parents=True)
    for name in ("a", "b"):
        image.new("RGB", (12, 8), "red").save(folder / "images" / f"{name}.jpg")
    for graph in (demo.EACH_PHOTO, demo.ONCE):
        (folder / graph).write_text(json.dumps({"nodes": [LOAD, save()], "links": [[2, 1, 0, 3, 0, "IMAGE"]]}), encoding="utf-8")
    return folder


def run_demo(monkeypatch: pytest.MonkeyPatch, examples: Path, out: Path, outcomes: list[Run], picture: bytes) -> int:
    """The demo on a server that answers with `outcomes`, whose pictures are all `picture`."""
    answers = iter(outcomes)
    asked: list[str] = []

    def queue(prompt: dict, progress: object) -> Run:
        asked.append(prompt["1"]["inputs"]["image"])
        return next(answers)

    fake = SimpleNamespace(
        object_info=lambda: INFO,
        upload=lambda path: f"up/{path.name}",
        queue=queue,
        image=lambda output: picture,
        log=lambda: "",
    )
    python = Path(sys.executable)
    monkeypatch.setattr(comfyui, "prepare", lambda: (comfyui.ComfyUI(examples, python), python))
    monkeypatch.setattr(server, "running", lambda comfy, port: contextlib.nullcontext(fake))
    code = demo.run(out, examples=examples)
    assert asked == ["up/a.jpg", "up/b.jpg", "up/a.jpg"]
    return code


def good(*names: str) -> Run:
    return Run(outputs={"3": {"images": [{"filename": name, "subfolder": "", "type": "output"} for name in names]}})


def test_the_demo_writes_every_picture_and_the_sheet(tmp_path: Path, examples: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture = (examples / "images" / "a.jpg").read_bytes()
    outcomes = [good("ink_00001_.png", "ink_00002_.png"), good("ink_00003_.png"), good("sheet_00001_.png")]
    assert run_demo(monkeypatch, examples, tmp_path / "out", outcomes, picture) == 0
    written = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert written == ["a-ink-2.png", "a-ink.png", "a-sheet.png", "b-ink.png", "contact-sheet.jpg"]


@pytest.mark.parametrize("bad", [Run(error="Blend (node 2): boom"), Run()], ids=["error", "no picture"])
def test_the_demo_fails_if_one_picture_failed(tmp_path: Path, examples: Path, monkeypatch: pytest.MonkeyPatch, bad: Run) -> None:
    picture = (examples / "images" / "a.jpg").read_bytes()
    outcomes = [good("ink_1_.png"), bad, good("sheet_1_.png")]
    assert run_demo(monkeypatch, examples, tmp_path / "out", outcomes, picture) == 1


def test_the_demo_fails_if_a_picture_cannot_be_read(tmp_path: Path, examples: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outcomes = [good("ink_1_.png"), good("ink_2_.png"), good("sheet_1_.png")]
    assert run_demo(monkeypatch, examples, tmp_path / "out", outcomes, b"not a picture") == 1


def test_a_folder_that_cannot_be_is_refused_before_anything_is_built(examples: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comfyui, "prepare", lambda: pytest.fail("built already"))
    with pytest.raises(Refusal, match=r"^Expected --out to name a folder to write into, got .*a\.jpg"):
        demo.run(examples / "images" / "a.jpg", examples=examples)


def test_photographs_of_one_name_do_not_replace_each_other(tmp_path: Path) -> None:
    written: set[Path] = set()
    client = SimpleNamespace(image=lambda output: b"picture")
    paths = [path for _ in range(2) for path in demo.save_pictures(client, good("ink_1_.png"), "cat", tmp_path, written)]
    assert [path.name for path in paths] == ["cat-ink.png", "cat-ink-2.png"]
    assert all(path.is_file() for path in paths)

"""The pack as a real server shows it: its nodes, its templates, and its example graphs with the bundled weights."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from hotpath.tests.comfy.e2gan_graphs import IDS
from hotpath.tests.comfy.served import pixels
from hotpath.tests.testing import ROOT
from hotpath.tools.client import Client
from hotpath.tools.graph import ui_to_api
from PIL import Image


def test_exactly_our_nodes_are_there(server: Client) -> None:
    ours = {name for name in server.object_info() if name.lower().startswith("hotpath")}
    assert ours == {path.stem for path in (ROOT / "web" / "docs").glob("Hotpath_*.md")}
    assert set(IDS) < ours


def test_examples_are_listed_as_templates(server: Client) -> None:
    listed = json.loads(server.get("/workflow_templates"))["hotpath"]
    assert sorted(listed) == sorted(path.stem for path in (ROOT / "examples").glob("*.json"))
    for name in listed:
        assert json.loads(server.get(f"/api/workflow_templates/hotpath/{name}.json"))["nodes"]


DIFFUSION = ("CheckpointLoaderSimple", "CLIPTextEncode", "VAEEncode", "KSampler", "VAEDecode")


@pytest.fixture(scope="module")
def photos(server: Client) -> None:
    """The folder of photographs that one example asks for."""
    folder = server.log_file.parent / "input" / "photos"
    folder.mkdir(parents=True)
    for path in (ROOT / "examples" / "images").glob("*.jpg"):
        Image.open(path).resize((160, 128)).save(folder / path.name)


OF_STUDENTS = ("sampler_", "img2img_")  # examples made of a user's own weights throughout; test_sampler_nodes.py looks after them
EXAMPLES = [path for path in sorted((ROOT / "examples").glob("*.json")) if not path.name.startswith(OF_STUDENTS)]


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
@pytest.mark.usefixtures("photos")
def test_examples_run_with_the_bundled_weights(server: Client, photo: str, path: Path) -> None:
    prompt = ui_to_api(json.loads(path.read_text(encoding="utf-8")), server.object_info())
    if any(node["class_type"] == "Hotpath_ProbeModel" for node in prompt.values()):  # all of it needs the checkpoint
        assert "ckpt_name" in server.queue(prompt).error, "nothing else is wrong with it"
        return
    for number, node in list(prompt.items()):
        if node["class_type"] == "LoadImage":
            node["inputs"]["image"] = photo
        if node["class_type"] == "Hotpath_TrainE2GANConcept":
            node["inputs"] |= {"steps": 10, "quality": "fast"}
            prompt["picture"] = {"class_type": "SaveImage", "inputs": {"images": [number, 2], "filename_prefix": path.stem}}
        if node["class_type"] == "Hotpath_ThroughputSweep":
            node["inputs"] |= {"sides": "64", "seconds": 0.1}
        if node["class_type"] in DIFFUSION:  # needs a checkpoint of the user's own
            del prompt[number]
        if node["class_type"] == "SaveImage" and prompt.get(node["inputs"]["images"][0], {}).get("class_type") in (
            None,
            "VAEDecode",
        ):
            node["inputs"]["images"] = ["4", 0]
    run = server.queue(prompt)
    saves = any(node["class_type"] == "SaveImage" for node in prompt.values())
    assert bool(pixels(server, run)) == saves
    assert saves or any(len(output["text"][0]) > 100 for output in run.outputs.values()), "a graph without a picture shows a text"
    assert all(picture.std() > 1 for picture in pixels(server, run))


def test_the_pack_loads_without_a_complaint(server: Client, capsys: pytest.CaptureFixture[str]) -> None:
    lines = server.log().splitlines()
    (times,) = (line for line in lines if "seconds" in line and line.rstrip().endswith("hotpath"))
    with capsys.disabled():
        sys.stdout.write(f"\nComfyUI's log: {' '.join(times.split())}\n")
    assert "IMPORT FAILED" not in server.log()

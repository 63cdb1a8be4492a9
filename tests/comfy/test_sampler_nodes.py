"""The sampler nodes on a real server: their inputs, and the example graphs as far as they go without weights."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hotpath.engine.recognition import by_name
from hotpath.engine.weights import manifest
from hotpath.tests.testing import ROOT
from hotpath.tools.client import Client
from hotpath.tools.graph import ui_to_api
from PIL import Image

NODES = ("EightStepSampler", "LoadStudent", "StudentSchedule", "StudentSolver")
EXAMPLES = [path for path in sorted((ROOT / "examples").glob("*.json")) if path.name.startswith(("sampler_", "img2img_"))]
each_example = pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)


@pytest.mark.parametrize("name", NODES)
def test_a_node_explains_itself(server: Client, name: str) -> None:
    info = server.object_info(f"Hotpath_{name}")
    assert info["category"] == "hotpath/sampling"
    inputs = {key: spec for group in ("required", "optional") for key, spec in info["input"].get(group, {}).items()}
    for key, spec in inputs.items():
        options = spec[1]
        assert len(options.get("tooltip", "")) > 10, f"{key} has no tooltip"
        if spec[0] in ("FLOAT", "INT"):
            assert options["min"] <= options["default"] <= options["max"]
    assert all(info["output_tooltips"])


def files_of(path: Path) -> list[dict]:
    return [
        file for node in json.loads(path.read_text(encoding="utf-8"))["nodes"] for file in node["properties"].get("models", [])
    ]


@each_example
def test_an_example_is_accepted_once_its_files_are_there(server: Client, tmp_path: Path, path: Path) -> None:
    for file in files_of(path):
        place = server.log_file.parent / "models" / file["directory"] / file["name"]
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(b"not weights")
    Image.new("RGB", (64, 64)).save(tmp_path / "hotpath-example.png")
    prompt = ui_to_api(json.loads(path.read_text(encoding="utf-8")), server.object_info())
    for node in prompt.values():
        if node["class_type"] == "LoadImage":
            node["inputs"]["image"] = server.upload(tmp_path / "hotpath-example.png")
    error = server.queue(prompt).error
    assert error.startswith("CheckpointLoaderSimple"), error  # the first node that reads a file; validation let all of them pass


@each_example
def test_an_example_names_its_files_as_the_editor_wants_them(path: Path) -> None:
    workflow, files = json.loads(path.read_text(encoding="utf-8")), files_of(path)
    shown = [value for node in workflow["nodes"] for value in node["widgets_values"]]
    assert {file["directory"] for file in files} == {"checkpoints", "loras"}
    for file in files:
        assert file["name"] in shown, "the editor offers only files that a widget shows"
        assert file["url"].startswith("https://huggingface.co/")
        assert file["url"].endswith("/" + file["name"])
        if file["directory"] == "loras":
            known = next(entry for entry in manifest.entries() if entry.hash == file["hash"])
            assert (file["hash_type"], known.verified) == ("SHA256", True)
            assert (file["name"], file["url"]) == (known.name, known.url), "the editor offers what the Weights node would fetch"
            assert by_name(file["name"]) == known.student
    assert path.with_suffix(".jpg").is_file()

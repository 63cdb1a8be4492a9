"""Making a concept inside a graph on a real server: pairs from core's nodes, training, saving, using, cancelling, and bad input."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from hotpath.engine.e2gan.checkpoint import load_concept
from hotpath.tests.comfy.served import alive, node, pixels
from hotpath.tests.testing import write_base
from hotpath.tools.client import Client, Run
from hotpath.training.pair_folder import load_folder
from PIL import Image

IDS = ("LoadE2GANPairs", "SelectE2GANPairs", "TrainE2GANConcept", "SaveE2GANConcept", "AddE2GANConcept")


@pytest.fixture(scope="module")
def root(server: Client) -> Path:
    """The server's base directory, with a tiny base, four photographs and a folder of pairs."""
    folder = server.log_file.parent
    write_base(folder / "models" / "e2gan" / "trainable.safetensors", seed=9)
    random = np.random.default_rng(0)
    for index in range(4):
        coarse = Image.fromarray(random.integers(0, 256, (5, 6, 3), np.uint8)).resize((96, 80), Image.Resampling.BICUBIC)
        coarse.save(folder / "input" / f"small_{index}.png")
        for kind, picture in (("before", coarse), ("after", Image.eval(coarse, lambda value: 255 - value))):
            (folder / "input" / "negatives" / kind).mkdir(parents=True, exist_ok=True)
            picture.save(folder / "input" / "negatives" / kind / f"{index}.png")
    return folder


def collected(count: int = 4, **pairs: object) -> dict[str, dict]:
    """`count` photographs and their negatives, made by core's nodes, as pairs (node "pairs")."""
    graph = {f"photo{index}": node("LoadImage", image=f"small_{index % 4}.png") for index in range(count)}
    last = ["photo0", 0]
    for index in range(1, count):
        graph[f"batch{index}"] = node("ImageBatch", image1=last, image2=[f"photo{index}", 0])
        last = [f"batch{index}", 0]
    graph["negative"] = node("ImageInvert", image=last)
    inputs = {"before": last, "after": ["negative", 0], "prompt": "negative", "side": 64, "folder": "", **pairs}
    return {**graph, "pairs": node("Hotpath_E2GANPairs", **inputs)}


def trained(graph: dict[str, dict], source: str = "pairs", **train: object) -> dict[str, dict]:
    inputs = {
        "name": "negative",
        "prompt": "",
        "minutes": 5.0,
        "quality": "fast",
        "seed": 0,
        "resume": True,
        "steps": 10,
        "lr": 0.01,
    }
    inputs |= {"e2gan": ["base", 0], "pairs": [source, 0], **train}
    base = node("Hotpath_LoadE2GAN", base="trainable.safetensors")
    return {**graph, "base": base, "train": node("Hotpath_TrainE2GANConcept", **inputs)}


def used(graph: dict[str, dict], **save: object) -> dict[str, dict]:
    """The trained concept on a photograph, and saved under a name."""
    return {
        **graph,
        "add": node("Hotpath_AddE2GANConcept", e2gan=["base", 0], concept=["train", 0], strength=1.0),
        "photo": node("LoadImage", image="small_0.png"),
        "apply": node("Hotpath_ApplyE2GAN", e2gan=["add", 0], image=["photo", 0], mix=1.0, precision="float32"),
        "save": node("SaveImage", images=["apply", 0], filename_prefix="negative"),
        "keep": node("Hotpath_SaveE2GANConcept", **{"concept": ["train", 0], "name": "", "overwrite": True, **save}),
    }


def texts(run: Run, name: str) -> str:
    assert run.error is None, run.error
    return "".join(run.outputs[name]["text"])


def test_any_edit_becomes_a_concept_that_is_used_and_saved(server: Client, root: Path) -> None:
    run = server.queue(used(trained(collected(), name="inverse")))
    (picture,) = pixels(server, run)
    assert picture.shape == (80, 96, 3)
    assert "3 pairs trained on, 1 held out" in texts(run, "train")
    stored = load_concept(root / "models" / "e2gan" / "concepts" / "inverse.safetensors")
    assert stored.info["prompt"] == "negative"
    assert texts(run, "keep").startswith("models/e2gan/concepts/inverse.safetensors (0.")

    concept = node("Hotpath_E2GANConcept", e2gan=["base", 0], concept="inverse.safetensors", strength=1.0)
    again = used(trained({}))
    graph = {name: again[name] for name in ("base", "photo", "apply", "save")} | {"add": concept}
    (from_file,) = pixels(server, server.queue(graph))
    assert np.array_equal(from_file, picture), "the saved concept gives the same picture as the one on the wire"


def test_progress_preview_loss_and_picture_come_out(server: Client, root: Path) -> None:
    graph = trained(collected(), name="shown", quality="balanced", steps=12)
    graph["graph"] = node("LossGraphNode", loss=["train", 1], filename_prefix="loss")
    graph["sheet"] = node("SaveImage", images=["train", 2], filename_prefix="sheet")
    run = server.queue(graph)
    assert run.error is None, run.error
    assert run.previews > 2
    steps = [message["data"]["value"] for message in run.messages if message["type"] == "progress"]
    assert steps[-1] == 12
    (sheet,) = pixels(server, run)
    assert sheet.shape == (64, 3 * 64, 3)
    assert re.match(r"best 0\.\d{3} at step \d+ of 12; 3 pairs trained on, 1 held out", texts(run, "train"))


def test_a_cancelled_run_goes_on_where_it_stopped(server: Client, root: Path) -> None:
    graph, asked = trained(collected(), name="long", steps=4000), []

    def cancel_soon(share: float, _: str) -> None:
        if share > (len(graph) - 1) / len(graph) + 1e-4 and not asked:  # the last of the nodes has made some steps
            asked.append(True)
            server.interrupt()

    def steps(run: Run) -> list[int]:
        return [message["data"]["value"] for message in run.messages if message["type"] == "progress"]

    first = server.queue(graph, cancel_soon)
    assert first.error is not None
    assert alive(server)
    (checkpoint,) = (root / "output" / "hotpath" / "training" / "long").rglob("checkpoint.safetensors")
    assert not list(checkpoint.parent.glob("*.part"))
    asked.clear()
    second = server.queue(graph, cancel_soon)
    assert steps(second)[0] > steps(first)[-1] > 0


def test_pairs_grow_in_a_folder_and_are_loaded_from_it(server: Client, root: Path) -> None:
    assert "2 pairs, 2 of them new" in texts(server.queue(collected(2, folder="grows")), "pairs")
    grown = texts(server.queue(collected(4, folder="grows", prompt="")), "pairs")
    assert "4 pairs, 2 of them new" in grown
    assert grown.count("Refused") == 2
    listing = json.loads((root / "output" / "hotpath" / "pairs" / "grows" / "pairs.json").read_text())
    assert listing["prompt"] == "negative", "an empty prompt leaves the one that is stored"
    names = {path.name for path in (root / "output" / "hotpath" / "pairs" / "grows").iterdir()}
    assert len(names) == 4 * 3 + 1
    offered = server.object_info("Hotpath_LoadE2GANPairs")["input"]["required"]["folder"]
    assert {"input/negatives", "pairs/grows"} <= set(offered[1].get("options", offered[0]))


def test_pairs_are_written_again_where_they_are_gone(server: Client, root: Path) -> None:
    graph, folder = collected(2, folder="gone"), root / "output" / "hotpath" / "pairs" / "gone"

    def ran() -> bool:
        run = server.queue(graph)
        assert run.error is None, run.error
        return "pairs" in run.node_ms

    assert [ran(), ran()] == [True, False], "what a run has written itself does not make it run again"
    for loss in (lambda: shutil.rmtree(folder), next(folder.glob("*_after.png")).unlink):
        loss()
        assert [ran(), ran()] == [True, False]
        assert len(load_folder(folder, 64)) == 2


@pytest.mark.parametrize("count", [2, 9])
def test_a_folder_is_loaded_selected_and_shown(server: Client, root: Path, count: int) -> None:
    load = node("Hotpath_LoadE2GANPairs", folder="input/negatives", prompt="", side=64)
    graph = {"pairs": load, "some": node("Hotpath_SelectE2GANPairs", pairs=["pairs", 0], count=count, seed=1)}
    graph["save"] = node("SaveImage", images=["some", 1], filename_prefix="kept")
    run = server.queue(graph)
    (sheet,) = pixels(server, run)
    assert sheet.shape == (256, 128 * min(count, 4), 3)
    above, below = sheet[:128].astype(int), sheet[128:].astype(int)
    assert np.abs(above + below - 255).mean() < 3, "before above after"


@pytest.mark.parametrize(
    ("graph", "words"),
    [
        (lambda: trained(collected(1)), "at least 2 pairs"),
        (lambda: trained(collected(), name="../up"), "Expected a name"),
        (lambda: trained(collected(), name=""), "Expected a name"),
        (lambda: used(trained(collected(), name="fine"), name="a/b"), "Expected a name"),
        (lambda: collected(folder="../elsewhere"), "Expected a name"),
        (lambda: collected(after=["photo0", 0]), "4 before and 1 after"),
        (lambda: trained(collected(after=["batch3", 0])), "nothing to learn"),
        (lambda: trained(collected(), quality="superb"), "quality"),
        (lambda: trained(collected(), lr=float("nan")), "Expected lr to be a number above 0, got nan"),
        (
            lambda: trained({"pairs": node("Hotpath_LoadE2GANPairs", folder="input/none", prompt="", side=64)}),
            "Expected a folder",
        ),
    ],
)
def test_bad_input_gets_a_sentence(server: Client, root: Path, graph: object, words: str) -> None:
    run = server.queue(graph())
    assert run.error is not None
    assert words in run.error
    assert alive(server)


def test_a_saved_concept_is_not_overwritten_unasked(server: Client, root: Path) -> None:
    graph = used(trained(collected(), name="kept"), overwrite=False, name="once")
    assert server.queue(graph).error is None
    before = (root / "models" / "e2gan" / "concepts" / "once.safetensors").read_bytes()
    graph["train"]["inputs"]["seed"] = 1
    run = server.queue(graph)
    assert "exists already" in run.error
    assert (root / "models" / "e2gan" / "concepts" / "once.safetensors").read_bytes() == before


@pytest.mark.parametrize("name", ["E2GANPairs", *IDS])
def test_a_training_node_explains_itself(server: Client, name: str) -> None:
    info = server.object_info(f"Hotpath_{name}")
    assert info["category"] == "hotpath/training"
    assert len(info["description"]) > 20
    for group in ("required", "optional"):
        for key, spec in info["input"].get(group, {}).items():
            assert len((spec[1] if len(spec) > 1 else {}).get("tooltip", "")) > 10, f"{key} has no tooltip"
    assert json.dumps(info)

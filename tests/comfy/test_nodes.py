"""The E2GAN nodes on a real server: good graphs give pictures, bad input gives a sentence and the server lives on."""

from __future__ import annotations

import io
import json
import sys
import urllib.error
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hotpath.engine.e2gan.checkpoint import load_base, save_concept
from hotpath.tests.testing import ROOT, contents, rewrite, tiny_concept, write_base
from hotpath.tools.client import Client, Run
from hotpath.tools.graph import ui_to_api
from PIL import Image

IDS = ("Hotpath_LoadE2GAN", "Hotpath_E2GANConcept", "Hotpath_ApplyE2GAN", "Hotpath_E2GANConceptSheet")
FOREIGN = "f" * 64
Link = list


@pytest.fixture(scope="module")
def weights(server: Client, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """models/e2gan of the server, with a tiny base, two looks for it, and files that cannot be used."""
    folder = server.log_file.parent / "models" / "e2gan"
    base = load_base(write_base(folder / "tiny.safetensors"))
    for name, seed in (("ink", 1), ("oil", 2)):
        save_concept(folder / "concepts" / f"{name}.safetensors", tiny_concept(base, seed, name=name))
    save_concept(folder / "concepts" / "foreign.safetensors", tiny_concept(base, 3, base_sha256=FOREIGN))
    (folder / "concepts" / "damaged.safetensors").write_bytes(b"PK\x03\x04 not safetensors")
    rewrite(write_base(folder / "other.safetensors", seed=5), header={"hotpath.format": "hotpath.student"})
    nan = write_base(folder / "nan.safetensors", seed=6)
    rewrite(nan, tensors={"head.weight": torch.full_like(contents(nan)[1]["head.weight"], torch.nan)})
    return folder


@pytest.fixture(scope="module")
def photo(server: Client, tmp_path_factory: pytest.TempPathFactory) -> str:
    pixels = np.random.default_rng(0).integers(0, 256, (6, 9, 3), np.uint8)
    path = tmp_path_factory.mktemp("photo") / "hotpath-photo.png"
    Image.fromarray(pixels).resize((67, 45), Image.Resampling.BICUBIC).save(path)
    return server.upload(path)


def graph(
    looks: Sequence[tuple[str, float]] = (("ink", 1.0),),
    *,
    source: dict[str, dict] | None = None,
    base: str = "tiny",
    photo: str = "hotpath-photo.png",
    prefix: str = "hotpath",
    **apply: object,
) -> dict[str, dict]:
    """Picture (node "1", or what `source` gives) through a base and its looks, saved by node "save"."""
    prompt = source or {"1": {"class_type": "LoadImage", "inputs": {"image": photo}}}
    prompt = {**prompt, "base": {"class_type": IDS[0], "inputs": {"base": f"{base}.safetensors"}}}
    last: Link = ["base", 0]
    for index, (name, strength) in enumerate(looks):
        inputs = {"e2gan": last, "concept": f"{name}.safetensors", "strength": strength}
        prompt[f"look{index}"] = {"class_type": IDS[1], "inputs": inputs}
        last = [f"look{index}", 0]
    inputs = {"e2gan": last, "image": ["1", 0], "mix": 1.0, "precision": "float32", **apply}
    prompt["apply"] = {"class_type": IDS[2], "inputs": inputs}
    prompt["save"] = {"class_type": "SaveImage", "inputs": {"images": ["apply", 0], "filename_prefix": prefix}}
    return prompt


def empty_image(width: int, height: int, count: int = 1) -> dict[str, dict]:
    inputs = {"width": width, "height": height, "batch_size": count, "color": 0x4080C0}
    return {"1": {"class_type": "EmptyImage", "inputs": inputs}}


def pixels(server: Client, run: Run) -> list[np.ndarray]:
    assert run.error is None, run.error
    return [np.asarray(Image.open(io.BytesIO(server.image(image)))) for image in run.images]


def alive(server: Client) -> bool:
    return server.process.poll() is None and bool(json.loads(server.get("/system_stats")))


def picture_as_it_is(server: Client, source: dict[str, dict]) -> np.ndarray:
    save = {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "as-it-is"}}
    return pixels(server, server.queue({**source, "save": save}))[0]


# ---- what the server shows


@pytest.mark.parametrize("name", IDS)
def test_a_node_explains_itself(server: Client, name: str) -> None:
    info = server.object_info(name)
    assert info["category"] == "hotpath/e2gan"
    assert len(info["description"]) > 20
    inputs = {key: spec for group in info["input"].values() for key, spec in group.items()}
    assert inputs
    for key, spec in inputs.items():
        options = spec[1] if len(spec) > 1 else {}
        assert len(options.get("tooltip", "")) > 10, f"{key} has no tooltip"
        if spec[0] in ("FLOAT", "INT"):
            assert options["min"] <= options["default"] <= options["max"]
    assert all(info["output_tooltips"])


def test_exactly_our_nodes_are_there(server: Client) -> None:
    ours = {name for name in server.object_info() if name.lower().startswith("hotpath")}
    assert ours == {path.stem for path in (ROOT / "web" / "docs").glob("Hotpath_*.md")}
    assert set(IDS) < ours


def test_files_are_listed_by_kind(server: Client, weights: Path) -> None:
    bases = server.object_info(IDS[0])["input"]["required"]["base"]
    concepts = server.object_info(IDS[1])["input"]["required"]["concept"]
    bases, concepts = (set(spec[1].get("options", spec[0])) for spec in (bases, concepts))
    assert {"tiny.safetensors"} <= bases
    assert {"ink.safetensors", "oil.safetensors"} <= concepts
    assert not [name for name in bases if "concepts/" in name or "ink" in name]
    bundled = {path.name for path in (ROOT / "models").glob("*.safetensors")}
    assert bundled <= bases
    assert not [name for name in bases | concepts if not name.endswith(".safetensors")]


@pytest.mark.parametrize("name", IDS)
def test_help_pages_are_served(server: Client, name: str) -> None:
    page = server.get(f"/extensions/hotpath/docs/{name}.md").decode("utf-8")
    assert page.startswith("#")


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


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.json")), ids=lambda path: path.stem)
@pytest.mark.usefixtures("photos")
def test_examples_run_with_the_bundled_weights(server: Client, photo: str, path: Path) -> None:
    prompt = ui_to_api(json.loads(path.read_text(encoding="utf-8")), server.object_info())
    if not any("E2GAN" in node["class_type"] for node in prompt.values()):
        pytest.skip("needs a checkpoint of the user's own; tests/comfy/test_accelerate.py runs its node")
    for number, node in list(prompt.items()):
        if node["class_type"] == "LoadImage":
            node["inputs"]["image"] = photo
        if node["class_type"] == "Hotpath_TrainE2GANConcept":
            node["inputs"] |= {"steps": 10, "quality": "fast"}
            prompt["picture"] = {"class_type": "SaveImage", "inputs": {"images": [number, 2], "filename_prefix": path.stem}}
        if node["class_type"] in DIFFUSION:  # needs a checkpoint of the user's own
            del prompt[number]
        if node["class_type"] == "SaveImage" and prompt.get(node["inputs"]["images"][0], {}).get("class_type") in (
            None,
            "VAEDecode",
        ):
            node["inputs"]["images"] = ["4", 0]
    run = server.queue(prompt)
    assert pixels(server, run)
    assert all(picture.std() > 1 for picture in pixels(server, run))


def test_the_pack_loads_without_a_complaint(server: Client, capsys: pytest.CaptureFixture[str]) -> None:
    lines = server.log().splitlines()
    (times,) = (line for line in lines if "seconds" in line and line.rstrip().endswith("hotpath"))
    with capsys.disabled():
        sys.stdout.write(f"\nComfyUI's log: {' '.join(times.split())}\n")
    assert "IMPORT FAILED" not in server.log()


# ---- pictures


@pytest.mark.parametrize(("width", "height", "count"), [(1, 1, 1), (3, 5000, 1), (50, 33, 3)])
def test_any_size_and_count(server: Client, weights: Path, width: int, height: int, count: int) -> None:
    edited = pixels(server, server.queue(graph(source=empty_image(width, height, count))))
    assert [picture.shape for picture in edited] == [(height, width, 3)] * count


def test_there_and_back_gives_the_same_file(server: Client, weights: Path, photo: str) -> None:
    files = []
    for name in ("ink", "oil", "ink"):
        run = server.queue(graph([(name, 1.0)], prefix=f"switch-{name}"))
        assert run.error is None
        assert "apply" in run.node_ms, "this run was not answered from the cache"
        files.append(server.image(run.images[0]))
    assert files[0] == files[2]
    assert files[0] != files[1]


def test_strength_zero_is_the_base(server: Client, weights: Path, photo: str) -> None:
    (bare,) = pixels(server, server.queue(graph([])))
    (zero,) = pixels(server, server.queue(graph([("ink", 0.0), ("oil", 0.0)])))
    (blend,) = pixels(server, server.queue(graph([("ink", 0.5), ("oil", 0.5)])))
    assert (bare == zero).all()
    assert (bare != blend).any()


def test_a_batch_shows_progress_and_previews(server: Client, weights: Path) -> None:
    shares: list[float] = []
    prompt = graph([("ink", 0.9)], source=empty_image(40, 40, 3))
    run = server.queue(prompt, lambda share, title: shares.append(share))
    assert len(pixels(server, run)) == 3
    assert run.previews >= 1
    assert any(message["type"] == "progress" and message["data"]["value"] == 3 for message in run.messages)
    assert shares == sorted(shares)


def alpha_source(photo: str) -> dict[str, dict]:
    """The photo with a transparent left part, as RGBA."""
    return {
        "photo": {"class_type": "LoadImage", "inputs": {"image": photo}},
        "solid": {"class_type": "SolidMask", "inputs": {"value": 0.25, "width": 67, "height": 45}},
        "1": {"class_type": "JoinImageWithAlpha", "inputs": {"image": ["photo", 0], "alpha": ["solid", 0]}},
    }


@pytest.mark.parametrize("mix", [0.0, 0.5, 1.0])
def test_alpha_stays(server: Client, weights: Path, photo: str, mix: float) -> None:
    source = alpha_source(photo)
    (edited,) = pixels(server, server.queue(graph(source=source, mix=mix)))
    original = picture_as_it_is(server, source)
    assert edited.shape == original.shape == (45, 67, 4)
    assert (edited[..., 3] == original[..., 3]).all()
    assert (edited[..., :3] == original[..., :3]).all() == (mix == 0)


def test_mix_zero_returns_the_picture(server: Client, weights: Path, photo: str) -> None:
    source = {"1": {"class_type": "LoadImage", "inputs": {"image": photo}}}
    original = picture_as_it_is(server, source)
    (untouched,), (half,), (full,) = (pixels(server, server.queue(graph(source=source, mix=mix))) for mix in (0.0, 0.5, 1.0))
    assert (untouched == original).all()
    assert np.abs(half.astype(int) - (original.astype(int) + full) / 2).max() <= 1


@pytest.mark.parametrize("invert", [False, True])
def test_a_mask_says_where(server: Client, weights: Path, photo: str, invert: bool) -> None:
    """A mask of another size, white in its right half."""
    source = {
        "1": {"class_type": "LoadImage", "inputs": {"image": photo}},
        "black": {"class_type": "SolidMask", "inputs": {"value": float(invert), "width": 20, "height": 10}},
        "white": {"class_type": "SolidMask", "inputs": {"value": float(not invert), "width": 10, "height": 10}},
        "mask": {
            "class_type": "MaskComposite",
            "inputs": {"destination": ["black", 0], "source": ["white", 0], "x": 10, "y": 0, "operation": "add"},
        },
    }
    if invert:
        source["mask"]["inputs"] |= {"operation": "and"}
    (edited,) = pixels(server, server.queue(graph(source=source, mask=["mask", 0])))
    original = picture_as_it_is(server, {"1": source["1"]})
    (full,) = pixels(server, server.queue(graph(source={"1": source["1"]})))
    left, right = (original, full) if not invert else (full, original)
    assert (edited[:, :30] == left[:, :30]).all()
    assert (edited[:, 38:] == right[:, 38:]).all()


# ---- bad input: a sentence, and the server lives


def refused(server: Client, prompt: dict[str, dict], *words: str) -> None:
    before = server.log().count("!!! Exception")
    run = server.queue(prompt)
    assert run.error, "expected a refusal"
    missing = [word for word in words if word not in run.error]
    assert not missing, f"{missing} not in: {run.error}"
    assert alive(server)
    assert pixels(server, server.queue(graph(source=empty_image(33, 34)))), "the next graph still works"
    assert server.log().count("!!! Exception") <= before + 1


def test_a_concept_that_is_gone(server: Client, weights: Path, photo: str) -> None:
    refused(
        server, graph([("old favourite", 1.0)]), "Expected 'old favourite.safetensors'", "models/e2gan/concepts", "ink", "choose"
    )


def test_a_base_that_is_gone(server: Client, weights: Path, photo: str) -> None:
    refused(server, graph(base="old base"), "Expected 'old base.safetensors'", "models/e2gan", "tiny.safetensors", "choose")


@pytest.mark.parametrize("name", ["../tiny", "/etc/hostname", "concepts/../../x"])
def test_names_outside_the_folder(server: Client, weights: Path, photo: str, name: str) -> None:
    refused(server, graph(base=name), "Expected", "models/e2gan")


def test_a_damaged_concept(server: Client, weights: Path, photo: str) -> None:
    refused(server, graph([("damaged", 1.0)]), "Expected a safetensors file", "damaged.safetensors", "again")


def test_a_concept_of_another_base(server: Client, weights: Path, photo: str) -> None:
    sha256 = load_base(weights / "tiny.safetensors").sha256
    refused(server, graph([("foreign", 1.0)]), "'foreign'", FOREIGN[:12], sha256[:12], "choose")


@pytest.mark.parametrize(("base", "words"), [("other", ("hotpath.student", "choose")), ("nan", ("not finite", "head.weight"))])
def test_bases_that_cannot_be_used(server: Client, weights: Path, photo: str, base: str, words: tuple[str, ...]) -> None:
    refused(server, graph([], base=base), f"{base}.safetensors", *words)


@pytest.mark.parametrize(("name", "value"), [("mix", 1.5), ("mix", -0.1), ("precision", "int4")])
def test_values_outside_their_range(server: Client, weights: Path, photo: str, name: str, value: object) -> None:
    refused(server, graph(**{name: value}), name)


@pytest.mark.parametrize("strength", [2.5, -1.5])
def test_strengths_outside_their_range(server: Client, weights: Path, photo: str, strength: float) -> None:
    refused(server, graph([("ink", strength)]), "strength")


def test_a_file_that_changes_is_read_again(server: Client, weights: Path, photo: str) -> None:
    base = load_base(weights / "tiny.safetensors")
    path = weights / "concepts" / "changing.safetensors"
    save_concept(path, tiny_concept(base, 8))
    (before,) = pixels(server, server.queue(graph([("changing", 1.0)])))
    save_concept(path, tiny_concept(base, 9, rank=1), overwrite=True)
    (after,) = pixels(server, server.queue(graph([("changing", 1.0)])))
    assert (before != after).any()
    path.unlink()
    refused(server, graph([("changing", 1.0)]), "Expected 'changing.safetensors'")


# ---- the sheet


def sheet(**inputs: object) -> dict[str, dict]:
    prompt = graph([])
    values = {"e2gan": ["base", 0], "image": ["1", 0], "strength": 1.0, "cell": 128, "columns": 0, "precision": "float32"}
    prompt["apply"] = {"class_type": IDS[3], "inputs": {**values, **inputs}}
    return prompt


def test_the_sheet_shows_what_fits_and_leaves_out_the_rest(server: Client, weights: Path, photo: str) -> None:
    (grid,) = pixels(server, server.queue(sheet()))  # photograph, ink, oil in two columns; foreign and damaged left out
    cell_height, cell_width = 86 + 28 + 6, 128 + 6
    assert grid.shape == (2 * cell_height + 6, 2 * cell_width + 6, 3)
    (row,) = pixels(server, server.queue(sheet(columns=3)))
    assert row.shape == (cell_height + 6, 3 * cell_width + 6, 3)
    assert grid.std() > 10


def test_a_sheet_without_a_fitting_concept(server: Client, weights: Path, photo: str) -> None:
    write_base(weights / "lonely.safetensors", seed=11)
    prompt = sheet()
    prompt["base"]["inputs"]["base"] = "lonely.safetensors"
    refused(server, prompt, "Expected at least one concept", "models/e2gan/concepts")


def test_good_graphs_leave_no_traceback(server: Client, weights: Path, photo: str) -> None:
    before = len(server.log())
    for prompt in (graph([("oil", 0.7)], prefix="clean"), sheet(columns=1)):
        assert server.queue(prompt).error is None
    written = server.log()[before:]
    assert "Traceback" not in written
    assert "WARNING" not in written
    with pytest.raises(urllib.error.HTTPError):
        server.get("/extensions/hotpath/docs/none.md")


def test_nothing_is_written_into_the_pack(server: Client, weights: Path, photo: str) -> None:
    def files() -> set[Path]:
        return {path for path in ROOT.rglob("*") if path.parts[-2:-1] != ("__pycache__",) and ".git" not in path.parts}

    before = files()
    assert server.queue(graph([("ink", 0.31)])).error is None
    new = [path for path in files() - before if path.suffix in (".safetensors", ".png", ".json", ".log", ".txt")]
    assert not new

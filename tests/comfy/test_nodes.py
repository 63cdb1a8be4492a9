"""The E2GAN nodes on a real server: what they say of themselves, and the pictures that good graphs give."""

from __future__ import annotations

import urllib.error
from pathlib import Path

import numpy as np
import pytest
from hotpath.engine.e2gan.checkpoint import load_base, save_concept
from hotpath.tests.comfy.e2gan_graphs import IDS, empty_image, graph, refused, sheet
from hotpath.tests.comfy.served import pixels
from hotpath.tests.testing import ROOT, tiny_concept, write_base
from hotpath.tools.client import Client

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


# ---- pictures


def picture_as_it_is(server: Client, source: dict[str, dict]) -> np.ndarray:
    save = {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "as-it-is"}}
    return pixels(server, server.queue({**source, "save": save}))[0]


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


# ---- what is left behind


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

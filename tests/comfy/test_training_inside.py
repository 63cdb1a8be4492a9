"""The nodes that make concepts, inside ComfyUI: names of files, pairs of another side, and names of bundled concepts."""

from __future__ import annotations

import pytest
from hotpath.tests.comfy.outside import good, run_inside, sentence
from hotpath.tests.testing import ROOT

ALLOWED = {
    "ink": "ink",
    " my look 2 ": "my look 2",
    "a.b": "a.b",
    "console": "console",
    "com10": "com10",
    "\u540d" * 66: "\u540d" * 66,
}
DEVICES = ("con", "CON", "nul.x", "Prn.tar.gz", "aux", "com1", "LPT9.safetensors", "com\u00b2", "con .x")
UNFIT = ("", "  ", "a/b", "..", ".hidden", "a.", "a\nb", "x" * 81, "\u540d" * 67)
PROGRAM = r"""
import sys
from pathlib import Path
from hotpath.tests.comfy.inside import Pack, start_comfyui
from hotpath.tests.comfy.test_training_inside import ALLOWED, DEVICES, UNFIT
tree, base, pack = map(Path, sys.argv[1:4])
start_comfyui(tree, base)
import torch
from comfy_api.internal import make_locked_method_func
PACK = Pack(pack)
case, host = PACK.case, PACK.part("nodes.concept_host")
load_concept = PACK.part("engine.e2gan.checkpoint").load_concept

for name in (*ALLOWED, *DEVICES, *UNFIT):
    case(f"name {name}", lambda: host.file_name(name))

def run(node, **inputs):
    kind = PACK.nodes[f"Hotpath_{node}"]
    result = make_locked_method_func(kind, "execute", kind.PREPARE_CLASS_CLONE(None))(**inputs)
    return result.args, result.ui.as_dict()["text"][0]

def pairs(side, seed, folder="", more=None):
    before = torch.rand(2, 160, 160, 3, generator=torch.Generator().manual_seed(seed))
    inputs = dict(before=[before], after=[1 - before], prompt=["negative"], side=[side], folder=[folder])
    (found,), text = run("E2GANPairs", **inputs, **({"more": [more]} if more else {}))
    return found, text

def together(folder):
    found, text = pairs(64, 1, folder, more=pairs(128, 2)[0])
    PACK.call("SelectE2GANPairs", pairs=found, count=8, seed=0)
    return [list(found.before.shape), text.split(".")[0]]
case("more of another side", lambda: together(""))
case("more of another side, into a folder", lambda: together("grows"))
case("other side than the folder", lambda: pairs(128, 3, "grows"))
case("loaded", lambda: run("LoadE2GANPairs", folder="pairs/grows", prompt="", side=64)[1])
case("files", lambda: sorted(path.name for path in host.pairs_folder("grows").iterdir()))

comic = load_concept(host.BUNDLED / "concepts" / "comic.safetensors")
def save(name, overwrite):
    return run("SaveE2GANConcept", concept=comic, name=name, overwrite=overwrite)[1]
case("save as bundled", lambda: save("", False))
case("saved", lambda: list(map(str, host.own_concepts().glob("*"))))
case("save in front of bundled", lambda: save("comic", True))
case("save as own", lambda: save("my comic", False))
PACK.print_results()
"""


def short(name: str) -> str:
    return f"{ascii(name)[1:12]} {len(name)}"


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list]:
    return run_inside(PROGRAM, tmp_path_factory.mktemp("comfy"), ROOT)[0]


@pytest.mark.parametrize("name", ALLOWED, ids=short)
def test_names_that_are_files_everywhere(results: dict[str, list], name: str) -> None:
    assert good(results, f"name {name}") == ALLOWED[name]


@pytest.mark.parametrize("name", DEVICES, ids=short)
def test_names_that_windows_keeps(results: dict[str, list], name: str) -> None:
    assert "Windows" in sentence(results, f"name {name}")


@pytest.mark.parametrize("name", UNFIT, ids=short)
def test_names_that_are_no_file(results: dict[str, list], name: str) -> None:
    assert "Expected a name of letters" in sentence(results, f"name {name}")


@pytest.mark.parametrize("label", ["more of another side", "more of another side, into a folder"])
def test_pairs_of_another_side_are_scaled(results: dict[str, list], label: str) -> None:
    assert good(results, label) == [[4, 64, 64, 3], "4 pairs, 2 of them new"]


def test_a_folder_of_another_side_is_left_as_it_was(results: dict[str, list]) -> None:
    assert "pairs of 64 px as in the folder grows" in sentence(results, "other side than the folder")
    assert len(good(results, "files")) == 4 * 3 + 1


def test_loading_counts_no_pair_as_new(results: dict[str, list]) -> None:
    assert good(results, "loaded") == "4 pairs."


def test_a_bundled_concept_is_hidden_only_when_asked(results: dict[str, list]) -> None:
    assert "'comic'" in sentence(results, "save as bundled")
    assert good(results, "saved") == []
    assert "in front of the bundled concept" in good(results, "save in front of bundled")
    assert "bundled" not in good(results, "save as own")

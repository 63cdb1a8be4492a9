"""What a graph of core's nodes cannot reach: the nodes run inside ComfyUI, class locked, on input no loader would give."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
from hotpath.engine.e2gan.checkpoint import load_base, save_concept
from hotpath.tests.testing import ROOT, tiny_concept, write_base
from hotpath.tools.comfyui import python_of

# Loads the pack as ComfyUI does, under a path for a name, then runs cases and prints what became of each.
PROGRAM = r"""
import asyncio, gc, importlib.util, json, sys, weakref
tree, base, pack = sys.argv[1:4]
sys.argv[1:] = ["--cpu", "--base-directory", base]
sys.path.insert(0, tree)
import comfy.options
comfy.options.enable_args_parsing()
import torch, comfy.model_management as mm
from comfy_api.internal import make_locked_method_func
name = pack.replace(".", "_x_")
spec = importlib.util.spec_from_file_location(name, pack + "/__init__.py", submodule_search_locations=[pack])
sys.modules[name] = module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
async def nodes():
    return await (await module.comfy_entrypoint()).get_node_list()
NODES = {node.define_schema().node_id: node for node in asyncio.run(nodes())}
host = sys.modules[name + ".nodes.host"]
results = {}

def call(node, method="execute", **inputs):
    node = NODES["Hotpath_" + node]
    with torch.inference_mode():
        result = make_locked_method_func(node, method, node.PREPARE_CLASS_CLONE(None))(**inputs)
    return result.args[0] if hasattr(result, "args") else result

def case(label, function):
    try:
        results[label] = [None, function()]
    except BaseException as error:
        results[label] = [type(error).__name__, str(error)]

load = lambda: call("LoadE2GAN", base="tiny.safetensors")
styled = lambda strength=1.0: call("E2GANConcept", e2gan=load(), concept="ink.safetensors", strength=strength)
def edit(image, mix=1.0, mask=None):
    return list(call("ApplyE2GAN", e2gan=styled(), image=image, mix=mix, precision="float32", mask=mask).shape)
def sheet(image):
    inputs = dict(strength=1.0, cell=128, columns=0, precision="float32")
    return list(call("E2GANConceptSheet", e2gan=load(), image=image, **inputs).shape)

picture = torch.rand(2, 20, 30, 3)
for label, image in {
    "good": picture, "empty": picture[:0], "NaN": picture * float("nan"), "grey": picture[..., :1], "two channels": picture[..., :2],
    "rgba": torch.rand(2, 20, 30, 4), "bright": picture * 3, "half": picture.half(), "no rows": picture[:, :0],
}.items():
    case("edit " + label, lambda: edit(image))
    case("sheet " + label, lambda: sheet(image))
for count in (1, 2, 3):
    case(f"{count} masks", lambda: edit(picture, mask=torch.ones(count, 7, 5)))
case("one mask without a batch", lambda: edit(picture, mask=torch.ones(7, 5)))
case("strength", lambda: styled(float("nan")))
case("gone", lambda: call("E2GANConcept", e2gan=load(), concept="gone.safetensors", strength=1.0))

def unchanged():
    image, mask = picture.clone(), torch.full((1, 9, 9), 0.5)
    edit(image, 0.5, mask)
    return [torch.equal(image, picture), bool((mask == 0.5).all())]
case("inputs are left alone", unchanged)

def cancelled():
    mm.interrupt_current_processing(True)
    edit(picture)
case("cancel", cancelled)
mm.interrupt_current_processing(False)

def short_of_memory(enough):
    tiles, run = [], host.apply
    def apply(*arguments, tile, **rest):
        tiles.append(tile)
        if tile > enough:
            raise mm.OOM_EXCEPTION("out of memory")
        return run(*arguments, tile=tile, **rest)
    host.apply = apply
    try:
        return [edit(picture), tiles]
    except mm.OOM_EXCEPTION:
        return [None, tiles]
    finally:
        host.apply = run
case("some memory", lambda: short_of_memory(400))
case("no memory", lambda: short_of_memory(0))

def states():
    import os
    path = host.file_path(host.CONCEPTS, "ink.safetensors")
    first = call("E2GANConcept", "fingerprint_inputs", concept="ink.safetensors")
    again = call("E2GANConcept", "fingerprint_inputs", concept="ink.safetensors")
    os.utime(path, ns=(1, 1))
    return [first == again, first != call("E2GANConcept", "fingerprint_inputs", concept="ink.safetensors")]
case("fingerprint", states)

def collected():
    # Another file under the same name takes the place of the one that was run.
    Base = sys.modules[name + ".engine.e2gan.checkpoint"]
    seen = weakref.ref(load().base)
    Base._load_base.cache_clear()
    Base._load_concept.cache_clear()
    host._hosted.cache_clear()
    mm.unload_all_models()
    gc.collect()
    return seen() is None
case("a base that was let go", collected)
print("RESULTS" + json.dumps(results))
"""


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list]:
    tree = os.environ.get("HOTPATH_COMFYUI")
    if not tree:
        pytest.skip("needs a ComfyUI: run `python tools/dev.py test`, or set HOTPATH_COMFYUI to a ComfyUI folder")
    folder = tmp_path_factory.mktemp("comfy")
    for name in ("custom_nodes", "input", "output"):
        (folder / name).mkdir()
    base = load_base(write_base(folder / "models" / "e2gan" / "tiny.safetensors"))
    save_concept(folder / "models" / "e2gan" / "concepts" / "ink.safetensors", tiny_concept(base, 1, name="ink"))
    command = [str(python_of(Path(tree))), "-c", PROGRAM, tree, str(folder), str(ROOT)]
    ran = subprocess.run(command, cwd=tree, capture_output=True, text=True, check=False, timeout=300)
    assert "RESULTS" in ran.stdout, ran.stderr[-3000:]
    return json.loads(ran.stdout.rpartition("RESULTS")[2])


def good(results: dict[str, list], label: str) -> object:
    error, value = results[label]
    assert error is None, f"{error}: {value}"
    return value


@pytest.mark.parametrize("label", ["good", "bright", "half"])
def test_pictures_come_back_in_their_shape(results: dict[str, list], label: str) -> None:
    assert good(results, f"edit {label}") == [2, 20, 30, 3]


def test_alpha_and_grey(results: dict[str, list]) -> None:
    assert good(results, "edit rgba") == [2, 20, 30, 4]
    assert good(results, "edit grey") == [2, 20, 30, 3]


@pytest.mark.parametrize("label", ["good", "bright", "half", "rgba", "grey"])
def test_the_sheet_takes_the_same_pictures(results: dict[str, list], label: str) -> None:
    assert good(results, f"sheet {label}") == [1, 85 + 28 + 6 + 6, 2 * (128 + 6) + 6, 3]


@pytest.mark.parametrize("node", ["edit", "sheet"])
@pytest.mark.parametrize(
    ("label", "words"),
    [
        ("empty", "Expected at least one picture"),
        ("no rows", "Expected at least one picture"),
        ("NaN", "not finite"),
        ("two channels", "Expected pictures"),
    ],
)
def test_pictures_that_cannot_be_used(results: dict[str, list], node: str, label: str, words: str) -> None:
    error, sentence = results[f"{node} {label}"]
    assert (error, words in sentence) == ("InvalidInput", True), sentence


def test_masks(results: dict[str, list]) -> None:
    for label in ("1 masks", "2 masks", "one mask without a batch"):
        assert good(results, label) == [2, 20, 30, 3]
    error, sentence = results["3 masks"]
    assert error == "InvalidInput"
    assert "2 pictures, got 3" in sentence


def test_values_that_cannot_be_used(results: dict[str, list]) -> None:
    assert results["strength"][0] == "InvalidInput"
    assert results["gone"][0] == "WeightsMissing"
    assert "gone.safetensors" in results["gone"][1]


def test_inputs_are_left_alone(results: dict[str, list]) -> None:
    assert good(results, "inputs are left alone") == [True, True]


def test_cancel_reaches_comfyui(results: dict[str, list]) -> None:
    assert results["cancel"][0] == "InterruptProcessingException"


def test_tiles_shrink_when_memory_is_short(results: dict[str, list]) -> None:
    shape, tiles = good(results, "some memory")
    assert shape == [2, 20, 30, 3]
    assert tiles == [2560, 1280, 640, 320]
    shape, tiles = good(results, "no memory")
    assert shape is None, "it gives up in the end"
    assert tiles[-1] < 384


def test_a_changed_file_changes_the_fingerprint(results: dict[str, list]) -> None:
    assert good(results, "fingerprint") == [True, True]


def test_a_base_that_is_no_longer_used_is_let_go(results: dict[str, list]) -> None:
    assert good(results, "a base that was let go") is True

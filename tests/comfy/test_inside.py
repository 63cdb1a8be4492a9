"""What a graph of core's nodes cannot reach: the nodes run inside ComfyUI, class locked, on input no loader would give."""

from __future__ import annotations

import pytest
from hotpath.engine.e2gan.checkpoint import load_base, save_concept
from hotpath.tests.comfy.outside import good, run_inside, sentence
from hotpath.tests.testing import ROOT, tiny_concept, write_base

PROGRAM = r"""
import gc, sys, weakref
from pathlib import Path
from hotpath.tests.comfy.inside import Pack, start_comfyui
tree, base, pack = map(Path, sys.argv[1:4])
start_comfyui(tree, base)
import torch, comfy.model_management as mm
PACK = Pack(pack)
case, host = PACK.case, PACK.part("nodes.host")

def call(node, method="execute", **inputs):
    result = PACK.call(node, method, **inputs)
    return result[0] if isinstance(result, tuple) else result

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
case("a mask of NaN", lambda: edit(picture, mask=torch.full((1, 7, 5), float("nan"))))
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

def training(broken=None, **inputs):
    # What a training node says that is cancelled at its fifth step, and the error it ends by; `broken` is called to keep its place.
    hosting, made, run = PACK.part("nodes.concept_host"), PACK.part("training.pairs").PairSet(), PACK.part("training.session").ConceptRun
    told, tell, keep, stack = [], hosting.tell, run.keep, torch.rand(4, 64, 64, 3, generator=torch.Generator().manual_seed(0))
    def listen(node, text):
        told.append(text)
        if "training, step" in text and sum("training, step" in line for line in told) == 4:
            run.keep = broken or keep
            mm.interrupt_current_processing(True)
        return tell(node, text)
    hosting.tell, hosting.TOLD_EVERY = listen, 0.0
    made = made.plus(((str(i), picture, 1 - picture) for i, picture in enumerate(stack)), 64)
    values = dict(name="cancelled", prompt="", minutes=1.0, quality="fast", seed=0, resume=True, steps=40, lr=0.01)
    try:
        call("TrainE2GANConcept", e2gan=load(), pairs=made, **{**values, **inputs})
    except mm.InterruptProcessingException as error:
        return [type(error).__name__, *told]
    finally:
        hosting.tell, run.keep = tell, keep
def fails(run):
    raise RuntimeError("out of memory")
case("cancelled training", training)
case("cancelled training that cannot be kept", lambda: training(fails))
for name in ("lr", "minutes"):
    case("no number for " + name, lambda: training(**{name: float("nan")}))

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

def beyond_16_bits(precision):
    # A blend that float16 does not hold, on a machine that would take float16.
    seen, run, choose = [], host.apply, host.choose
    def apply(network, *arguments, **rest):
        seen.append(str(network.dtype))
        if network.dtype is torch.float16:
            raise PACK.part("engine.errors").NotFinite("Expected a finite picture, got NaN")
        return run(network, *arguments, **rest)
    host.apply = apply
    host.choose = lambda device, wanted: choose(device, "float16" if wanted == "auto" else wanted)
    try:
        shape = call("ApplyE2GAN", e2gan=styled(), image=picture, mix=1.0, precision=precision).shape
        return [list(shape), *seen]
    finally:
        host.apply, host.choose = run, choose
case("beyond float16", lambda: beyond_16_bits("auto"))
case("beyond float16 as asked for", lambda: beyond_16_bits("float16"))

def unloaded():
    edit(picture)
    network, patcher = host._hosted(load().base, torch.float32)
    before = len(network._derived)
    mm.unload_all_models()
    return [before > 0, len(network._derived)]
case("unloaded", unloaded)

def linked():
    # What ComfyUI's validation gives in place of a value that comes over a link.
    names = dict(LoadE2GAN="base", E2GANConcept="concept", LoadE2GANPairs="folder", LoadStudent="file", CompareReports="first_file")
    for node, name in names.items():
        call(node, "fingerprint_inputs", **{name: None})
    asked = lambda node, value: call(node, "validate_inputs", **{names[node]: value}) is True
    return {node: [asked(node, None), asked(node, "gone")] for node in names}
case("linked", linked)
case("a folder over a link that is not there", lambda: call("LoadE2GANPairs", folder="gone", prompt="", side=64))

def stopped_while_choosing():
    made = PACK.part("training.pairs").PairSet()
    made = made.plus(((str(i), one, 1 - one) for i, one in enumerate(torch.rand(20, 64, 64, 3))), 64)
    mm.interrupt_current_processing(True)
    call("SelectE2GANPairs", pairs=made, count=4, seed=0)
case("cancel while choosing", stopped_while_choosing)
mm.interrupt_current_processing(False)

def stopped_while_loading():
    mm.interrupt_current_processing(True)
    call("LoadE2GANPairs", folder="hotpath/icon_3d", prompt="", side=64)
case("cancel while loading", stopped_while_loading)
mm.interrupt_current_processing(False)

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
    Base = PACK.part("engine.e2gan.checkpoint")
    seen = weakref.ref(load().base)
    Base._load_base.cache_clear()
    Base._load_concept.cache_clear()
    host._hosted.cache_clear()
    mm.unload_all_models()
    gc.collect()
    return seen() is None
case("a base that was let go", collected)
PACK.print_results()
"""


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list]:
    folder = tmp_path_factory.mktemp("comfy")
    base = load_base(write_base(folder / "models" / "e2gan" / "tiny.safetensors"))
    save_concept(folder / "models" / "e2gan" / "concepts" / "ink.safetensors", tiny_concept(base, 1, name="ink"))
    return run_inside(PROGRAM, folder, ROOT)[0]


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
    assert "2 pictures, got 3" in sentence(results, "3 masks")
    assert "mask holds values that are not finite" in sentence(results, "a mask of NaN")


def test_values_that_cannot_be_used(results: dict[str, list]) -> None:
    assert results["strength"][0] == "InvalidInput"
    assert results["gone"][0] == "WeightsMissing"
    assert "gone.safetensors" in results["gone"][1]


def test_inputs_are_left_alone(results: dict[str, list]) -> None:
    assert good(results, "inputs are left alone") == [True, True]


def test_cancel_reaches_comfyui(results: dict[str, list]) -> None:
    assert results["cancel"][0] == "InterruptProcessingException"


def test_a_cancelled_training_says_where_it_goes_on(results: dict[str, list]) -> None:
    ended, *told = good(results, "cancelled training")
    assert ended == "InterruptProcessingException"
    assert told[-1] == "kept at step 5 of 40; queue again to go on"


def test_what_fails_after_a_cancel_does_not_hide_it(results: dict[str, list]) -> None:
    ended, *told = good(results, "cancelled training that cannot be kept")
    assert ended == "InterruptProcessingException"
    assert told[0].startswith("resumed at step 5; training, step 6")


@pytest.mark.parametrize("name", ["lr", "minutes"])
def test_what_is_no_number_gets_a_sentence(results: dict[str, list], name: str) -> None:
    assert sentence(results, f"no number for {name}").startswith(f"Expected {name} to be a number above 0, got nan")


def test_tiles_shrink_when_memory_is_short(results: dict[str, list]) -> None:
    shape, tiles = good(results, "some memory")
    assert shape == [2, 20, 30, 3]
    assert tiles == [2560, 1280, 640, 320]
    shape, tiles = good(results, "no memory")
    assert shape is None, "it gives up in the end"
    assert tiles == [2560, 1280, 640, 320, 256]


def test_what_16_bits_do_not_hold_runs_in_32(results: dict[str, list]) -> None:
    assert good(results, "beyond float16") == [[2, 20, 30, 3], "torch.float16", "torch.float32"]
    assert "finite picture" in sentence(results, "beyond float16 as asked for", "NotFinite"), "an explicit choice is kept"


def test_what_was_derived_goes_when_the_model_is_unloaded(results: dict[str, list]) -> None:
    assert good(results, "unloaded") == [True, 0]


def test_names_may_come_over_links(results: dict[str, list]) -> None:
    found = good(results, "linked")
    assert len(found) == 5
    assert all(answer == [True, False] for answer in found.values()), found
    assert "got 'gone'; there are: " in sentence(results, "a folder over a link that is not there")


def test_reading_and_choosing_pairs_can_be_cancelled(results: dict[str, list]) -> None:
    for work in ("loading", "choosing"):
        assert results[f"cancel while {work}"][0] == "InterruptProcessingException"


def test_a_changed_file_changes_the_fingerprint(results: dict[str, list]) -> None:
    assert good(results, "fingerprint") == [True, True]


def test_a_base_that_is_no_longer_used_is_let_go(results: dict[str, list]) -> None:
    assert good(results, "a base that was let go") is True

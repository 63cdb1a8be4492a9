"""Probe Model around a small diffusion model inside ComfyUI's own sampling: it changes nothing, waits for nothing, and tells the truth."""

from __future__ import annotations

import pytest
from hotpath.tests.comfy.outside import good, run_inside
from hotpath.tests.testing import ROOT

PROGRAM = r"""
import sys, time
from pathlib import Path
from hotpath.tests.comfy.inside import Pack, start_comfyui
tree, base, pack = map(Path, sys.argv[1:4])
start_comfyui(tree, base)
import torch, comfy.model_management as mm
import comfy.model_base, comfy.model_patcher, comfy.sample, comfy.samplers, comfy.supported_models, comfy.utils
from torch.utils._python_dispatch import TorchDispatchMode
PACK = Pack(pack)
call, case, part = PACK.call, PACK.case, PACK.part
clock, table, probe, host = part("engine.probe.clock"), part("engine.probe.table"), part("nodes.probe"), part("nodes.probe_host")

def tiny():
    config = comfy.supported_models.SD15({
        "image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 32, "num_res_blocks": [1, 1], "channel_mult": [1, 2],
        "transformer_depth": [1, 1], "transformer_depth_middle": 1, "transformer_depth_output": [1, 1, 1, 1], "num_heads": 2,
        "context_dim": 16, "use_spatial_transformer": True, "use_linear_in_transformer": False, "legacy": False,
        "adm_in_channels": None, "use_temporal_attention": False, "dtype": torch.float32})
    model = comfy.model_base.BaseModel(config, device=torch.device("cpu"))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.02)
    return comfy.model_patcher.ModelPatcher(model, torch.device("cpu"), torch.device("cpu"))

torch.manual_seed(0)
torch.set_num_threads(1)
MODEL, POSITIVE, NEGATIVE = tiny(), [[torch.randn(1, 77, 16), {}]], [[torch.randn(1, 77, 16), {}]]

def sample(model, steps=4, cfg=7.0, sampler="euler", callback=None):
    latent = torch.zeros(1, 4, 8, 8)
    noise = torch.randn(latent.shape, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        return comfy.sample.sample(model, noise, steps, cfg, sampler, "normal", POSITIVE, NEGATIVE, latent, callback=callback, disable_pbar=True, seed=0)

def probed(enabled=True, blocks=False, compare_overhead=True):
    return call("ProbeModel", model=MODEL, enabled=enabled, blocks=blocks, compare_overhead=compare_overhead, rerun=True)

def fresh(**inputs):
    probe._RECORDINGS.clear()
    return probed(**inputs)

def hooks():
    return sum(len(part._forward_hooks) + len(part._forward_pre_hooks) for part in MODEL.model.modules())

def counts(report):
    return {entry.name: len(entry.samples_ms) + len(entry.warmup_ms) for entry in report.measurements}

def same_picture():
    plain = sample(MODEL)
    return [bool(torch.equal(plain, sample(fresh(blocks=blocks)[0]))) for blocks in (False, True)] + [MODEL.wrappers, hooks()]
case("same picture", same_picture)

def off():
    model, report = probed(enabled=False)
    return [model is MODEL, report.notes[0]]
case("off", off)

class Operations(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.seen = []
    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        self.seen.append(str(function))
        return function(*arguments, **(keywords or {}))

def operations():
    found, progress = [], lambda *values: None  # as every sampler node has it
    sample(MODEL, callback=progress)
    for model in (MODEL, fresh(blocks=True, compare_overhead=False)[0]):
        with Operations() as operations:
            sample(model, callback=progress)
        found.append(operations.seen)
    return [found[0] == found[1], sum("_local_scalar_dense" in name for name in found[0]), len(found[0])]
case("operations", operations)

def waits():
    class Event:
        made, waited = 0, 0
        def __init__(self, enable_timing):
            Event.made += 1
        def record(self):
            self.at = time.perf_counter()
        def synchronize(self):
            Event.waited += 1
        def elapsed_time(self, end):
            return 1e3 * (end.at - self.at)
    real, clock._event_class = clock._event_class, lambda device: Event
    try:
        model, recording = fresh(blocks=True)
        sample(model)
        during = Event.waited
        recording.current()
        return [Event.made, during, Event.waited]
    finally:
        clock._event_class = real
case("waits", waits)

def stages(**settings):
    model, recording = fresh(blocks=True, compare_overhead=False)
    sample(model, **settings)
    report = recording.current()
    return [counts(report), report.extras["CFG"], report.extras["steps"], table.text_table(report)]
case("euler", stages)
case("heun", lambda: stages(sampler="heun"))
case("no CFG", lambda: stages(cfg=1.0))

def truth():
    # The whole against an outside clock, and the steps against the whole.
    model, recording = fresh()
    sample(model)
    probe._RECORDINGS.clear()
    model, recording = probed()
    begin = time.perf_counter()
    sample(model, steps=12)
    outside = 1e3 * (time.perf_counter() - begin)
    report = recording.current()
    found = {entry.name: sum((*entry.samples_ms, *entry.warmup_ms)) for entry in report.measurements}
    return [outside, found["sampling"], found["step"], found["prediction"]]
case("truth", truth)

def accumulates():
    fresh()
    for _ in range(3):
        model, recording = probed()
        sample(model, steps=8)
    report = recording.current()
    return [counts(report)["step"], report.extras["overhead"], report.extras["steps"]["runs"]]
case("accumulates", accumulates)

def shows_steps():
    seen = []
    sample(fresh()[0], callback=lambda *values: seen.append(values[0]))
    return seen
case("callback", shows_steps)

def interrupted():
    model, recording = fresh()
    def stop(step, *_):
        if step == 2:
            mm.interrupt_current_processing(True)
            mm.throw_exception_if_processing_interrupted()
    try:
        sample(model, callback=stop)
    except mm.InterruptProcessingException:
        pass
    report = recording.current()
    left = [len(recording.active), hooks()]
    sample(model)
    return [[(entry.name, entry.status) for entry in report.measurements], list(report.notes), left, counts(recording.current())["step"]]
case("interrupted", interrupted)

def nothing():
    model, recording = fresh()
    before = recording.current()
    sample(model, steps=0)
    after = recording.current()
    return [list(before.notes), [entry.status for entry in after.measurements], list(after.notes), table.text_table(after)]
case("nothing", nothing)

def cached():
    # The probe and the sampler came from the cache of the first run of the graph: neither is executed in the second.
    from comfy_execution.utils import CurrentNodeContext
    with CurrentNodeContext("first", "3"):
        model, recording = fresh()
        sample(model)
        before = recording.current(host.prompt_id())
    with CurrentNodeContext("second", "4"):
        after = recording.current(host.prompt_id())
        _, text, _ = call("ProbeReport", report=recording, name="", theme="light", history=True)
    statuses = [sorted({entry.status for entry in report.measurements}) for report in (before, after)]
    return [statuses, text, host.history_file().is_file()]
case("cached", cached)

def another_sampler():
    model, recording = fresh(compare_overhead=False)
    sample(model, steps=8)
    model, again = probed(compare_overhead=False)
    sample(model, steps=8, sampler="heun")
    heun = again.current()
    sample(model, steps=8, cfg=1.0)
    sample(call("Accelerate", model=model, precision="auto")[0], steps=8)
    around = again.current()
    left = [next(note for note in report.notes if note.startswith("Left out")) for report in (heun, around)]
    return [again is recording, counts(heun)["step"], heun.workload, counts(around)["step"], left]
case("another sampler", another_sampler)

def compared():
    from comfy_execution.utils import CurrentNodeContext
    with CurrentNodeContext("one", "9"):
        (first, before), (second, after) = fresh(compare_overhead=False), fresh(compare_overhead=False)
        compare = lambda: call("CompareReports", second=after, first=before, first_file="on the wire", theme="light", after="made")[1]
        texts = [compare()]
        for model in (first, second):
            sample(model, steps=8)
            texts.append(compare())
    return texts
case("compared", compared)

def graphs():
    def graph(seed=1, steps=20, precision="auto"):
        links = {"1": {"class_type": "Loader", "inputs": {}},
                 "2": {"class_type": "Accelerate", "inputs": {"model": ["1", 0], "precision": precision}},
                 "3": {"class_type": "Probe", "inputs": {"model": ["2", 0]}},
                 "4": {"class_type": "PrimitiveInt", "inputs": {"value": seed}},
                 "5": {"class_type": "RandomNoise", "inputs": {"noise_seed": seed}},
                 "6": {"class_type": "KSampler", "inputs": {"model": ["3", 0], "seed": ["4", 0], "noise": ["5", 0], "steps": steps}},
                 "7": {"class_type": "Stop", "inputs": {"anything": ["6", 0]}}}
        return links
    first = host.settings(graph(), "7", "1")
    return [first == host.settings(graph(seed=2), "7", "1"), first == host.settings(graph(steps=8), "7", "1"),
            host.settings(graph(), "3") == host.settings(graph(steps=8), "3"), host.settings(graph(), "3") == host.settings(graph(precision="float32"), "3")]
case("graphs", graphs)

def rerun():
    states = [call("ProbeModel", "fingerprint_inputs", rerun=rerun, enabled=enabled) for rerun, enabled in ((True, True), (False, True), (True, False))]
    return [state != state for state in states]
case("rerun", rerun)

def sweep():
    inputs = dict(workloads="model", sides="64", batches="1, 2", devices="auto", precisions="auto", seconds=0.1, samples=5, rerun=True)
    with_model, = call("ThroughputSweep", **inputs, model=MODEL, positive=POSITIVE)
    without, = call("ThroughputSweep", **inputs)
    return [[[entry.status, len(entry.samples_ms), entry.note] for entry in report.measurements] for report in (with_model, without)]
case("sweep", sweep)

def unknown_latent():
    model = MODEL.clone()
    model.add_object_patch("latent_format", type("Odd", (), {"latent_channels": 4, "latent_dimensions": 2})())
    inputs = dict(workloads="model", sides="64", batches="1", devices="auto", precisions="auto", seconds=0.1, samples=5, rerun=True)
    report, = call("ThroughputSweep", **inputs, model=model, positive=POSITIVE)
    return [[entry.status, entry.note] for entry in report.measurements]
case("unknown latent", unknown_latent)

def cells():

    import comfy.latent_formats
    known = {name: getattr(comfy.latent_formats, name, None) is not None for name in host.CELLS}
    return [known, host.cell(MODEL)]
case("cells", cells)

def cancelled():
    mm.interrupt_current_processing(True)
    call("ThroughputSweep", workloads="nin", sides="64", batches="1", devices="cpu", precisions="auto", seconds=0.1, samples=5, rerun=True)
case("cancelled", cancelled)
mm.interrupt_current_processing(False)
case("kept", host.report_files)

def cut_short():
    # Cancel comes while the first of two points is shown as done.
    comfy.utils.set_progress_bar_global_hook(lambda *_, **__: mm.interrupt_current_processing(True))
    inputs = dict(workloads="nin", sides="64, 128", batches="1", devices="cpu", precisions="auto", seconds=0.1, samples=5, rerun=True)
    try:
        call("ThroughputSweep", **inputs)
    except mm.InterruptProcessingException:
        report = host.saved_report("interrupted_sweep")
        return [[(entry.facts["side_px"], entry.status) for entry in report.measurements], list(report.notes)]
    finally:
        comfy.utils.set_progress_bar_global_hook(None)
        mm.interrupt_current_processing(False)
case("cut short", cut_short)

def read_only():
    # Neither the reports nor the history can be written: a file lies where their folders would be.
    blocked = base / "blocked"
    blocked.write_text("in the way")
    own = host.history_file, host.reports_folder
    host.history_file, host.reports_folder = lambda: blocked / "history.jsonl", lambda: blocked / "reports"
    try:
        model, recording = fresh()
        sample(model)
        chart, text, after = call("ProbeReport", report=recording, name="x", theme="light", history=True, after="what was made")
        try:
            mm.interrupt_current_processing(True)
            call("ThroughputSweep", workloads="nin", sides="64", batches="1", devices="cpu", precisions="auto", seconds=0.1, samples=5, rerun=True)
        except BaseException as error:
            ended = type(error).__name__
        return [list(chart.shape), text, after, ended]
    finally:
        mm.interrupt_current_processing(False)
        host.history_file, host.reports_folder = own
case("read only", read_only)
PACK.print_results()
"""


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list]:
    return run_inside(PROGRAM, tmp_path_factory.mktemp("comfy"), ROOT)[0]


def test_the_picture_is_the_same_and_nothing_stays_behind(results: dict[str, list]) -> None:
    assert good(results, "same picture") == [True, True, {}, 0]


def test_off_means_gone(results: dict[str, list]) -> None:
    untouched, note = good(results, "off")
    assert untouched is True
    assert "turn 'enabled' on" in note


def test_the_probe_adds_no_operation_to_the_devices_work(results: dict[str, list]) -> None:
    """The same operations in the same order, those included that make the host wait for a value."""
    equal, _, count = good(results, "operations")
    assert equal is True
    assert count > 1000


def test_the_probe_waits_only_when_the_report_is_read(results: dict[str, list]) -> None:
    made, during, after = good(results, "waits")
    assert made > 50
    assert (during, after) == (0, 1)


def test_stages_are_counted_as_they_happen(results: dict[str, list]) -> None:
    found, passes, steps, text = good(results, "euler")
    assert {name: found[name] for name in ("step", "prediction", "model call", "network", "load", "sampling")} == {
        "step": 4, "prediction": 4, "model call": 4, "network": 4, "load": 1, "sampling": 1,
    }  # fmt: skip
    assert passes == {"passes a prediction": 2.0, "model calls a prediction": 1.0}
    assert steps == {"asked for": 4, "done": 4, "predictions": 4, "runs": 1}
    blocks = [name for name in found if name.startswith("block ")]
    assert len(blocks) == 4 + 1 + 4
    assert all(found[name] == 4 for name in blocks)
    assert "last run" in text
    assert "%" in text
    found, _, steps, _ = good(results, "heun")
    assert (found["step"], found["prediction"], steps["predictions"]) == (4, 7, 7), "Heun looks twice in all steps but the last"
    assert good(results, "no CFG")[1]["passes a prediction"] == 1.0


def test_times_are_true(results: dict[str, list]) -> None:
    outside, sampling, steps, predictions = good(results, "truth")
    assert 0.9 * outside <= sampling <= outside
    assert predictions <= steps <= sampling
    assert steps >= 0.9 * sampling


def test_samples_gather_over_queues_and_the_cost_is_measured(results: dict[str, list]) -> None:
    steps, overhead, runs = good(results, "accumulates")
    assert (steps, runs) == (24, 3)
    assert overhead["percent"] < 1
    assert overhead["ab_pairs"] >= 6
    assert overhead["ab_low_percent"] <= 1


def test_progress_reaches_the_graph(results: dict[str, list]) -> None:
    assert good(results, "callback") == [0, 1, 2, 3]


def test_an_interrupted_run_is_said_and_does_not_spoil_the_next(results: dict[str, list]) -> None:
    measured, notes, left, steps = good(results, "interrupted")
    assert ["step", "interrupted"] in measured
    assert any("interrupted after 2 of 4 steps" in note for note in notes)
    assert left == [0, 0]
    assert steps >= 2


def test_nothing_sampled_is_said(results: dict[str, list]) -> None:
    before, statuses, after, text = good(results, "nothing")
    assert any("Nothing was sampled" in note for note in before)
    assert "empty" in statuses
    assert any("Nothing was sampled" in note for note in after)
    assert "empty" in text


def test_a_sampler_from_the_cache_is_said(results: dict[str, list]) -> None:
    (before, after), text, remembered = good(results, "cached")
    assert remembered is False
    assert (before, after) == (["measured"], ["cached"])
    assert "Cached: ComfyUI answered the sampler" in text
    assert "step (cached)" in text
    assert good(results, "rerun") == [True, False, False]


def test_other_samplers_and_patched_models_are_not_mixed(results: dict[str, list]) -> None:
    same, heun, workload, around, (one, two) = good(results, "another sampler")
    assert same is True
    assert (heun, around) == (8, 8)
    assert (workload["sampler"], workload["guider"], workload["cfg"]) == ("heun", "CFGGuider", 7.0)
    assert "1 run of 8 steps, latent [1, 4, 8, 8], sampler euler" in one
    assert two.count("1 run of") == 3
    assert "around the model" not in one, "nothing is"
    assert "around the model" in two.partition(":")[0]


def test_reports_of_two_models_are_compared_after_both_have_sampled(results: dict[str, list]) -> None:
    early, half, late = good(results, "compared")
    for text, words in ((early, "first"), (early, "second"), (half, "second")):
        assert f"Note of the {words} report: Nothing was sampled" in text
    assert "step -> step: " in late
    assert "Nothing was sampled" not in late


def test_a_seed_changes_no_settings_and_all_else_does(results: dict[str, list]) -> None:
    assert good(results, "graphs") == [True, False, True, False]


def test_a_model_in_the_sweep(results: dict[str, list]) -> None:
    measured, without = good(results, "sweep")
    assert [status for status, *_ in measured] == ["measured"] * 2, measured
    assert all(count >= 1 for _, count, _ in measured)
    assert [status for status, *_ in without] == ["failed"] * 2
    assert "wire both" in without[0][2]

    assert "of a latent [1, 4, 8, 8]" in measured[0][2]


def test_a_model_whose_latents_size_is_not_known_is_refused(results: dict[str, list]) -> None:
    ((status, note),) = good(results, "unknown latent")
    assert status == "failed"
    assert "got one of the format Odd" in note
    known, cell = good(results, "cells")
    assert all(known.values()), known
    assert cell == 8


def test_cancel_reaches_comfyui_and_keeps_what_was_measured(results: dict[str, list]) -> None:
    assert results["cancelled"][0] == "InterruptProcessingException"
    assert results["kept"][1] == ["interrupted_sweep"]


def test_a_sweep_that_is_cut_short_keeps_the_points_before(results: dict[str, list]) -> None:
    points, notes = good(results, "cut short")
    assert points == [[64, "measured"]]
    assert notes == ["Interrupted: the points after the last one were not measured."]


def test_folders_that_cannot_be_written_are_said_and_the_report_is_shown(results: dict[str, list]) -> None:
    chart, text, after, ended = good(results, "read only")
    assert chart[2] == 800
    assert after == "what was made"
    assert "per min" in text
    for words in ("Expected to read the history", "Expected to add to the history", "Expected to write"):
        assert words in text, text
    assert ended == "InterruptProcessingException", "and not that the part could not be kept"

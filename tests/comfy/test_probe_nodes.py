"""The probe's nodes on a real server: spans, sweeps, reports, comparisons, what is cached, and bad input."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from hotpath.engine.probe.report import load
from hotpath.tests.comfy.served import alive, node
from hotpath.tests.testing import write_base
from hotpath.tools.client import Client, Run
from PIL import Image

IDS = ("ProbeModel", "ProbeStart", "ProbeStop", "ThroughputSweep", "ProbeReport", "CompareReports")


@pytest.fixture(scope="module")
def root(server: Client) -> Path:
    folder = server.log_file.parent
    write_base(folder / "models" / "e2gan" / "probed.safetensors", seed=3)
    return folder


def span(name: str = "span", *, rerun: bool = True, stop: str = "", width: int = 40) -> dict[str, dict]:
    """Two pictures through an E2GAN between Start and Stop, and the report."""
    return {
        "image": node("EmptyImage", width=width, height=40, batch_size=2, color=0x4080C0),
        "base": node("Hotpath_LoadE2GAN", base="probed.safetensors"),
        "start": node("Hotpath_ProbeStart", anything=["image", 0], name=name, rerun=rerun),
        "apply": node("Hotpath_ApplyE2GAN", e2gan=["base", 0], image=["start", 0], mix=1.0, precision="float32"),
        "stop": node("Hotpath_ProbeStop", anything=["apply", 0], name=stop or name),
        "save": node("PreviewImage", images=["stop", 0]),
        "report": node("Hotpath_ProbeReport", report=["stop", 1], name=name, theme="light", history=True),
    }


def sweep(**inputs: object) -> dict:
    values = {
        "workloads": "nin",
        "sides": "64",
        "batches": "1",
        "devices": "auto",
        "precisions": "auto",
        "seconds": 0.1,
        "samples": 8,
    }
    return node("Hotpath_ThroughputSweep", **{**values, "rerun": True, **inputs})


def swept(**inputs: object) -> dict[str, dict]:
    report = node("Hotpath_ProbeReport", report=["sweep", 0], name="sweep", theme="dark", history=False)
    return {"sweep": sweep(**inputs), "report": report}


def text(run: Run, name: str = "report") -> str:
    assert run.error is None, run.error
    return "".join(run.outputs[name]["text"])


@pytest.mark.parametrize("name", IDS)
def test_a_node_explains_itself(server: Client, name: str) -> None:
    info = server.object_info(f"Hotpath_{name}")
    assert info["category"] == "hotpath/probe"
    assert len(info["description"]) > 40
    inputs = {
        key: spec for group in info["input"].values() for key, spec in group.items() if group is not info["input"].get("hidden")
    }
    assert all(len(spec[1]["tooltip"]) > 10 for spec in inputs.values())
    assert all(info["output_tooltips"])


def test_a_span_is_measured_in_every_queue(server: Client, root: Path) -> None:
    first, second, third = (server.queue(span()) for _ in range(3))
    assert "One run so far" in text(first)
    assert "ApplyE2GAN #apply" in text(second)
    report = load(root / "output" / "hotpath" / "reports" / "span.json")
    whole, inner = report.measurements
    assert (len(whole.samples_ms), len(whole.warmup_ms)) == (2, 1)
    assert (whole.images, whole.pixels) == (2, 1600)
    assert 0 < inner.statistics()["median_ms"] <= whole.statistics()["median_ms"]
    assert whole.statistics()["median_ms"] < 1.2 * max(second.ms, third.ms)
    assert "earlier run" not in text(third), "runs of one session are no past of each other"
    assert (root / "output" / "hotpath" / "reports" / "span.csv").read_text().count("\n") == 3
    history = root / "user" / "hotpath" / "probe_history.jsonl"
    history.write_text(re.sub(r'"session": "\w+"', '"session": "earlier"', history.read_text()))
    assert "1 earlier run," in text(server.queue(span()))
    changed = text(server.queue(span(width=48)))
    assert "One run so far" in changed, "samples of another size are not mixed in"


def test_the_picture_passes_and_the_chart_is_a_picture(server: Client, root: Path) -> None:
    run = server.queue(span("chart"))
    assert len(run.outputs["save"]["images"]) == 2
    (chart,) = run.outputs["report"]["images"]
    pixels = np.asarray(Image.open(io.BytesIO(server.image(chart))))
    assert pixels.shape[1] == 800
    assert pixels.std() > 5


def test_cached_work_is_called_cached(server: Client, root: Path) -> None:
    assert "One run so far" in text(server.queue(span("cached", rerun=False)))
    run = server.queue(span("cached", rerun=False))
    assert "Cached: ComfyUI answered" in text(run)
    assert "per min" not in text(run), "no speed"
    assert run.outputs["save"]["images"]


def test_a_stop_without_its_start(server: Client, root: Path) -> None:
    shown = text(server.queue(span("one", stop="other")))
    assert "Expected a Probe Start named 'other'" in shown
    assert "found one" in shown
    graph = span("alone")
    graph["apply"]["inputs"]["image"] = ["image", 0]
    del graph["start"]
    assert "found none" in text(server.queue(graph))


def test_two_starts(server: Client, root: Path) -> None:
    graph = span("two")
    graph["second"] = node("Hotpath_ProbeStart", anything=["apply", 0], name="two", rerun=True)
    graph["invert"] = node("ImageInvert", image=["second", 0])
    graph["stop"]["inputs"]["anything"] = ["invert", 0]
    shown = text(server.queue(graph))
    assert "found 2: measured from the one that began last (#second)" in shown
    assert "ImageInvert #invert" in shown


def test_a_stretch_that_was_cut_is_said_and_not_counted(server: Client, root: Path) -> None:
    """Between Start and Stop a node fails, as it would be interrupted; then the graph is mended and queued again."""
    for rerun in (True, False):
        graph = span(f"cut {rerun}", rerun=rerun)
        broken = json.loads(json.dumps(graph))
        broken["masks"] = node("ImageToMask", image=["three", 0], channel="red")
        broken["three"] = node("EmptyImage", width=8, height=8, batch_size=3, color=0)
        broken["apply"]["inputs"]["mask"] = ["masks", 0]
        assert "got 3" in server.queue(broken).error
        shown = text(server.queue(graph))
        if rerun:
            assert "never came from Probe Start to Probe Stop" in shown
            assert "One run so far" in shown
            assert "never came" not in text(server.queue(graph))
        else:
            assert "Cached: ComfyUI answered ProbeStart #start" in shown
            assert "no beginning to measure from" in shown
            assert "per min" not in shown


def test_a_sweep_on_no_device_that_is_here_is_a_report(server: Client, root: Path) -> None:
    shown = text(server.queue(swept(devices="cuda:7, xpu:3")))
    assert shown.count("Expected a device that this machine has") == 2
    assert "got 'xpu:3'" in shown


@pytest.mark.parametrize(("name", "value"), [("samples", 0), ("seconds", 0.0)])
def test_zero_iterations_are_refused(server: Client, root: Path, name: str, value: float) -> None:
    error = server.queue(swept(**{name: value})).error
    assert name in error
    assert "min" in error


def test_a_sweep_marks_what_it_cannot_measure_and_goes_on(server: Client, root: Path) -> None:
    run = server.queue(swept(workloads="attention, nin, e2gan", sides="16, 64", devices="cuda:7, auto"))
    shown = text(run)
    assert "Expected a device that this machine has (cpu), got 'cuda:7'" in shown
    assert "Expected a side of at least 64 px for nin, got 16" in shown
    report = load(root / "output" / "hotpath" / "reports" / "sweep.json")
    statuses = [entry.status for entry in report.measurements]
    assert statuses.count("failed") == 7
    assert statuses.count("measured") == 5
    assert "low_percent" in report.extras["overhead"]
    assert report.measurements[-1].flops > 0
    assert report.environment["comfyui"].startswith("0.")


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ({"workloads": "nin, sd"}, "workloads out of"),
        ({"sides": "64, big"}, "sides as whole numbers"),
        ({"sides": "4"}, "from 8 to 16384"),
        ({"batches": ""}, "batches as whole numbers"),
        ({"devices": "gpu"}, "devices such as"),
        ({"precisions": "int3"}, "precisions out of"),
        ({"sides": ", ".join(map(str, range(64, 300)))}, "at most 200 points"),
    ],
)
def test_lists_that_cannot_be_read(server: Client, inputs: dict, words: str) -> None:
    run = server.queue(swept(**inputs))
    assert run.error
    assert words in run.error
    assert alive(server)


def test_reports_are_compared_on_the_wire_and_from_a_file(server: Client, root: Path) -> None:
    graph = {"a": sweep(seconds=0.3), "b": sweep(seconds=0.3, rerun=False)}
    graph["compare"] = node("Hotpath_CompareReports", second=["b", 0], first=["a", 0], first_file="on the wire", theme="dark")
    graph["keep"] = node("Hotpath_ProbeReport", report=["a", 0], name="baseline", theme="light", history=False)
    assert "nin 64 px cpu float32 -> nin 64 px cpu float32" in text(server.queue(graph), "compare")
    graph["compare"]["inputs"] |= {"first_file": "baseline"}
    del graph["compare"]["inputs"]["first"]
    assert "->" in text(server.queue(graph), "compare")
    graph["compare"]["inputs"] |= {"first_file": "on the wire"}
    assert "wire 'first', or choose a file" in server.queue(graph).error
    graph["compare"]["inputs"] |= {"first_file": "../secret"}
    run = server.queue({**graph, "a": sweep(rerun=False), "b": sweep(rerun=False)})  # the server leaves out the node it refuses
    assert "compare" not in run.outputs
    assert "Expected a report in" in server.log()


def test_damaged_history_and_folders_that_cannot_be_written(server: Client, root: Path) -> None:
    history = root / "user" / "hotpath" / "probe_history.jsonl"
    history.parent.mkdir(parents=True, exist_ok=True)
    history.write_text("not a line of ours\n")
    shown = text(server.queue(span("damaged")))
    assert "1 lines of the history are damaged" in shown
    aside = [path for path in history.parent.glob("probe_history.damaged-*.jsonl") if path.read_text() == "not a line of ours\n"]
    assert aside
    assert json.loads(history.read_text().splitlines()[0])["key"]
    blocked = root / "output" / "hotpath" / "reports" / "blocked.json"
    blocked.mkdir(parents=True)
    shown = text(server.queue(span("blocked")))
    assert "Expected to write" in shown
    assert "per min" in shown, "the report is shown all the same"

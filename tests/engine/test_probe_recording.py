"""A recording puts samples together only of equal work, and counts only what ran in the run of the graph that asks."""

from __future__ import annotations

import time

import pytest
import torch
from hotpath.engine.probe.compare import compare_reports
from hotpath.engine.probe.recording import Recording
from hotpath.engine.probe.report import Report
from hotpath.engine.probe.table import label, text_table

CPU = torch.device("cpu")
EULER, HEUN = {"sampler": "euler", "cfg": 7.0}, {"sampler": "heun", "cfg": 7.0}


@pytest.fixture
def recording() -> Recording:
    return Recording("a model", CPU, ab=False, cell=8)


def sampled(recording: Recording, *, steps: int = 4, side: int = 8, cut: int = 0, prompt: str = "", **more: object) -> Recording:
    """A run of the sampler; with `cut` it is interrupted after so many steps."""
    try:
        with recording.run(steps, (2, 4, side, side), prompt=prompt, **more) as run:
            last = run.clock.mark()
            for _ in range(cut or steps):
                begin = run.clock.mark()
                time.sleep(0.001)
                run.end("prediction", begin)
                last = recording.step_done(run, last)
            if cut:
                raise KeyboardInterrupt
    except KeyboardInterrupt:
        pass
    return recording


def beside(recording: Recording, name: str, prompt: str) -> None:
    begin = recording.clock.mark()
    time.sleep(0.002)
    recording.beside(name, begin, recording.clock.mark(), prompt)


def steps(report: Report) -> int:
    return sum(len(entry.samples_ms) + len(entry.warmup_ms) for entry in report.measurements if entry.name == "step")


@pytest.mark.parametrize(
    "other", [{"call": HEUN}, {"call": EULER | {"cfg": 1.0}}, {"call": EULER, "patches": "b"}, {"call": EULER, "side": 16}]
)
def test_other_work_is_not_mixed_in_and_is_named(recording: Recording, other: dict) -> None:
    sampled(recording, call=EULER, patches="a")
    report = sampled(recording, **{"patches": "a", **other}).current()
    assert steps(report) == 4
    (left_out,) = [note for note in report.notes if note.startswith("Left out")]
    assert "1 run of 4 steps, latent [2, 4, 8, 8], sampler euler, cfg 7.0" in left_out
    assert report.workload["sampler"] == other.get("call", EULER)["sampler"]
    again = sampled(recording, call=EULER, patches="a").current()
    assert steps(again) == 8, "and is there again when the work is"


def test_equal_work_is_put_together(recording: Recording) -> None:
    for prompt in "ab":
        sampled(recording, call=EULER, prompt=prompt)
    report = recording.current("b")
    assert steps(report) == 8
    assert not any(note.startswith("Left out") for note in report.notes)


def test_pictures_and_megapixels_are_counted(recording: Recording) -> None:
    report = sampled(recording).current()
    (whole,) = [entry for entry in report.measurements if entry.name == "sampling"]
    found = whole.statistics()
    assert found["images_per_s"] == pytest.approx(2e3 / found["median_ms"], rel=1e-4)
    assert found["megapixels_per_s"] == pytest.approx(found["images_per_s"] * 64**2 / 1e6, rel=1e-4)
    assert "images/s" in text_table(report)
    unknown = sampled(Recording("a model", CPU)).current()
    assert "megapixels_per_s" not in unknown.measurements[-1].statistics(), "of a latent whose size in px is not known"


def test_what_ran_in_an_earlier_run_of_the_graph_is_cached(recording: Recording) -> None:
    """The probe itself came from the cache, so nobody told the recording that another run of the graph has begun."""
    beside(recording, "VAEDecode #5", "a")
    sampled(recording, prompt="a")
    assert {entry.status for entry in recording.current("a").measurements} == {"measured"}
    report = recording.current("b")
    assert {entry.status for entry in report.measurements} == {"cached"}
    assert (report.compared, "breakdown" in report.extras) == ((), False)
    assert any(note.startswith("Cached: ComfyUI answered the sampler") for note in report.notes)
    assert "step (cached)" in text_table(report)


def test_a_node_that_was_cached_has_no_part_in_the_last_run(recording: Recording) -> None:
    beside(recording, "CLIPTextEncode #3", "a")
    sampled(recording, prompt="a")
    assert "CLIPTextEncode #3" in recording.current("a").extras["breakdown"]
    recording.cached["CLIPTextEncode #3"] = "b"
    sampled(recording, prompt="b")
    report = recording.current("b")
    assert "CLIPTextEncode #3" not in report.extras["breakdown"]
    assert ("CLIPTextEncode #3", "cached") in [(entry.name, entry.status) for entry in report.measurements]
    assert "Cached, so without a time of their own: CLIPTextEncode #3." in report.notes
    sampled(recording, prompt="c")
    assert not any("without a time" in note for note in recording.current("c").notes)


def test_the_samplers_own_node_is_not_counted_beside_its_steps(recording: Recording) -> None:
    begin = recording.clock.mark()
    sampled(recording, prompt="a")
    recording.beside("KSampler #3", begin, recording.clock.mark(), "a")
    beside(recording, "VAEDecode #5", "a")
    breakdown = recording.current("a").extras["breakdown"]
    assert set(breakdown) == {"steps", "rest of sampling", "VAEDecode #5"}


def test_what_runs_after_the_report_is_not_called_cached(recording: Recording) -> None:
    for prompt in "ab":
        sampled(recording, prompt=prompt)
        beside(recording, "VAEDecode #5", prompt)
        names = [entry.name for entry in recording.current(prompt).measurements]
        assert ("VAEDecode #5" in names, "SaveImage #9" in names) == (True, False)
        beside(recording, "SaveImage #9", prompt)


def test_interrupted_runs_are_labelled_and_not_compared(recording: Recording) -> None:
    sampled(recording)
    report = sampled(recording, cut=2).current()
    assert "step (interrupted)" in text_table(report)
    assert all(entry.status == "measured" for entry in report.compared)
    comparison = compare_reports(report, sampled(Recording("a model", CPU, ab=False)).current())
    assert [label(first) for first, *_ in comparison.pairs if first.name == "step"] == ["step x 2"]
    assert "Left out of the first report: step x 2 (interrupted)" in comparison.text()


def test_both_reports_notes_reach_the_comparison(recording: Recording) -> None:
    text = compare_reports(recording.current(), sampled(Recording("a model", CPU), cut=2).current()).text()
    assert "Note of the first report: Nothing was sampled" in text
    assert "Note of the second report: A run was interrupted after 2 of 4 steps" in text


def test_only_the_newest_runs_are_kept(recording: Recording) -> None:
    for index in range(20):
        beside(recording, "VAEDecode #5", str(index))
        sampled(recording, steps=1, prompt=str(index))
    assert (len(recording.runs), len(recording.nodes["VAEDecode #5"])) == (16, 16)

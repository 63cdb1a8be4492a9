"""A sweep goes on where a point cannot: too large, out of memory, too slow, no such device, broken; and a stretch says what it left out."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
import torch
from hotpath.engine.errors import InvalidInput
from hotpath.engine.probe import sweep as sweep_module
from hotpath.engine.probe.report import Measurement, Report, from_json
from hotpath.engine.probe.span import Span, Spans
from hotpath.engine.probe.sweep import Plan, overhead_of, points, sweep
from hotpath.engine.probe.table import csv_text, text_table
from hotpath.engine.probe.workloads.known import KNOWN
from hotpath.engine.probe.workloads.workload import Point, TooLarge, Workload, fits

CPU = torch.device("cpu")
PLAN = Plan(seconds=0.01, most=5, peak=False)
Made = dict[str, Callable[[Point, int], Workload]]


def workload(run: Callable[[], object] = lambda: None) -> Callable[[Point, int], Workload]:
    return lambda point, free: Workload(run, point.batch, point.side**2, torch.float32)


def hungry(point: Point, free: int) -> Workload:
    """Needs a GiB for each 64 px of the side."""
    needed = point.side // 64 * 2**30
    if not fits(needed, free):
        raise TooLarge(needed, free, f"hungry at {point.side} px")
    return workload()(point, free)


def failing(error: Exception) -> Callable[[], object]:
    def run() -> None:
        raise error

    return run


def swept(
    make: Made, sides: tuple[int, ...] = (64,), devices: tuple[str, ...] = ("cpu",), plan: Plan = PLAN
) -> list[Measurement]:
    return list(sweep(points(list(make), sides, [1], devices, ["float32"]), make, plan, lambda: None))


def test_sizes_beyond_memory_are_marked_and_the_rest_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep_module, "free_bytes", lambda device: 3 * 2**30)
    found = swept({"hungry": hungry, "other": workload()}, sides=(128, 256, 64))
    assert [(entry.name, entry.status) for entry in found] == [
        ("hungry", "measured"), ("hungry", "measured"), ("hungry", "memory"), ("other", "measured"), ("other", "measured"), ("other", "measured"),
    ]  # fmt: skip
    assert found[2].note == "left out: hungry at 256 px needs about 4.0 GiB and 3.0 GiB are free."


def test_each_known_workload_says_that_it_is_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep_module, "free_bytes", lambda device: 2**16)
    for entry in swept({name: KNOWN[name] for name in KNOWN}, sides=(512,)):
        assert entry.status == "memory", entry
        assert "GiB are free" in entry.note


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("CUDA out of memory. Tried to allocate"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
    ],
)
def test_memory_that_runs_out_all_the_same_ends_one_point(error: Exception) -> None:
    first, second = swept({"greedy": workload(failing(error)), "other": workload()})
    assert (first.status, second.status) == ("memory", "measured")
    assert "ran out of memory with" in first.note


def test_a_point_that_breaks_ends_that_point() -> None:
    broken = workload(failing(RuntimeError("no kernel for this\nand a long list")))
    refused = workload(failing(InvalidInput("Expected a side of 8, got 7: choose another.")))
    first, second, third = swept({"broken": broken, "refused": refused, "other": workload()})
    assert [entry.status for entry in (first, second, third)] == ["failed", "failed", "measured"]
    assert first.note == "RuntimeError: no kernel for this"
    assert second.note == "Expected a side of 8, got 7: choose another."


def test_a_missing_device_is_marked_and_the_rest_is_measured() -> None:
    found = swept({"any": workload()}, devices=("cuda:99", "cpu"))
    assert [entry.status for entry in found] == ["failed", "measured"]
    assert "Expected a device that this machine has" in found[0].note
    assert "low_percent" in overhead_of(found, {"any": workload(lambda: time.sleep(0.002))}, lambda: None)


def test_sizes_that_would_take_too_long_are_left_out() -> None:
    found = swept({"slow": workload(lambda: time.sleep(0.004))}, sides=(64, 8192))
    assert [entry.status for entry in found] == ["measured", "time"]
    assert "give each point at least" in found[1].note


def test_points_that_come_to_the_same_are_measured_once() -> None:
    known = {"any": workload()}
    found = list(sweep(points(["any"], (64, 128), [1], ["cpu"], ["auto", "float32"]), known, PLAN, lambda: None))
    assert [entry.facts["side_px"] for entry in found] == [64, 128]


def test_the_cost_of_marks_is_left_out_where_it_takes_long_or_breaks() -> None:
    calls = []
    quick, slow = (Measurement("any", (ms,) * 3, facts=Point("any", 64, 1, "cpu", "float32").facts()) for ms in (1.0, 500.0))
    assert overhead_of([slow], {"any": workload(lambda: calls.append(1))}, lambda: None) == {}
    assert calls == []
    for error in (RuntimeError("CUDA out of memory"), MemoryError(), InvalidInput("no")):
        assert overhead_of([quick], {"any": workload(failing(error))}, lambda: None) == {}
    assert overhead_of([], {}, lambda: None) == {}


def test_the_cost_of_marks_can_be_cancelled() -> None:
    (entry,), ticks = swept({"any": workload()}), iter(range(4))

    def tick() -> None:
        if next(ticks, None) is None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        overhead_of([entry], {"any": workload()}, tick)


def test_what_was_measured_before_an_interruption_is_there() -> None:
    cancelled = []

    def tick() -> None:
        if cancelled:
            raise KeyboardInterrupt

    measurements = sweep(points(["any"], (64, 128), [1], ["cpu"], ["float32"]), {"any": workload()}, PLAN, tick)
    assert next(measurements).status == "measured"
    cancelled.append(True)
    with pytest.raises(KeyboardInterrupt):
        next(measurements)


def test_a_report_of_gaps_alone_is_a_report() -> None:
    gaps = swept({"any": workload()}, devices=("cuda:99",))
    report = Report("sweep", "Throughput sweep", tuple(gaps), notes=("Nothing here.",))
    assert from_json(report.to_json(), "r.json") == report
    assert "cuda:99" in text_table(report)
    assert "failed" in csv_text(report)


def test_the_shortest_plan_gives_a_sample() -> None:
    (entry,) = swept({"any": workload()}, plan=Plan(seconds=0.0, most=1, peak=False))
    assert len(entry.samples_ms) == 1


# ---- a stretch of a graph


def span(nodes: tuple[str, ...]) -> Span:
    """A run of the stretch in which these nodes ran."""
    made = Span(CPU)
    made.start()
    for node in nodes:
        begin = made.clock.mark()
        time.sleep(0.001)
        made.nodes[node] = (begin, made.clock.mark())
    made.titles = {node: f"Title {node}" for node in "abx"}
    made.stop()
    return made


def test_a_stretch_says_which_of_its_nodes_came_from_the_cache() -> None:
    spans = Spans("stretch", CPU)
    spans.add(span(("a", "b")), ("a", "b"), (1, 64))
    report = spans.add(span(("b",)), ("a", "b"), (1, 64))
    assert "Cached, so not in the time: Title a." in report.notes
    assert [(entry.name, entry.status) for entry in report.measured[1:]] == [("Title a", "cached"), ("Title b", "measured")]


def test_a_stretch_all_from_the_cache_has_no_speed() -> None:
    spans = Spans("stretch", CPU)
    spans.add(span(("a",)), ("a",), (1, 64))
    report = spans.add(span(()), ("a",), (1, 64))
    assert (report.measured, [entry.status for entry in report.measurements]) == ((), ["cached"])
    assert "no speed is given" in report.notes[0]
    assert len(spans.whole) == 1, "it is no sample"


def test_a_stretch_names_strangers() -> None:
    report = Spans("stretch", CPU).add(span(("a", "x")), ("a",), (1, 64))
    assert any("in no way connected to Start: Title x" in note for note in report.notes)

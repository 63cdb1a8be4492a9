"""The clock waits once, the memory is counted without taking it, and the environment is said."""

from __future__ import annotations

import itertools
import time
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hotpath.engine.probe import clock as clock_module
from hotpath.engine.probe import energy, memory
from hotpath.engine.probe.clock import Clock, cost_of_a_mark_ms
from hotpath.engine.probe.environment import environment, missing_device
from hotpath.engine.probe.measure import measure, overhead
from hotpath.engine.probe.roofline import count_flops, measured_peak

CPU = torch.device("cpu")


class Event:
    """A device's event, a millisecond after the one before; counts every wait."""

    now, waits = 0, 0

    def __init__(self, enable_timing: bool) -> None:
        assert enable_timing

    def record(self, stream: object) -> None:
        assert stream == "the stream of cuda:1", "not that of the current device"
        Event.now += 1
        self.at = Event.now

    def synchronize(self) -> None:
        Event.waits += 1

    def elapsed_time(self, end: Event) -> float:
        assert Event.waits, "read before the device was waited for"
        return float(end.at - self.at)


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """A clock of a device that runs behind, as a GPU does."""
    monkeypatch.setattr(clock_module, "_event_class", lambda device: Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device=None: f"the stream of {device}")
    Event.now = Event.waits = 0
    return Clock(torch.device("cuda:1"))


def test_marks_wait_for_nothing_and_reading_waits_once(device: Clock) -> None:
    marks = [device.mark() for _ in range(20)]
    assert Event.waits == 0
    device.wait()
    assert [device.between_ms(begin, end) for begin, end in itertools.pairwise(marks)] == [1.0] * 19
    assert (Event.waits, device.waits) == (1, 1)


def test_a_series_is_waited_for_a_few_times_only(device: Clock) -> None:
    timing = measure(lambda: None, device, seconds=5, most=61, flops=False)
    assert len(timing.samples_ms) == 61
    assert set(timing.samples_ms) == {1.0}
    assert Event.waits <= 1 + 64 / 8 + 1


def test_host_time_is_true() -> None:
    clock = Clock(CPU)
    begin = clock.mark()
    time.sleep(0.02)
    end = clock.mark()
    clock.wait()
    assert clock.waits == 0
    assert 20 <= clock.between_ms(begin, end) < 60
    assert cost_of_a_mark_ms(CPU) < 0.05


def test_measuring_separates_the_first_call_and_warm_up() -> None:
    calls = []

    def run() -> None:
        calls.append(1)
        time.sleep(0.02 if len(calls) == 1 else 0.006 if len(calls) < 5 else 0.002)

    timing = measure(run, Clock(CPU), seconds=0.2, most=20)
    assert timing.first_ms > 19
    assert len(timing.warmup_ms) == 2, "one is the first call, one counts operations"
    assert all(ms < 5.5 for ms in timing.samples_ms)


def test_a_tick_may_end_a_series() -> None:
    class Stopped(Exception):
        pass

    def tick() -> None:
        raise Stopped

    with pytest.raises(Stopped):
        measure(lambda: None, Clock(CPU), seconds=1, most=10, tick=tick)


def test_overhead_finds_nothing_where_there_is_nothing_and_something_where_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    work = torch.randn(160, 160)
    found = overhead(lambda: [work @ work for _ in range(8)], CPU, seconds=0.3)
    assert found["low_percent"] <= 1.0
    plain = Clock.mark
    monkeypatch.setattr(Clock, "mark", lambda self: (time.sleep(0.0005), plain(self))[1])
    assert overhead(lambda: time.sleep(0.001), CPU, seconds=0.3)["low_percent"] > 20


def test_memory_is_counted_without_taking_it() -> None:
    def run() -> None:
        weight = torch.empty(8, 3, 3, 3, device="meta", requires_grad=True)
        picture = torch.empty(1, 3, 4000, 4000, device="meta")
        F.conv2d(picture, weight, padding=1).sum().backward()

    maps = 4 * 4000**2
    assert 11 * maps <= memory.peak_bytes(run) <= 20 * maps
    assert memory.peak_bytes(lambda: [torch.empty(1000, device="meta") for _ in range(3)]) == 12000
    assert memory.peak_bytes(lambda: [torch.empty(1000, device="meta").sum().shape for _ in range(3)]) < 4100


def test_peak_of_the_host() -> None:
    watch = memory.Watch(CPU)
    block = torch.ones(30 * 2**18)
    del block
    found = watch.report()
    if "host_peak_growth_mib" in found:
        assert 25 < found["host_peak_growth_mib"] < 80
    assert memory.free_bytes(CPU) > 2**20


class Process:
    """The files in which a system tells of a process's memory, in KiB."""

    def __init__(self, folder: Path) -> None:
        self.status, self.now = folder / "status", 0
        (folder / "clear_refs").write_text("")
        self.holds(100 * 1024, 100 * 1024)

    def holds(self, now: int, peak: int) -> None:
        self.status.write_text(f"VmHWM:\t{peak} kB\nVmRSS:\t{now} kB\n")


def test_a_watch_inside_another_takes_no_peak_from_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "PROCESS", tmp_path)
    process = Process(tmp_path)
    outer = memory.Watch(CPU)
    process.holds(100 * 1024, 500 * 1024)
    inner = memory.Watch(CPU)
    process.holds(110 * 1024, 120 * 1024)  # the peak has been set back
    assert inner.report()["host_peak_mib"] == 120
    assert outer.report()["host_peak_growth_mib"] == 400
    assert outer not in memory._OPEN


@pytest.mark.parametrize(("limit", "used", "stat", "prefix"), memory.GROUPED)
def test_files_that_a_container_has_in_memory_count_as_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str, used: str, stat: str, prefix: str
) -> None:
    monkeypatch.setattr(memory, "CGROUP", tmp_path)
    (tmp_path / limit).parent.mkdir(exist_ok=True)
    (tmp_path / limit).write_text("1000")
    (tmp_path / used).write_text("900")
    assert memory._container_free() == 100
    (tmp_path / stat).write_text(f"anon 7\n{prefix}inactive_file 500\n{prefix}active_file 50\n")
    assert memory._container_free() == 650


def test_operations_are_counted_in_and_out_of_inference_mode() -> None:
    query = torch.randn(1, 2, 64, 8)
    with torch.inference_mode():
        assert count_flops(lambda: F.linear(torch.randn(10, 3), torch.randn(8, 3))) == 2 * 10 * 3 * 8
        assert count_flops(lambda: F.scaled_dot_product_attention(query, query, query)) == 4 * 2 * 64 * 64 * 8
    assert 1e8 < measured_peak(CPU, torch.float32) < 1e14
    assert measured_peak(CPU, torch.float8_e4m3fn) == 0, "numbers to store, not to compute with"


def test_energy_is_read_where_it_is_offered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(energy, "POWERCAP", tmp_path)
    assert energy.Energy(CPU).report() == {"energy": energy.NOT_OFFERED}
    for name in ("intel-rapl:0", "intel-rapl:0:0"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "energy_uj").write_text("9000000\n")
        (tmp_path / name / "max_energy_range_uj").write_text("10000000\n")
    counter = energy.Energy(CPU)
    (tmp_path / "intel-rapl:0" / "energy_uj").write_text("2000000\n")
    assert counter.report() == {"processor_joules": 3.0}, "counters begin again from 0"


def test_the_environment_is_said() -> None:
    found = environment(CPU, comfyui="0.3.75")
    assert found["torch"] == torch.__version__
    assert found["comfyui"] == "0.3.75"
    assert missing_device("cpu") is None
    for name in ("cuda:99", "tpu"):
        assert name in missing_device(name)

"""Throughput over workloads, sizes, batches, devices and precisions. A point that cannot be measured is marked, and the next is tried."""

import gc
import itertools
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch

from ..errors import HotpathError
from .clock import Clock
from .environment import missing_device
from .measure import LONGEST_CALL_MS, Timing, measure, overhead
from .memory import Watch, free_bytes
from .neighbours import Neighbours
from .report import IDENTITY, Measurement
from .roofline import measured_peak
from .workloads.workload import Point, TooLarge, Workload

Make = Callable[[Point, int], Workload]
# A point is left out when one iteration would take longer than this many times the seconds given to a point.
PATIENCE = 20
QUADRATIC = ("attention",)  # in the number of pixels
BROKEN = (RuntimeError, MemoryError, ValueError)
OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory", "alloc_cpu")


@dataclass(frozen=True)
class Plan:
    """How long a point is measured: seconds, and samples at most. `peak` measures what the device can do as well."""

    seconds: float = 1.0
    most: int = 100
    peak: bool = True


def points(
    workloads: Sequence[str], sides: Sequence[int], batches: Sequence[int], devices: Sequence[str], precisions: Sequence[str]
) -> list[Point]:
    """Every combination, sizes growing innermost."""
    order = itertools.product(workloads, devices, precisions, batches, sorted(sides))
    return [Point(workload, side, batch, device, precision) for workload, device, precision, batch, side in order]


def sweep(wanted: Sequence[Point], make: Mapping[str, Make], plan: Plan, tick: Callable[[], None]) -> Iterator[Measurement]:
    """One measurement for each point, in order. What `tick` raises ends the sweep; what a point raises ends that point.

    Of points that come to the same ("auto" may be float32) the first is measured, and the others give nothing.
    """
    seen: dict[tuple, tuple[int, float]] = {}
    known: set[tuple] = set()
    for point in wanted:
        series = (point.workload, point.device, point.precision, point.batch)
        if (sentence := missing_device(point.device)) is not None:
            yield _left_out(point, "failed", sentence)
            continue
        if series in seen and (sentence := _too_slow(point, *seen[series], plan.seconds)):
            yield _left_out(point, "time", sentence)
            continue
        found = _measured(point, make[point.workload], plan, tick, known)
        if found is None:
            continue
        known.add(found.identity)
        if found.samples_ms:
            seen[series] = (point.side, found.statistics()["median_ms"])
        yield found


def _left_out(point: Point, status: str, sentence: str) -> Measurement:
    return Measurement(point.workload, status=status, note=sentence, facts=point.facts())


def _too_slow(point: Point, side: int, median_ms: float, seconds: float) -> str:
    """A sentence if an iteration is expected to take too long, from the last smaller size; else empty."""
    power = 4 if point.workload in QUADRATIC else 2
    expected_s = median_ms / 1e3 * (point.side / side) ** power
    if expected_s <= PATIENCE * seconds:
        return ""
    return f"left out: one iteration would take about {expected_s:.0f} s; give each point at least {expected_s / PATIENCE:.0f} seconds to have it."


def _measured(point: Point, make: Make, plan: Plan, tick: Callable[[], None], known: Collection[tuple]) -> Measurement | None:
    device = torch.device(point.device)
    try:
        return _run(point, device, make, plan, tick, known)
    except TooLarge as error:
        return _left_out(point, "memory", f"left out: {error}.")
    except HotpathError as error:
        return _left_out(point, "failed", str(error))
    except BROKEN as error:
        if isinstance(error, MemoryError) or any(words in str(error) for words in OUT_OF_MEMORY):
            return _left_out(point, "memory", f"ran out of memory with {free_bytes(device) / 2**30:.1f} GiB free before it.")
        return _left_out(point, "failed", f"{type(error).__name__}: {str(error).splitlines()[0]}")
    finally:
        gc.collect()
        if device.type in ("cuda", "xpu"):
            getattr(torch, device.type).empty_cache()


def _run(
    point: Point, device: torch.device, make: Make, plan: Plan, tick: Callable[[], None], known: Collection[tuple]
) -> Measurement | None:
    """The measurement of a point, or None if its identity is known already."""
    watch, clock = Watch(device), Clock(device)
    workload = make(point, free_bytes(device))
    facts = point.facts() | {"precision": str(workload.dtype).removeprefix("torch.")}
    if Measurement(point.workload, facts=facts).identity in known:
        return None

    def timed() -> tuple[Timing, float | None]:
        neighbours = Neighbours()
        return measure(workload.run, clock, seconds=plan.seconds, most=plan.most, tick=tick), neighbours.percent()

    timing, others = workload.within(timed)
    facts["first_ms"] = round(timing.first_ms, 3)
    if others is not None:
        facts["others_percent"] = others
    return Measurement(
        point.workload, timing.samples_ms, timing.warmup_ms, note=" ".join(filter(None, (workload.note, clock.note))), facts=facts,
        images=workload.images, pixels=workload.pixels, flops=timing.flops, memory=watch.report(),
        peak_flops_per_s=measured_peak(device, workload.dtype) if plan.peak and timing.flops else 0.0,
    )  # fmt: skip


def overhead_of(found: Sequence[Measurement], make: Mapping[str, Make], tick: Callable[[], None]) -> dict[str, object]:
    """What the marks cost at the first point that is quick enough, by A/B; empty where none is or it breaks. `tick` may raise."""
    quick = (entry.facts for entry in found if entry.samples_ms and entry.statistics()["median_ms"] <= LONGEST_CALL_MS)
    if (facts := next(quick, None)) is None:
        return {}
    point = Point(*(facts[name] for name in IDENTITY))
    device = torch.device(point.device)
    try:
        workload = make[point.workload](point, free_bytes(device))
        return workload.within(lambda: overhead(workload.run, device, tick=tick))
    except (TooLarge, HotpathError, *BROKEN):
        return {}

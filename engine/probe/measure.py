"""Timing a repeatable piece of work: first call, warm-up, samples in rounds, and what the timing itself costs."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from .clock import Clock, cost_of_a_mark_ms
from .roofline import count_flops
from .statistics import paired_difference, warmup_length

WARMUP_RUNS = 3
BETWEEN_LOOKS = 8  # samples between two moments at which the host waits for the device and looks at the time
OVERHEAD_SECONDS = 1.0
LONGEST_CALL_MS = 200.0  # of which `overhead` needs fourteen


@dataclass(frozen=True)
class Timing:
    """Milliseconds: the first call apart (it loads, compiles and fills caches), then warm-up, then steady samples."""

    first_ms: float
    warmup_ms: tuple[float, ...]
    samples_ms: tuple[float, ...]
    flops: int


def measure(
    run: Callable[[], object],
    clock: Clock,
    *,
    seconds: float,
    most: int,
    tick: Callable[[], None] = lambda: None,
    flops: bool = True,
) -> Timing:
    """Time `run` for about `seconds`, at most `most` samples, at least one. `tick` is called between samples and may raise."""
    began = time.perf_counter()
    first = _timed(run, clock, 1, tick)[0]
    late = time.perf_counter() - began > seconds
    work = count_flops(run) if flops and not late else 0
    samples: list[float] = []
    began = time.perf_counter()
    while len(samples) < most + WARMUP_RUNS and (not samples or time.perf_counter() - began < seconds):
        pace = sum(samples[-3:]) / len(samples[-3:]) if samples else first
        left = max(1, int((seconds - (time.perf_counter() - began)) * 1e3 / max(pace, 1e-3)))
        samples += _timed(run, clock, min(BETWEEN_LOOKS, left, most + WARMUP_RUNS - len(samples)), tick)
    cut = warmup_length(samples)
    return Timing(first, tuple(samples[:cut]), tuple(samples[cut:][:most]), work)


def _timed(run: Callable[[], object], clock: Clock, count: int, tick: Callable[[], None]) -> list[float]:
    """Times of `count` calls in a row; the host waits once, after the last."""
    marks = [clock.mark()]
    for _ in range(count):
        tick()
        begin = clock.mark()
        run()
        marks += [begin, clock.mark()]
    clock.wait()
    return [clock.between_ms(begin, end) for begin, end in zip(marks[1::2], marks[2::2], strict=True)]


def overhead(
    run: Callable[[], object], device: torch.device, seconds: float = OVERHEAD_SECONDS, tick: Callable[[], None] = lambda: None
) -> dict[str, object]:
    """What marks around each call cost, by turns of calls with them and without (A/B): percent of a call, with 95 % limits.

    On a busy machine those are wide; beside them stands what two marks cost, measured by themselves. `tick` may raise between turns.
    """
    clock, marked, bare = Clock(device), [], []
    run()
    (single,) = _timed(run, clock, 1, tick)
    count = max(1, min(20, int(20 / max(single, 1e-3))))
    until = time.perf_counter() + seconds
    while time.perf_counter() < until or len(marked) < 6:
        turns: Sequence[tuple[list[float], bool]] = (
            ((marked, True), (bare, False)) if len(marked) % 2 else ((bare, False), (marked, True))
        )
        for times, with_marks in turns:
            tick()
            begin = clock.mark()
            for _ in range(count):
                if with_marks:
                    clock.mark()
                run()
                if with_marks:
                    clock.mark()
            end = clock.mark()
            clock.wait()
            times.append(clock.between_ms(begin, end) / count)
    bare_ms = sorted(bare)[len(bare) // 2]
    return {**paired_difference(bare, marked), "by_cost_of_marks_percent": 100 * 2 * cost_of_a_mark_ms(device) / bare_ms}

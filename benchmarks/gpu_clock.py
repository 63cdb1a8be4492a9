"""Clocks for work on a GPU: inside a CUDA graph, launched call by call, and by the wall for runs in miniature on the processor."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median, quantiles
from typing import Any

import torch
from hotpath.kernels.dispatch import distance

REPLAYS = 30


def graph_us(run: Callable[..., Any], sets: list[tuple], rounds: int = 3) -> list[float]:
    """Microseconds of one call on the GPU, sampled over replays of a graph of calls; raises where a replay differs from a call."""
    wanted = run(*sets[-1])
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for arguments in sets:
            run(*arguments)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for arguments in sets * rounds:
            result = run(*arguments)
    samples = _between_events(graph.replay, rounds * len(sets))
    if distance(result, wanted) > 1e-6:
        raise RuntimeError("a replay of the graph gives another result than a call")
    return samples


def call_us(run: Callable[..., Any], sets: list[tuple]) -> list[float]:
    """Microseconds of one call as it is launched from Python, the work on the GPU included."""
    for arguments in sets * 2:
        run(*arguments)
    return _between_events(lambda: [run(*arguments) for arguments in sets], len(sets))


def _between_events(run: Callable[[], object], calls: int) -> list[float]:
    samples = []
    for _ in range(REPLAYS):
        torch.cuda.synchronize()
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        run()
        end.record()
        end.synchronize()
        samples.append(start.elapsed_time(end) * 1e3 / calls)
    return samples


def wall_us(run: Callable[..., Any], sets: list[tuple]) -> list[float]:
    samples = []
    for arguments in sets:
        start = time.perf_counter()
        run(*arguments)
        samples.append((time.perf_counter() - start) * 1e6)
    return samples


def summary(samples: list[float]) -> dict[str, float]:
    cuts = quantiles(samples, n=5)
    return {"p20_us": round(cuts[0], 2), "median_us": round(median(samples), 2), "p80_us": round(cuts[-1], 2)}

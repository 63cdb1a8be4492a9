"""Whether the probe can be trusted: equal work called different, a planted slow-down found, its times against an outside clock, its cost."""

import json
import subprocess
import sys
import time
from itertools import pairwise
from statistics import median

from hotpath.benchmarks.record import record
from hotpath.engine.probe.compare import compare_reports
from hotpath.engine.probe.report import Report
from hotpath.engine.probe.sweep import Plan, overhead_of, sweep
from hotpath.engine.probe.workloads.known import KNOWN
from hotpath.engine.probe.workloads.workload import Point, Workload

RUNS, SLOWER = 41, 1.05
POINT = Point("nin", 64, 1, "cpu", "float32")
# A program that sets up, says so, is measured by the probe, and says what the probe saw in all; another program's clock watches it.
OUTSIDE = """
import sys, torch
from hotpath.engine.probe.clock import Clock
from hotpath.engine.probe.measure import measure
from hotpath.engine.probe.workloads.gatys import ImageOptimisation
from hotpath.engine.probe.workloads.networks import NIN
job = ImageOptimisation(NIN, 64, 1, "cpu", torch.float32, "whole")
job.step()
print("ready", flush=True)
timing = measure(job.step, Clock(torch.device("cpu")), seconds=1e9, most=300, flops=False)
print("done", flush=True)
print(timing.first_ms + sum(timing.warmup_ms) + sum(timing.samples_ms))
"""


def slowed(point: Point, free: int) -> Workload:
    """The same work, each iteration made 5 % longer by waiting."""
    inner = KNOWN[point.workload](point, free)

    def run() -> None:
        begin = time.perf_counter()
        inner.run()
        until = begin + SLOWER * (time.perf_counter() - begin)
        while time.perf_counter() < until:
            pass

    return Workload(run, inner.images, inner.pixels, inner.dtype, inner.note, inner.within)


def one(make: dict, seconds: float) -> Report:
    return Report("sweep", "trust", tuple(sweep([POINT], make, Plan(seconds, 400, peak=False), lambda: None)))


def run(seconds: float) -> None:
    """Runs of equal work in a row, each held against the next; and each against a slowed one that follows it."""
    equal, slower = [], []
    for _ in range(RUNS):
        equal.append(one(KNOWN, seconds))
        slower.append(one({"nin": slowed}, seconds))
    false = [compare_reports(a, b).pairs[0][2] for a, b in pairwise(equal)]
    found = [compare_reports(a, b).pairs[0][2] for a, b in zip(equal, slower, strict=True)]
    row = {
        "workload": "nin 64 px", "seconds": seconds, "runs": len(false), "false_alarms": sum(v.claims for v in false),
        "planted_percent": 5, "planted_found": sum(v.claims and v.percent > 0 for v in found), "planted_tries": len(found),
        "half_width_percent": round(median((v.high_percent - v.low_percent) / 2 for v in false), 2),
        "medians_ms": [round(r.measurements[0].statistics()["median_ms"], 3) for r in equal],
        "others_percent": [r.measurements[0].facts.get("others_percent") for r in equal],
        "samples": median(len(r.measurements[0].samples_ms) for r in equal),
    }  # fmt: skip
    record("probe_trust", "cpu", row)
    sys.stdout.write(json.dumps(row) + "\n")
    outside()
    cost = overhead_of(equal[-1].measurements, KNOWN, lambda: None)
    record("probe_overhead", "cpu", {"workload": "nin 64 px", **cost})
    sys.stdout.write(json.dumps(cost) + "\n")


def outside() -> None:
    """All that the probe saw of a process's work against the clock of another process that watched the same run."""
    ratios = []
    for _ in range(5):
        process = subprocess.Popen([sys.executable, "-c", OUTSIDE], stdout=subprocess.PIPE, text=True)
        process.stdout.readline()
        begin = time.perf_counter()
        process.stdout.readline()
        external = 1e3 * (time.perf_counter() - begin)
        ratios.append(float(process.communicate()[0]) / external)
    row = {
        "workload": "nin 64 px",
        "probe_over_outside": [round(ratio, 4) for ratio in ratios],
        "median": round(median(ratios), 4),
    }
    record("probe_accuracy", "cpu", row)
    sys.stdout.write(json.dumps(row) + "\n")

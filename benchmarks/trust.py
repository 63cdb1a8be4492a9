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
# A program that sets up, then makes a number of iterations: what an outside clock sees of it.
OUTSIDE = """
import sys, torch
from hotpath.engine.probe.workloads.gatys import ImageOptimisation
from hotpath.engine.probe.workloads.networks import NIN
job = ImageOptimisation(NIN, 64, 1, "cpu", torch.float32, "whole")
for _ in range(5 + int(sys.argv[1])):
    job.step()
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
    cost = overhead_of(POINT, KNOWN)
    record("probe_overhead", "cpu", {"workload": "nin 64 px", **cost})
    sys.stdout.write(json.dumps(cost) + "\n")


def outside() -> None:
    """The mean of the samples against whole processes by an outside clock: a long run less a short one, by their iterations."""
    ratios = []
    for _ in range(5):
        seconds = []
        for count in (0, 300):
            begin = time.perf_counter()
            subprocess.run([sys.executable, "-c", OUTSIDE, str(count)], check=True)
            seconds.append(time.perf_counter() - begin)
        external = 1e3 * (seconds[1] - seconds[0]) / 300
        samples = [ms for m in sweep([POINT], KNOWN, Plan(4.0, 1000, peak=False), lambda: None) for ms in m.samples_ms]
        ratios.append(sum(samples) / len(samples) / external)
    row = {
        "workload": "nin 64 px",
        "probe_over_outside": [round(ratio, 4) for ratio in ratios],
        "median": round(median(ratios), 4),
    }
    record("probe_accuracy", "cpu", row)
    sys.stdout.write(json.dumps(row) + "\n")

"""Iterations per minute of image optimisation by VGG-19 and NIN over picture sizes, and over processes: Kawahata's question, arXiv 2109.05783."""

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from hotpath.benchmarks.record import record
from hotpath.engine.probe.chart import draw
from hotpath.engine.probe.environment import environment
from hotpath.engine.probe.report import Report
from hotpath.engine.probe.sweep import Plan, points, sweep
from hotpath.engine.probe.table import text_table
from hotpath.engine.probe.workloads.known import KNOWN
from PIL import Image

NETWORKS = ("nin", "vgg19")
SIDES = (64, 128, 256, 512, 1024, 2048)
PROCESS_SIDE = 256
# A process that waits for the common start, works for a time, and prints how many iterations it made.
WORKER = """
import sys, time, torch
from hotpath.engine.probe.workloads.gatys import ImageOptimisation
from hotpath.engine.probe.workloads.networks import LAYOUTS
name, side, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
torch.set_num_threads(int(sys.argv[4]))
job = ImageOptimisation(LAYOUTS[name], side, 1, "cpu", torch.float32, "whole")
for _ in range(3):
    job.step()
print("ready", flush=True)
sys.stdin.readline()
until, count, begin = time.perf_counter() + seconds, 0, time.perf_counter()
while time.perf_counter() < until:
    job.step()
    count += 1
print(count / (time.perf_counter() - begin), flush=True)
"""


def by_size(seconds: float, device: str, networks: Sequence[str] = NETWORKS, sides: Sequence[int] = SIDES) -> None:
    wanted = points(networks, sides, (1,), (device,), ("float32",))
    found = []
    for measurement in sweep(wanted, KNOWN, Plan(seconds, 200), lambda: None):
        found.append(measurement)
        values = measurement.statistics()
        kept = ("median_ms", "low_ms", "high_ms", "per_minute", "megapixels_per_s", "gflops_per_s", "percent_of_peak")
        facts = {name: value for name, value in measurement.facts.items() if name not in ("workload", "device")}
        row = {"network": measurement.name, **facts, "status": measurement.status, "note": measurement.note}
        row |= {name: values[name] for name in kept if name in values} | {
            "samples": len(measurement.samples_ms),
            **measurement.memory,
        }
        record("kawahata", device, row)
    report = Report("sweep", "Style transfer by network and picture size", tuple(found), environment(torch.device(device)))
    if (networks, sides) == (NETWORKS, SIDES):
        pixels = (draw(report).numpy() * 255).round().astype("uint8")
        Image.fromarray(pixels).save(Path(__file__).with_suffix(".png"))
    sys.stdout.write(text_table(report) + "\n")


def together(name: str, processes: int, threads: int, seconds: float) -> float:
    """Iterations a minute of all processes together, started at one moment."""
    argv = [sys.executable, "-c", WORKER, name, str(PROCESS_SIDE), str(seconds), str(threads)]
    running = [subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(processes)]
    for process in running:
        process.stdout.readline()
    for process in running:
        process.stdin.write("go\n")
        process.stdin.flush()
    return 60 * sum(float(process.communicate()[0].split()[-1]) for process in running)


def by_processes(seconds: float) -> None:
    cores = torch.get_num_threads()
    for name in NETWORKS:
        one = together(name, 1, 1, seconds)
        row = {"network": name, "side_px": PROCESS_SIDE, "one_process_one_thread": round(one, 2)}
        for processes, threads in ((1, cores), (cores, 1)):
            rate = together(name, processes, threads, seconds)
            what = f"{processes}_processes_{threads}_threads"
            row |= {what: round(rate, 2), f"{what}_efficiency": round(rate / one / max(processes * threads, 1), 3)}
        record("kawahata_processes", "cpu", row)
        sys.stdout.write(json.dumps(row) + "\n")


def run(seconds: float, networks: Sequence[str] = (), sides: Sequence[int] = ()) -> None:
    """networks, sides: only these, without the chart and the processes."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    began = time.perf_counter()
    by_size(seconds, device, tuple(networks) or NETWORKS, tuple(sides) or SIDES)
    if device == "cpu" and not networks and not sides:
        by_processes(seconds)
    sys.stdout.write(f"{time.perf_counter() - began:.0f} s\n")

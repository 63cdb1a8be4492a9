"""Samples as timers give them, and reports made of them, for the tests of what the probe says."""

from __future__ import annotations

import numpy as np
from hotpath.engine.probe.report import Measurement, Report


def run_of_samples(
    random: np.random.Generator,
    *,
    count: int = 200,
    between: float = 0.006,
    within: float = 0.03,
    rho: float = 0.5,
    ms: float = 20,
) -> tuple[float, ...]:
    """Samples as timers give them: a level of the run's own, noise like its neighbours, and now and then something slow."""
    noise = np.zeros(count)
    shocks = random.normal(0, within, count)
    for index in range(count):
        noise[index] = rho * noise[index - 1] + shocks[index] if index else shocks[0]
    slow = (random.random(count) < 0.05) * random.exponential(0.4, count)
    return tuple(ms * np.exp(random.normal(0, between) + noise) * (1 + slow))


def measurement(samples: tuple[float, ...], name: str = "nin", side: int = 64, **facts: object) -> Measurement:
    facts = {"workload": name, "side_px": side, "batch": 1, "device": "cpu", "precision": "float32", **facts}
    return Measurement(name, samples, facts=facts, images=1, pixels=side**2, flops=10**9, peak_flops_per_s=1e12)


def report(*measurements: Measurement, **fields: object) -> Report:
    environment = {"device_name": "a processor", "threads": 2, "torch": "2.11", "date": "2026-11-22T00:00:00Z"}
    return Report(
        "sweep", "Throughput sweep", measurements, **{"environment": environment, "workload": {"seconds": 1.0}, **fields}
    )

"""Whether two runs differ: noise is admitted, and a planted slow-down is found."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hotpath.engine.probe.compare import BETWEEN_RUNS, compare_reports, compare_samples
from hotpath.engine.probe.statistics import limits, paired_difference, summary, warmup_length
from hotpath.tests.engine.probe_samples import measurement, report, run_of_samples

RUNS = 40


@pytest.mark.parametrize("rho", [0.0, 0.5, 0.7])
def test_equal_work_is_called_equal_and_a_planted_slow_down_is_found(rho: float) -> None:
    random = np.random.default_rng(int(10 * rho))
    runs = [run_of_samples(random, rho=rho, within=0.03 * (1 - rho)) for _ in range(RUNS + 1)]
    false = sum(compare_samples(a, b).claims for a, b in pairwise(runs))
    found = [compare_samples(a, [1.05 * ms for ms in b]) for a, b in pairwise(runs)]
    assert false <= 0.05 * RUNS
    assert sum(verdict.claims and verdict.percent > 0 for verdict in found) >= 0.9 * RUNS
    assert all("slower by" in verdict.sentence for verdict in found if verdict.claims)


def test_noise_that_comes_in_stretches_is_not_called_a_difference() -> None:
    """Strongly autocorrelated samples: a test for independent samples claims a difference in most of these runs."""
    random = np.random.default_rng(5)
    runs = [run_of_samples(random, rho=0.95, within=0.02) for _ in range(RUNS + 1)]
    naive = 0
    for a, b in pairwise(runs):
        spread = (np.var(a) / len(a) + np.var(b) / len(b)) ** 0.5
        naive += abs(np.mean(a) - np.mean(b)) > 1.96 * spread
    assert naive > 0.3 * RUNS
    assert sum(compare_samples(a, b).claims for a, b in pairwise(runs)) <= 0.05 * RUNS


def test_a_busy_neighbour_is_not_a_regression() -> None:
    random = np.random.default_rng(1)
    calm, busy = run_of_samples(random), tuple(1.2 * ms for ms in run_of_samples(random))
    first, second = (report(measurement(samples, others_percent=share)) for samples, share in ((calm, 1.0), (busy, 30.0)))
    assert not compare_reports(first, second).pairs[0][2].claims
    second = report(measurement(busy, others_percent=1.0))
    assert compare_reports(first, second).pairs[0][2].claims


def test_many_points_together_claim_no_more_than_one() -> None:
    random, false = np.random.default_rng(2), 0
    for _ in range(20):
        first, second = (
            report(*(measurement(run_of_samples(random, count=60), side=side) for side in (64, 128, 256, 512))) for _ in range(2)
        )
        comparison = compare_reports(first, second)
        false += any(verdict.claims for *_, verdict in comparison.pairs) or comparison.overall.claims
    assert false <= 2


def test_few_samples_claim_nothing() -> None:
    verdict = compare_samples([1.0] * 5, [9.0] * 50)
    assert (verdict.claims, "too few samples" in verdict.sentence) == (False, True)


def test_reports_are_paired_by_what_they_are_of() -> None:
    samples = run_of_samples(np.random.default_rng(3))
    slow = tuple(1.3 * ms for ms in samples)
    first = report(measurement(samples), measurement(samples, side=128))
    text = compare_reports(first, report(measurement(slow), measurement(slow, side=512))).text()
    assert "slower by 30.0 %" in text
    assert "Only in the first report: nin 128 px" in text
    assert "Only in the second report: nin 512 px" in text
    other = replace(report(measurement(slow, precision="bfloat16")), environment={**first.environment, "torch": "2.12"})
    text = compare_reports(first, other).text()
    assert "nin 64 px cpu float32 -> nin 64 px cpu bfloat16" in text
    assert "Another torch: 2.11 and 2.12." in text
    assert "no measurement in common" in compare_reports(first, report(measurement(samples, name="vgg19"))).text()
    assert "no measurement in common" in compare_reports(report(), first).text()


def test_limits_and_warm_up() -> None:
    random = np.random.default_rng(0)
    inside = sum(
        low < 20 < high
        for low, high in (limits(run_of_samples(random, between=0, rho=0, within=0.05, count=80)) for _ in range(60))
    )
    assert inside >= 50
    assert warmup_length([50.0, 30.0, 10.2, 9.8, 10.1, 10.0, 9.9, 10.0]) == 2
    assert warmup_length([10.0, 10.1, 9.9, 10.0, 10.1, 10.0]) == 0
    assert warmup_length([5.0]) == 0
    assert summary([4.0, 1.0, 2.0, 3.0])["median_ms"] == 2.5
    found = paired_difference([10.0] * 20, [11.0] * 20)
    assert found["percent"] == pytest.approx(10)


def test_the_assumed_scatter_between_runs_is_small() -> None:
    assert BETWEEN_RUNS <= 0.01, "with more than 1.1 % a slow-down of 5 % cannot be found in nine of ten"

"""Whether two measurements differ, and how sure that is.

Two runs of the same work differ for two reasons. Within a run samples scatter, in stretches: the moving-block bootstrap shows by how
much. Between runs the machine itself is another one (clock, neighbours, where memory came to lie). That is a random effect with three
sources, the largest of which counts: 1 %, which idle machines show; how far fifths of a run lie apart beyond what the scatter of
their samples explains; and how much of the processor other programs took, and took more in one run than in the other. Without it, two runs
of the same work are called different far too often.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .report import MEASURED, Measurement, Report
from .statistics import RESAMPLES, block_resamples
from .table import label, number

# Standard deviation between runs of one workload, relative; assumed where no history shows a larger one.
BETWEEN_RUNS = 0.01
# Part of what other programs take that shows up as scatter between runs, even where both runs had the same neighbours.
CROWDED = 0.1
PARTS = 5
FEWEST = 6  # samples in each run below which nothing is claimed


@dataclass(frozen=True)
class Verdict:
    """`percent` of time that the second takes more than the first, with its limits; `claims` whether 0 lies outside them."""

    percent: float
    low_percent: float
    high_percent: float
    claims: bool
    sentence: str


def between_runs(first_others: float, second_others: float) -> float:
    """Relative scatter to expect between two runs beside which other programs took these shares of the processor."""
    return max(BETWEEN_RUNS, abs(first_others - second_others), CROWDED * max(first_others, second_others))


def _drift(samples: np.ndarray) -> float:
    """Variance of log(median) between fifths of a run, less what the scatter within them makes of it."""
    parts = np.array_split(samples, PARTS)
    if min(map(len, parts)) < 2:
        return 0.0
    within = np.mean([np.log(np.median(block_resamples(part, 100), axis=1)).var() for part in parts])
    return max(0.0, float(np.log([np.median(part) for part in parts]).var(ddof=1) - within))


def _differences(first: Sequence[float], second: Sequence[float], between: float, seed: int) -> tuple[float, np.ndarray]:
    """log(second / first) of the medians, and resamples of it."""
    a, b = np.asarray(first, float), np.asarray(second, float)
    spread = max(between, ((_drift(a) + _drift(b)) / 2) ** 0.5)
    random = np.random.default_rng(seed + 1)
    drawn = np.log(
        np.median(block_resamples(b, RESAMPLES, seed + 2), axis=1) / np.median(block_resamples(a, RESAMPLES, seed + 3), axis=1)
    )
    return float(np.log(np.median(b) / np.median(a))), drawn + random.normal(0, spread * 2**0.5, RESAMPLES)


def _verdict(difference: float, drawn: np.ndarray, chance: float) -> Verdict:
    low, high = np.percentile(drawn, [50 * chance, 100 - 50 * chance])
    percent, low, high = (100 * float(np.expm1(value)) for value in (difference, low, high))
    claims = low > 0 or high < 0
    span = f"{low:+.1f} to {high:+.1f} %"
    if claims:
        sentence = f"{'slower' if percent > 0 else 'faster'} by {abs(percent):.1f} % ({span})"
    else:
        sentence = f"no difference that can be told from noise: {percent:+.1f} % ({span})"
    return Verdict(percent, low, high, claims, sentence)


def compare_samples(
    first: Sequence[float], second: Sequence[float], *, between: float = BETWEEN_RUNS, chance: float = 0.05
) -> Verdict:
    """Compare two series of samples in ms. At most a share `chance` of comparisons of equal work claim a difference."""
    fewest = min(len(first), len(second))
    if fewest < FEWEST:
        return Verdict(0.0, 0.0, 0.0, False, f"too few samples to tell ({fewest}, at least {FEWEST} are needed)")
    return _verdict(*_differences(first, second, between, seed=0), chance)


@dataclass(frozen=True)
class Comparison:
    """Pairs of measurements of two reports with a verdict each, one over all of them, and sentences on what could not be paired."""

    pairs: tuple[tuple[Measurement, Measurement, Verdict], ...]
    overall: Verdict | None
    notes: tuple[str, ...]

    def text(self) -> str:
        """The comparison to read."""
        lines = [
            f"{label(first)} -> {label(second)}: {number(first.statistics()['median_ms'])} -> "
            f"{number(second.statistics()['median_ms'])} ms, {verdict.sentence}"
            for first, second, verdict in self.pairs
        ]
        if self.overall is not None and len(self.pairs) > 1:
            lines.append(f"All {len(self.pairs)} together: {self.overall.sentence}")
        return "\n".join([*lines, *self.notes]) or "Nothing to compare."


def compare_reports(first: Report, second: Report) -> Comparison:
    """Pair measurements by what they are of (failing that, leaving out precision, then device), and compare each pair.

    Over n pairs each is held to a chance of 5 % / n, so that a whole comparison of equal work claims something in 5 % at most.
    """
    pairs = _pairs(first.compared, second.compared)
    judged, differences = [], []
    for one, other in pairs:
        between = between_runs(one.others, other.others)
        judged.append((one, other, compare_samples(one.samples_ms, other.samples_ms, between=between, chance=0.05 / len(pairs))))
        if min(len(one.samples_ms), len(other.samples_ms)) >= FEWEST:
            differences.append(_differences(one.samples_ms, other.samples_ms, between, seed=0))
    overall = None
    if differences:
        # What makes one run slow makes all of its points slow, so the resamples are added up one by one, not averaged out.
        drawn = np.mean([np.sort(each) for _, each in differences], 0)
        overall = _verdict(float(np.mean([value for value, _ in differences])), drawn, 0.05)
    return Comparison(tuple(judged), overall, tuple(_notes(first, second, pairs)))


def _pairs(first: Sequence[Measurement], second: Sequence[Measurement]) -> list[tuple[Measurement, Measurement]]:
    for left_out in (0, 1, 2):  # of the identity's end: nothing, precision, device and precision
        known = {entry.identity[: len(entry.identity) - left_out]: entry for entry in second}
        pairs = [
            (entry, known[entry.identity[: len(entry.identity) - left_out]])
            for entry in first
            if entry.identity[: len(entry.identity) - left_out] in known
        ]
        if pairs:
            return pairs
    return []


def _notes(first: Report, second: Report, pairs: Sequence[tuple[Measurement, Measurement]]) -> list[str]:
    found = []
    paired = {id(entry) for pair in pairs for entry in pair}
    for which, report in (("first", first), ("second", second)):
        alone = [label(entry) for entry in report.compared if id(entry) not in paired]
        if alone:
            found.append(f"Only in the {which} report: {', '.join(alone)}.")
        if doubtful := [label(entry) for entry in report.measured if entry.status != MEASURED]:
            found.append(f"Left out of the {which} report: {', '.join(doubtful)}.")
        found += [f"Note of the {which} report: {note}" for note in report.notes]
    if not pairs:
        found.append("The reports have no measurement in common: probe the same workload and size twice.")
    for name in ("device_name", "threads", "torch", "comfyui"):
        before, after = first.environment.get(name), second.environment.get(name)
        if before != after:
            found.append(f"Another {name.replace('_', ' ')}: {before} and {after}.")
    return found

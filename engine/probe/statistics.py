"""Statistics of timing samples, which are neither normal nor independent: a busy machine makes runs of slow ones.

Limits come from the moving-block bootstrap (Kuensch 1989): whole stretches of neighbouring samples are drawn, so that what makes
neighbours alike stays in.
"""

from collections.abc import Callable, Sequence

import numpy as np

RESAMPLES = 1000
PERCENTILES = (5, 20, 50, 80, 95)


def block_length(count: int) -> int:
    """Samples drawn together: the cube root rule times two, at least 1."""
    return max(1, min(count // 4, round(2 * count ** (1 / 3))))


def block_resamples(samples: np.ndarray, count: int, seed: int = 0) -> np.ndarray:
    """`count` resamples [count, n] of a series of n samples in order, each of stretches of neighbours."""
    n = len(samples)
    length = block_length(n)
    random = np.random.default_rng(seed)
    starts = random.integers(0, n - length + 1, (count, -(-n // length)))
    index = (starts[:, :, None] + np.arange(length)).reshape(count, -1)[:, :n]
    return samples[index]


def limits(
    samples: Sequence[float], statistic: Callable[..., np.ndarray] = np.median, percent: float = 95
) -> tuple[float, float]:
    """Bootstrap limits of a statistic of a series; both are the sample itself where there is one only."""
    values = np.asarray(samples, float)
    found = statistic(block_resamples(values, RESAMPLES), axis=1)
    low, high = np.percentile(found, [50 - percent / 2, 50 + percent / 2])
    return float(low), float(high)


def summary(samples_ms: Sequence[float]) -> dict[str, float]:
    """Minimum, percentiles, mean and the 95 % limits of the median, in ms."""
    values = np.asarray(samples_ms, float)
    found = {"min_ms": float(values.min()), "mean_ms": float(values.mean())}
    for percent, value in zip(PERCENTILES, np.percentile(values, PERCENTILES), strict=True):
        found["median_ms" if percent == 50 else f"p{percent}_ms"] = float(value)
    found["low_ms"], found["high_ms"] = limits(samples_ms)
    return found


def warmup_length(samples: Sequence[float]) -> int:
    """How many samples at the start do not belong to the steady state, which the second half shows; half of them at most."""
    values = np.asarray(samples, float)
    if len(values) < 4:
        return 0
    steady = values[len(values) // 2 :]
    middle = float(np.median(steady))
    spread = 1.4826 * float(np.median(np.abs(steady - middle)))
    limit = middle + max(4 * spread, 0.05 * middle)
    cut = 0
    while cut < len(values) // 2 and values[cut] > limit:
        cut += 1
    return cut


def paired_difference(bare: Sequence[float], changed: Sequence[float]) -> dict[str, object]:
    """How much slower `changed` is than `bare`, taken in turns: percent, by the median of the pairs, with its 95 % limits."""
    ratios = 100 * np.expm1(np.log(np.asarray(changed, float)) - np.log(np.asarray(bare, float)))
    low, high = limits(ratios)
    return {"percent": float(np.median(ratios)), "low_percent": low, "high_percent": high, "pairs": len(ratios)}

"""How much of the processor other programs took meanwhile: a run next to a busy neighbour must not be called a regression."""

import time


class Neighbours:
    """Watches from here to `percent`; two readings of counters that the system keeps anyway."""

    def __init__(self) -> None:
        self._start = _reading()

    def percent(self) -> float | None:
        """Share of all cores that programs other than this one used, or None where the system does not tell."""
        end = _reading()
        if self._start is None or end is None:
            return None
        total, busy, own = (after - before for before, after in zip(self._start, end, strict=True))
        return round(100 * min(1.0, max(0.0, busy - own) / total), 2) if total > 0 else None


def _reading() -> tuple[float, float, float] | None:
    """(seconds of all cores, of them busy, of those ours). What a host took from a virtual machine counts as busy."""
    try:
        import psutil
    except ImportError:
        return None
    times = psutil.cpu_times()
    twice = getattr(times, "guest", 0.0) + getattr(times, "guest_nice", 0.0)  # counted in user and nice already
    total = sum(times) - twice
    return total, total - times.idle - getattr(times, "iowait", 0.0), time.process_time()

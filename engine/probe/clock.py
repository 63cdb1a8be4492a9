"""Marks in a device's own time. Setting one costs microseconds and waits for nothing; reading them waits once, at the end.

A GPU works behind the program's back: time read on the host without waiting bills one step's work to the next, and waiting in
each step slows what is measured. So on a GPU a mark is an event in the stream of work, and its time is read when all is done.
"""

import time
from typing import Any, NamedTuple

import torch

UNMEASURED = (
    "On '{}' devices only the host's clock is read, without waiting: whole runs are right, single steps may bill each other."
)


class Mark(NamedTuple):
    """A moment: seconds of the host's clock, and the device's event or None."""

    host_s: float
    event: Any


class Clock:
    """Marks for one device. `waits` counts how often the host had to wait for the device."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.waits = torch.device(device), 0
        self._event = _event_class(self.device)
        self._last: Mark | None = None

    @property
    def note(self) -> str:
        """A sentence where single steps cannot be told apart on this device, else empty."""
        return "" if self._event or self.device.type == "cpu" else UNMEASURED.format(self.device.type)

    def mark(self) -> Mark:
        event = None
        if self._event:
            event = self._event(enable_timing=True)
            event.record(*self._stream())
        self._last = mark = Mark(time.perf_counter(), event)
        return mark

    def _stream(self) -> tuple:
        """The stream that this device works on, which need not be the current device; mps has but one and takes none."""
        return (getattr(torch, self.device.type).current_stream(self.device),) if self.device.type in ("cuda", "xpu") else ()

    def wait(self) -> None:
        """Wait until the device has reached the last mark; differences may be read after that."""
        if self._last is not None and self._last.event is not None:
            self._last.event.synchronize()
            self.waits += 1

    def between_ms(self, begin: Mark, end: Mark) -> float:
        """Milliseconds of device time from one mark to another; `wait` must have been called after them."""
        if begin.event is not None and end.event is not None:
            return begin.event.elapsed_time(end.event)
        return (end.host_s - begin.host_s) * 1e3


def _event_class(device: torch.device) -> Any:
    """The class of timing events of a device, or None where the host's clock has to do."""
    if device.type in ("cuda", "xpu"):
        return getattr(torch, device.type).Event
    if device.type == "mps":
        from torch.mps.event import Event

        return Event
    return None


def cost_of_a_mark_ms(device: torch.device, count: int = 300) -> float:
    """Milliseconds of host time that one mark takes, measured; the lower half of the tries counts."""
    clock = Clock(device)
    costs = []
    for _ in range(count):
        start = time.perf_counter()
        clock.mark()
        costs.append(time.perf_counter() - start)
    half = sorted(costs)[: count // 2]
    return sum(half) / len(half) * 1e3

"""A stretch of a graph between two nodes, timed again in every run of the graph."""

import time
import uuid
from collections.abc import Collection

import torch

from .clock import Clock, Mark, cost_of_a_mark_ms
from .energy import Energy
from .environment import environment
from .memory import Watch
from .report import MEASURED, Measurement, Report
from .statistics import warmup_length

KEPT_SAMPLES = 200
ALL_CACHED = "Cached: every node between Start and Stop was answered from ComfyUI's cache, so no speed is given."
ONE_SAMPLE = "One run so far, and the first run loads and compiles: queue again for more samples."


class Span:
    """One run of the stretch, and the nodes that ran meanwhile (by number)."""

    def __init__(self, device: torch.device) -> None:
        self.clock = Clock(device)
        self.nodes: dict[str, tuple[Mark, Mark]] = {}
        self.cached: set[str] = set()
        self.titles: dict[str, str] = {}
        self.began_s = time.perf_counter()
        self._watch, self._energy = Watch(device), Energy(device)
        self.memory: dict[str, float] = {}
        self.energy: dict[str, float | str] = {}
        self.stopped = False

    def start(self) -> None:
        self.began_s = time.perf_counter()
        self.begin = self.clock.mark()

    def stop(self) -> None:
        self.end = self.clock.mark()
        self.stopped = True
        self.clock.wait()
        self.memory, self.energy = self._watch.report(), self._energy.report()

    def milliseconds(self) -> float:
        return self.clock.between_ms(self.begin, self.end)


class Spans:
    """All runs of one stretch with the same settings; `graph` stands for those."""

    def __init__(self, name: str, device: torch.device, graph: str = "") -> None:
        self.name, self.device, self.graph = name, device, graph
        self.session = uuid.uuid4().hex[:12]
        self.whole: list[float] = []
        self.inside: dict[str, list[float]] = {}

    def add(self, span: Span, path: Collection[str], made: tuple[int, int]) -> Report:
        """The report with this run in it. `path` are the nodes between Start and Stop, `made` the pictures and the px of each."""
        ran = {number: span.clock.between_ms(*marks) for number, marks in span.nodes.items()}
        cached = [number for number in path if number not in ran]
        notes = []
        if path and len(cached) == len(path):
            return self._report(span, made, [ALL_CACHED], cached=True)
        self.whole = [*self.whole, span.milliseconds()][-KEPT_SAMPLES:]
        for number in path:
            if number in ran:
                self.inside[number] = [*self.inside.get(number, []), ran[number]][-KEPT_SAMPLES:]
        if cached:
            notes.append(f"Cached, so not in the time: {_names(span, cached)}.")
        if strangers := [number for number in ran if number not in path]:
            notes.append(
                f"Also ran between Start and Stop, in no way connected to Start: {_names(span, strangers)}; their time is in the whole."
            )
        if len(self.whole) == 1:
            notes.append(ONE_SAMPLE)
        return self._report(span, made, notes)

    def _report(self, span: Span, made: tuple[int, int], notes: list[str], cached: bool = False) -> Report:
        images, pixels = made
        # The first run loads and compiles, so it is warm-up as soon as there is another.
        cut = max(1, warmup_length(self.whole)) if len(self.whole) > 1 else 0
        whole = Measurement(
            self.name, tuple(self.whole[cut:]), tuple(self.whole[:cut]), "cached" if cached else "measured",
            images=images, pixels=pixels, memory=span.memory, facts={"images": images},
        )  # fmt: skip
        if cached:
            whole = Measurement(self.name, status="cached")
        nodes = [
            Measurement(
                span.titles.get(number, number),
                tuple(samples[min(cut, len(samples) - 1) :]),
                tuple(samples[: min(cut, len(samples) - 1)]),
                MEASURED if number in span.nodes else "cached",
            )
            for number, samples in self.inside.items()
            if not cached
        ]
        single = cost_of_a_mark_ms(self.device)
        marks = 2 + 2 * len(span.nodes)
        took = span.milliseconds()
        extras = {"energy of the last run": span.energy, "overhead": {"percent": 100 * marks * single / took if took else 0.0, "marks": marks, "microseconds_a_mark": 1e3 * single}}  # fmt: skip
        workload = {"name": self.name, "images": images, "pixels": pixels, "graph": self.graph}
        return Report(
            "span", self.name, (whole, *nodes), environment(self.device, session=self.session), workload, {} if cached else extras,
            tuple(notes),
        )  # fmt: skip


def _names(span: Span, numbers: Collection[str]) -> str:
    return ", ".join(sorted(span.titles.get(number, number) for number in numbers))

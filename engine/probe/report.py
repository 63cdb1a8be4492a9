"""What a probe found: one report, JSON on disk. Tables and charts are views of it."""

import contextlib
import json
import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path

from ..errors import InvalidInput, NotWritten
from .statistics import summary

FORMAT, VERSION = "hotpath.probe.report", 1
MEASURED = "measured"
# Why a measurement has no samples, or not all of them.
STATUSES = (MEASURED, "cached", "empty", "failed", "interrupted", "memory", "time")
KINDS = ("model", "span", "sweep")
IDENTITY = ("workload", "side_px", "batch", "device", "precision")


@dataclass(frozen=True)
class Measurement:
    """Samples of one thing, in order, in milliseconds; `warmup_ms` came before and are left out of every statistic.

    `iterations` is how many of the thing one sample covers, `images` how many pictures one of it makes (0: none), each of `pixels`.
    """

    name: str
    samples_ms: tuple[float, ...] = ()
    warmup_ms: tuple[float, ...] = ()
    status: str = MEASURED
    note: str = ""
    facts: Mapping[str, object] = field(default_factory=dict)
    images: int = 0
    pixels: int = 0
    flops: int = 0
    peak_flops_per_s: float = 0.0
    memory: Mapping[str, float] = field(default_factory=dict)

    @property
    def identity(self) -> tuple:
        return (self.name, *(self.facts.get(name) for name in IDENTITY))

    @property
    def others(self) -> float:
        """Share of the processor that other programs took meanwhile, 0 where nobody looked."""
        return float(self.facts.get("others_percent", 0.0)) / 100

    def statistics(self) -> dict[str, float]:
        """Percentiles in ms and what follows from the median: rates, share of the measured peak. Empty without samples."""
        if not self.samples_ms:
            return {}
        found = summary(self.samples_ms)
        per_second = 1e3 / found["median_ms"] if found["median_ms"] else 0.0
        found |= {"per_second": per_second, "per_minute": 60 * per_second}
        if self.images:
            found["images_per_s"] = self.images * per_second
        if self.images and self.pixels:
            found["megapixels_per_s"] = self.images * self.pixels * per_second / 1e6
        if self.flops:
            found["gflops_per_s"] = self.flops * per_second / 1e9
            if self.peak_flops_per_s:
                found["percent_of_peak"] = 100 * self.flops * per_second / self.peak_flops_per_s
        return {name: _short(value) for name, value in found.items()}


@dataclass(frozen=True)
class Report:
    """All measurements of one probe with where and on what they were made; `notes` are sentences a reader must not miss."""

    kind: str
    title: str
    measurements: tuple[Measurement, ...]
    environment: Mapping[str, object] = field(default_factory=dict)
    workload: Mapping[str, object] = field(default_factory=dict)
    extras: Mapping[str, Mapping[str, object]] = field(default_factory=dict)  # overhead, energy, load, breakdown ...
    notes: tuple[str, ...] = ()

    def current(self, prompt: str = "") -> "Report":
        """What travels on a wire is this, or a recording that still grows and makes one when asked in a run of the graph."""
        return self

    def with_notes(self, *sentences: str) -> "Report":
        return replace(self, notes=(*self.notes, *(sentence for sentence in sentences if sentence)))

    @property
    def measured(self) -> tuple[Measurement, ...]:
        """All with samples, those of interrupted and of earlier work among them."""
        return tuple(entry for entry in self.measurements if entry.samples_ms)

    @property
    def compared(self) -> tuple[Measurement, ...]:
        """Those that may stand for the work: measured to its end, in the run of the graph that asks, and by a clock fine enough for it."""
        return tuple(entry for entry in self.measured if entry.status == MEASURED and min(entry.samples_ms) > 0)

    def to_json(self) -> str:
        facts = {"format": FORMAT, "version": VERSION, **asdict(self)}
        for entry, measurement in zip(facts["measurements"], self.measurements, strict=True):
            entry["statistics"] = measurement.statistics()
            entry["samples_ms"], entry["warmup_ms"] = (
                [_short(value) for value in entry[name]] for name in ("samples_ms", "warmup_ms")
            )
        return json.dumps(facts, indent=1, default=str)


def _short(value: float) -> float:
    """Six significant digits."""
    return float(f"{value:.6g}")


def from_json(text: str, name: str) -> Report:
    """A report from its JSON, or one sentence why not. `name` is the file's, for the sentence."""
    try:
        facts = json.loads(text)
        if facts["format"] != FORMAT or facts["version"] != VERSION:
            raise InvalidInput(
                f"Expected {name} to be of format {FORMAT} version {VERSION}, got {facts['format']} version {facts['version']}: "
                "choose a report written by this version of hotpath."
            )
        known = {entry.name for entry in fields(Measurement)}
        measurements = []
        for entry in facts["measurements"]:
            values = {key: value for key, value in entry.items() if key in known}
            samples = {key: tuple(float(ms) for ms in values[key]) for key in ("samples_ms", "warmup_ms")}
            if any(not math.isfinite(ms) or ms < 0 for ms in samples["samples_ms"]) or values["status"] not in STATUSES:
                raise ValueError("samples or status out of range")
            measurements.append(Measurement(**{**values, **samples}))
        rest = {entry.name: facts[entry.name] for entry in fields(Report) if entry.name not in ("measurements", "notes")}
        return Report(measurements=tuple(measurements), notes=tuple(facts["notes"]), **rest)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InvalidInput(
            f"Expected {name} to hold a probe report, but it is damaged ({error!r}): choose another file."
        ) from error


def load(path: Path) -> Report:
    try:
        return from_json(path.read_text(encoding="utf-8"), path.name)
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"Expected a readable report at {path}, but it is not ({error}): choose another file.") from error


def write_text(path: Path, text: str) -> None:
    """Write beside the target, then rename: the target is the old file or the whole new one."""
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(text, encoding="utf-8")
        os.replace(part, path)
    except OSError as error:
        raise NotWritten(f"Expected to write {path}, but it failed ({error}): make room, or make the folder writable.") from error
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)

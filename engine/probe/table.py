"""Views of a report as text: a table to read, and CSV for a spreadsheet."""

import csv
import io
from collections.abc import Mapping

from .. import markdown
from .report import IDENTITY, MEASURED, Measurement, Report

COLUMNS = ("name", *IDENTITY, "status", "samples", "warmup", "min_ms", "p5_ms", "p20_ms", "median_ms", "p80_ms", "p95_ms", "mean_ms",
           "low_ms", "high_ms", "per_second", "per_minute", "images_per_s", "megapixels_per_s", "gflops_per_s", "percent_of_peak")  # fmt: skip
HEADING = ["", "median ms", "95 % interval", "p95 ms", "per s", "per min", "images/s", "MP/s", "MiB", "samples"]
MEMORY = ("host_peak_mib", "host_peak_growth_mib", "device_peak_mib", "device_peak_growth_mib")


def number(value: object) -> str:
    """Three significant digits, without exponents."""
    if isinstance(value, int) or not isinstance(value, float):
        return "" if value is None else str(value)
    if value == 0 or abs(value) >= 100:
        return f"{value:.0f}"
    return f"{value:.{max(0, 2 - _magnitude(value))}f}"


def _magnitude(value: float) -> int:
    return int(f"{abs(value):.0e}".partition("e")[2])


def label(measurement: Measurement) -> str:
    """What was measured, as a reader would say it."""
    facts = measurement.facts
    parts = [measurement.name]
    if "side_px" in facts:
        parts.append(f"{facts['side_px']} px")
    if facts.get("batch", 1) != 1:
        parts.append(f"x {facts['batch']}")
    parts += [str(facts[name]) for name in ("device", "precision") if name in facts]
    return " ".join(parts) + _doubt(measurement)


def row_name(report: Report, measurement: Measurement) -> str:
    """What a row or a bar of this report is called."""
    return label(measurement) if report.kind == "sweep" else measurement.name + _doubt(measurement)


def _doubt(measurement: Measurement) -> str:
    """Says of samples that they are not of whole work, or not of this run of the graph."""
    return f" ({measurement.status})" if measurement.samples_ms and measurement.status != MEASURED else ""


def _rows(report: Report) -> list[list[str]]:
    rows = []
    for entry in report.measurements:
        found = entry.statistics()
        what = row_name(report, entry)
        if not found:
            rows.append([what, entry.status, *[""] * 8])
            continue
        interval = f"{number(found['low_ms'])}-{number(found['high_ms'])}"
        memory = entry.memory.get("device_peak_growth_mib", entry.memory.get("host_peak_growth_mib"))
        rows.append([
            what, number(found["median_ms"]), interval, number(found["p95_ms"]), number(found["per_second"]), number(found["per_minute"]),
            number(found.get("images_per_s")), number(found.get("megapixels_per_s")), number(memory), str(len(entry.samples_ms)),
        ])  # fmt: skip
    return rows


def _head(report: Report) -> list[str]:
    """What it is, and where and when it was measured."""
    environment = report.environment
    if not environment:
        return [report.title]
    return [
        report.title,
        f"{environment.get('device_name', '')}, torch {environment.get('torch', '?')}, {environment.get('date', '')}",
    ]


def short_text(report: Report) -> str:
    """The report in as little as fits on a node."""
    columns = (0, 1, 5)
    rows = [[row[index] for index in columns] for row in (HEADING, *_rows(report))]
    return "\n".join([*_head(report), "", markdown.table(rows) if len(rows) > 1 else "Nothing was measured."])


def text_table(report: Report) -> str:
    """The report to read: where, how fast, and every note."""
    rows = _rows(report)
    body = [markdown.table([HEADING, *rows])] if rows else ["Nothing was measured."]
    remarks = [f"{label(entry)}: {entry.note}" for entry in report.measurements if entry.note]
    breakdown = ["", _breakdown(report.extras["breakdown"])] if "breakdown" in report.extras else []
    extras = [
        f"{name}: {', '.join(f'{key} {number(value)}' for key, value in facts.items())}"
        for name, facts in report.extras.items()
        if name != "breakdown"
    ]
    notes = [f"- {note}" for note in (*extras, *dict.fromkeys(remarks), *report.notes)]
    return "\n".join([*_head(report), "", *body, *breakdown, "", *notes]).strip()


def _breakdown(rows: Mapping[str, Mapping[str, float]]) -> str:
    """Where the time of the last run went, after Table 1 of SnapFusion (arXiv 2306.00980)."""
    heading = ["last run", "ms each", "runs", "total ms", "share"]
    body = [
        [name, *(number(row[key]) for key in ("each_ms", "runs", "total_ms")), f"{row['share_percent']:.1f} %"]
        for name, row in rows.items()
    ]
    return markdown.table([heading, *body])


def csv_text(report: Report) -> str:
    """One row a measurement, all numbers in full."""
    sink = io.StringIO()
    writer = csv.DictWriter(sink, [*COLUMNS, *MEMORY, "note"], lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    for entry in report.measurements:
        writer.writerow({
            **entry.facts, **entry.statistics(), **entry.memory, "name": entry.name, "status": entry.status,
            "samples": len(entry.samples_ms), "warmup": len(entry.warmup_ms), "note": entry.note,
        })  # fmt: skip
    return sink.getvalue()

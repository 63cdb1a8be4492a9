"""Nodes that show a report, keep it, hold it against the user's own past, and compare two."""

from typing import Any

import torch
from comfy_api.latest import io, ui

from ..engine.errors import HotpathError, InvalidInput
from ..engine.probe import history
from ..engine.probe.chart import THEMES, draw
from ..engine.probe.compare import compare_reports
from ..engine.probe.comparison_chart import draw_comparison
from ..engine.probe.report import Report, write_text
from ..engine.probe.table import csv_text, short_text, text_table
from . import probe_host as host
from . import wires
from .concept_host import file_name, tell
from .host import log
from .probe import CATEGORY

ON_THE_WIRE = "on the wire"


def _theme() -> io.Combo.Input:
    return io.Combo.Input("theme", options=list(THEMES), default="light", tooltip="Colours of the chart.")


def _shown(node: type[io.ComfyNode], chart: torch.Tensor, text: str, short: str = "") -> dict:
    """The short form of the text on the node at once, chart and text below it when it is done."""
    tell(node, short or text)
    return {**ui.PreviewImage(chart, cls=node).as_dict(), **ui.PreviewText(text).as_dict()}


class ProbeReport(io.ComfyNode):
    """Report to chart, table and files."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Hotpath_ProbeReport",
            display_name="Probe Report",
            category=CATEGORY,
            description="Shows a report as a chart and a table, keeps it as JSON and CSV in the output folder, and holds it against your past runs.",
            is_output_node=True,
            hidden=[io.Hidden.unique_id],
            inputs=[
                wires.REPORT.Input("report", tooltip="From Probe Model, Probe Stop or Throughput Sweep."),
                io.String.Input("name", default="probe", tooltip="Name of the files in output/hotpath/reports; empty: no files."),
                _theme(),
                io.Boolean.Input("history", default=True, tooltip="Remember this run in ComfyUI's user folder and say where it stands among earlier ones."),
                io.AnyType.Input("after", optional=True, tooltip="For Probe Model: wire what the sampler made, so that the report is read after it."),
            ],
            outputs=[
                io.Image.Output("chart", display_name="IMAGE", tooltip="The chart, 800 px wide."),
                io.String.Output("table", display_name="table", tooltip="The report as text."),
                io.AnyType.Output("passed", display_name="after", tooltip="What came in at 'after'."),
            ],
        )  # fmt: skip

    @classmethod
    def fingerprint_inputs(cls, **_: object) -> float:
        return float("nan")  # a report grows while a graph runs

    @classmethod
    def execute(cls, report: Any, name: str, theme: str, history: bool, after: Any = None) -> io.NodeOutput:
        found: Report = report.current(host.prompt_id())
        if history and found.compared:
            found = remembered(found)
        if name.strip():
            found = found.with_notes(*kept(found, file_name(name)))
        table = text_table(found)
        chart = draw(found, theme)[None]
        return io.NodeOutput(chart, table, after, ui=_shown(cls, chart, table, short_text(found)))


def remembered(report: Report) -> Report:
    """The report with what the past says to it, and the past with the report."""
    path = host.history_file()
    past, damage = history.read(path)
    notes = [damage, *history.against_past(report, past)]
    try:
        history.append(path, report)
    except HotpathError as error:
        notes.append(str(error))
    return report.with_notes(*notes)


def kept(report: Report, name: str) -> list[str]:
    """Writes the JSON and the CSV; a sentence for what could not be written."""
    folder = host.reports_folder()
    try:
        write_text(folder / f"{name}.json", report.to_json())
        write_text(folder / f"{name}.csv", csv_text(report))
    except HotpathError as error:
        log.warning("%s", error)
        return [str(error)]
    return []


class CompareReports(io.ComfyNode):
    """Two reports to a verdict."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Hotpath_CompareReports",
            display_name="Compare Reports",
            category=CATEGORY,
            description="Says whether the second of two reports is faster or slower than the first, by how much, and how sure that is.",
            is_output_node=True,
            hidden=[io.Hidden.unique_id],
            inputs=[
                wires.REPORT.Input("second", tooltip="The report to judge."),
                io.Combo.Input(
                    "first_file", options=[ON_THE_WIRE, *host.report_files()], default=ON_THE_WIRE,
                    tooltip="What to compare with: the report on the wire 'first', or one that Probe Report has kept.",
                ),
                _theme(),
                wires.REPORT.Input("first", optional=True, tooltip="The report to compare with."),
                io.AnyType.Input("after", optional=True, tooltip="For reports of Probe Model: wire what both samplers made, as one batch, so that the reports are read after them."),
            ],
            outputs=[
                io.Image.Output("chart", display_name="IMAGE", tooltip="Differences in percent with their limits."),
                io.String.Output("verdict", display_name="verdict", tooltip="The comparison in words."),
                io.Boolean.Output("slower", display_name="slower", tooltip="Whether the second is slower, beyond noise."),
            ],
        )  # fmt: skip

    @classmethod
    def validate_inputs(cls, first_file: str | None) -> bool | str:
        """A name that comes over a link is None here, and known only when the node runs."""
        return (
            first_file in (None, ON_THE_WIRE)
            or first_file in host.report_files()
            or f"Expected a report in {host.reports_folder()}, got '{first_file}': choose another."
        )

    @classmethod
    def fingerprint_inputs(cls, **_: object) -> float:
        return float("nan")

    @classmethod
    def execute(cls, second: Any, first_file: str, theme: str, first: Any = None, after: Any = None) -> io.NodeOutput:
        if first_file == ON_THE_WIRE and first is None:
            raise InvalidInput("Expected a report to compare with, got none: wire 'first', or choose a file.")
        now = host.prompt_id()
        before: Report = first.current(now) if first_file == ON_THE_WIRE else host.saved_report(first_file)
        comparison = compare_reports(before, second.current(now))
        text, chart = comparison.text(), draw_comparison(comparison, theme)[None]
        slower = bool(comparison.overall and comparison.overall.claims and comparison.overall.percent > 0)
        return io.NodeOutput(chart, text, slower, ui=_shown(cls, chart, text))


NODES = [ProbeReport, CompareReports]

"""A report as a picture of 800 px width: light or dark, colours that colour-blind readers can tell apart, units on every axis."""

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .plain_chart import plain_chart
from .report import Measurement, Report
from .table import number, row_name

WIDTH_PX, DPI = 800, 100
THEMES = {
    "light": {"back": "#ffffff", "front": "#1a1a1a", "faint": "#d0d0d0"},
    "dark": {"back": "#17191c", "front": "#ececec", "faint": "#45494f"},
}
# Okabe and Ito's palette without black and yellow, which one of the two backgrounds swallows; markers tell lines apart in grey.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")
DARK_COLOURS = ("#56B4E9", "#E69F00", "#2CC295", "#E08FC0", "#8FA8FF", "#FF7F45")
MARKERS = ("o", "s", "^", "D", "v", "P")
LOG_FROM = 20  # a scale is logarithmic when the largest value is this many times the smallest
NO_MATPLOTLIB = (
    "Charts are drawn by matplotlib, which is not installed: the table is shown; `pip install matplotlib` brings charts."
)


def draw(report: Report, theme: str = "light") -> Tensor:
    """The report's chart as [H, 800, 3] in 0..1; its table as a picture where matplotlib is missing or nothing was measured."""
    if report.measured and matplotlib_is_here():
        return figure_tensor(_figure(report, theme), THEMES[theme]["back"])
    notes = () if matplotlib_is_here() else (NO_MATPLOTLIB,)
    colours = THEMES[theme]
    return plain_chart(report.with_notes(*notes), colours["back"], colours["front"], WIDTH_PX)


def matplotlib_is_here() -> bool:
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        return False
    return True


def _figure(report: Report, theme: str) -> Any:
    from matplotlib.figure import Figure

    sides = {entry.facts.get("side_px") for entry in report.measured}
    lines = report.kind == "sweep" and len(sides) > 1
    rows = len(report.measured)
    figure = Figure(figsize=(WIDTH_PX / DPI, 4.9 if lines else 1.6 + 0.42 * rows), dpi=DPI, layout="constrained")
    axes = figure.add_subplot()
    (_lines if lines else _bars)(axes, report, theme)
    _dress(figure, axes, report, theme)
    return figure


def _dress(figure: Any, axes: Any, report: Report, theme: str) -> None:
    """Title, where it was measured, and colours."""
    colours, environment = THEMES[theme], report.environment
    figure.set_facecolor(colours["back"])
    axes.set_facecolor(colours["back"])
    axes.set_title(report.title, loc="left", color=colours["front"], fontsize=13, fontweight="bold")
    where = f"{environment.get('device_name', 'unknown device')}, torch {environment.get('torch', '?')}, {str(environment.get('date', ''))[:10]}"
    figure.supxlabel(where, x=0.99, ha="right", fontsize=9, color=colours["front"])
    axes.tick_params(colors=colours["front"], which="both", labelsize=10.5)
    for name, spine in axes.spines.items():
        spine.set_visible(name in ("left", "bottom"))
        spine.set_color(colours["front"])
    for axis in (axes.xaxis, axes.yaxis):
        axis.label.set_color(colours["front"])
        axis.label.set_size(11)
    axes.grid(True, color=colours["faint"], linewidth=0.6)
    axes.set_axisbelow(True)
    if legend := axes.get_legend():
        legend.get_frame().set(facecolor=colours["back"], edgecolor=colours["faint"])
        for text in legend.get_texts():
            text.set_color(colours["front"])


def _series(entry: Measurement) -> tuple:
    return tuple(entry.facts.get(name) for name in ("workload", "device", "precision", "batch"))


def _lines(axes: Any, report: Report, theme: str) -> None:
    """Iterations per minute over the side: a line for each series, a band from the 20th to the 80th percentile, crosses for gaps."""
    series = list(dict.fromkeys(_series(entry) for entry in report.measured))
    varying = [index for index in range(4) if index == 0 or len({key[index] for key in series}) > 1]
    palette = COLOURS if theme == "light" else DARK_COLOURS
    rates = [entry.statistics()["per_minute"] for entry in report.measured]
    for index, key in enumerate(series):
        entries = sorted((entry for entry in report.measured if _series(entry) == key), key=lambda entry: entry.facts["side_px"])
        found, sides = [entry.statistics() for entry in entries], [entry.facts["side_px"] for entry in entries]
        colour, marker = palette[index % len(palette)], MARKERS[index % len(MARKERS)]
        name = ", ".join(f"batch {key[i]}" if i == 3 else str(key[i]) for i in varying)
        axes.plot(sides, [value["per_minute"] for value in found], color=colour, marker=marker, label=name, linewidth=2)
        axes.fill_between(
            sides, [6e4 / v["p80_ms"] for v in found], [6e4 / v["p20_ms"] for v in found], color=colour, alpha=0.25, linewidth=0
        )
    gaps = [entry for entry in report.measurements if not entry.samples_ms and "side_px" in entry.facts]
    if gaps:
        floor = min(rates) / 2 if max(rates) / min(rates) >= LOG_FROM else 0
        axes.plot([entry.facts["side_px"] for entry in gaps], [floor] * len(gaps), "x", color=THEMES[theme]["front"],
                  markersize=9, markeredgewidth=2, clip_on=False, label=f"not measured: {', '.join(sorted({entry.status for entry in gaps}))}")  # fmt: skip
    _scale(axes, "y", rates)
    sides = sorted({entry.facts["side_px"] for entry in (*report.measured, *gaps)})
    if sides[-1] / sides[0] >= 4:
        axes.set_xscale("log", base=2)
    axes.set_xticks(sides, [str(side) for side in sides])
    axes.minorticks_off() if len(sides) > 1 else None
    axes.set_xlabel("side of the picture (px)")
    axes.set_ylabel("iterations per minute")
    axes.legend(fontsize=10)


def _scale(axes: Any, which: str, values: Sequence[float]) -> None:
    """Logarithmic where the range asks for it, else from zero; numbers without exponents."""
    from matplotlib.ticker import FuncFormatter, LogLocator

    axis = axes.yaxis if which == "y" else axes.xaxis
    if max(values) / max(min(values), 1e-12) >= LOG_FROM:
        (axes.set_yscale if which == "y" else axes.set_xscale)("log")
        axis.set_major_locator(LogLocator(subs=(1, 2, 5) if max(values) / min(values) < 1e3 else (1,)))
    else:
        (axes.set_ylim if which == "y" else axes.set_xlim)(0, max(values) * 1.12)
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}".replace(",", " ")))


def _bars(axes: Any, report: Report, theme: str) -> None:
    """The median of each measurement in ms, its 95 % limits, and every sample as a dot."""
    palette, front = (COLOURS if theme == "light" else DARK_COLOURS), THEMES[theme]["front"]
    entries = report.measured
    found = [entry.statistics() for entry in entries]
    medians = [value["median_ms"] for value in found]
    top = [max(value["p95_ms"], value["high_ms"]) for value in found]
    logarithmic = max(top) / max(min(value["min_ms"] for value in found), 1e-12) >= LOG_FROM * 5
    rows = range(len(entries))[::-1]
    axes.barh(list(rows), medians, color=palette[0], height=0.62, alpha=0.85)
    errors = [[m - value["low_ms"] for m, value in zip(medians, found, strict=True)], [value["high_ms"] - m for m, value in zip(medians, found, strict=True)]]  # fmt: skip
    axes.errorbar(medians, list(rows), xerr=errors, fmt="none", ecolor=front, capsize=4, linewidth=1.5)
    random = np.random.default_rng(0)
    for row, entry, value in zip(rows, entries, found, strict=True):
        shown = [ms for ms in entry.samples_ms if ms <= value["p95_ms"] * 1.0001]
        axes.plot(shown, row + random.uniform(-0.2, 0.2, len(shown)), ".", color=palette[1], markersize=4, alpha=0.7)
        rate = f"{number(medians[len(entries) - 1 - row])} ms"
        axes.annotate(
            rate,
            (top[len(entries) - 1 - row], row),
            xytext=(8, 0),
            textcoords="offset points",
            va="center",
            color=front,
            fontsize=10,
        )
    axes.set_yticks(list(rows), [row_name(report, entry) for entry in entries])
    axes.set_xlabel("ms (bar: median, line: its 95 % limits, dots: samples to p95)")
    _scale(axes, "x", [min(medians), max(top) * 1.1] if logarithmic else [max(top), max(top) * 1.1])
    if logarithmic:
        axes.set_xlim(min(value["min_ms"] for value in found) / 2, max(top) * 6)


def figure_tensor(figure: Any, background: str) -> Tensor:
    """A matplotlib figure as [H, W, 3] in 0..1."""
    sink = io.BytesIO()
    figure.savefig(sink, format="png", facecolor=background)
    picture = Image.open(sink).convert("RGB")
    return torch.from_numpy(np.asarray(picture, np.float32) / 255)

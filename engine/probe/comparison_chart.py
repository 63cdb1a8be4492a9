"""Differences between two reports as a picture."""

from torch import Tensor

from .chart import COLOURS, DARK_COLOURS, DPI, NO_MATPLOTLIB, THEMES, WIDTH_PX, figure_tensor, matplotlib_is_here
from .compare import Comparison, Verdict
from .plain_chart import plain_text
from .table import label


def _word(verdict: Verdict) -> str:
    if not verdict.claims:
        return ", not told from noise"
    return ", slower" if verdict.percent > 0 else ", faster"


def draw_comparison(comparison: Comparison, theme: str = "light") -> Tensor:
    """[H, 800, 3] in 0..1: percent of time more or less for each pair, with its limits; words where matplotlib is missing."""
    colours = THEMES[theme]
    rows = [(label(second), verdict) for _, second, verdict in comparison.pairs if verdict.low_percent or verdict.high_percent]
    if not rows or not matplotlib_is_here():
        lines = [*comparison.text().splitlines(), *(() if matplotlib_is_here() else (NO_MATPLOTLIB,))]
        return plain_text("Comparison", lines, colours["back"], colours["front"], WIDTH_PX)
    if comparison.overall is not None and len(rows) > 1:
        rows.append(("all together", comparison.overall))
    from matplotlib.figure import Figure

    palette = COLOURS if theme == "light" else DARK_COLOURS
    figure = Figure(figsize=(WIDTH_PX / DPI, 1.5 + 0.42 * len(rows)), dpi=DPI, layout="constrained", facecolor=colours["back"])
    axes = figure.add_subplot(facecolor=colours["back"])
    for row, (_, verdict) in zip(range(len(rows))[::-1], rows, strict=True):
        colour, marker = (
            (palette[5], ">")
            if verdict.claims and verdict.percent > 0
            else (palette[2], "<")
            if verdict.claims
            else (palette[0], "o")
        )
        ends = [[max(0.0, verdict.percent - verdict.low_percent)], [max(0.0, verdict.high_percent - verdict.percent)]]
        axes.errorbar([verdict.percent], [row], xerr=ends, fmt=marker, color=colour, capsize=5, linewidth=2, markersize=8)
        axes.annotate(f"{verdict.percent:+.1f} %{_word(verdict)}", (verdict.percent, row), xytext=(0, 9), textcoords="offset points", ha="center", color=colours["front"], fontsize=10)  # fmt: skip
    axes.axvline(0, color=colours["front"], linewidth=1)
    axes.set_yticks(list(range(len(rows))[::-1]), [name for name, _ in rows])
    axes.set_ylim(-0.6, len(rows) - 0.3)
    axes.set_xlabel("time more (+) or less (-) than in the first report (%), with limits", fontsize=10.5, color=colours["front"])
    axes.margins(x=0.12)
    axes.set_title("Second report against the first", loc="left", fontsize=13, fontweight="bold", color=colours["front"])
    axes.tick_params(colors=colours["front"], labelsize=10.5)
    axes.grid(True, axis="x", color=colours["faint"], linewidth=0.6)
    for name, spine in axes.spines.items():
        spine.set_visible(name == "bottom")
        spine.set_color(colours["front"])
    return figure_tensor(figure, colours["back"])

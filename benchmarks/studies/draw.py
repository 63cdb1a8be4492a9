"""Draws every study's newest rows: a table and a picture each, into benchmarks/README.md and benchmarks/studies/*.png.

python -m hotpath.benchmarks.studies.draw

Values are means over seeds and targets; ± is the standard deviation over seeds of the mean over targets.
"""

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import mean, stdev

from hotpath.benchmarks.record import RESULTS, ROOT

PAGE, PICTURES = ROOT / "benchmarks" / "README.md", ROOT / "benchmarks" / "studies"
BLUE, ORANGE = "#0072B2", "#D55E00"  # of Okabe and Ito's palette, told apart by everybody
MARK = "<!-- drawn by hotpath.benchmarks.studies.draw: {} -->"
Row = dict


def newest(study: str) -> list[Row]:
    """The newest row of each seed that was run like the last one: scale, targets, base."""
    rows = [json.loads(line) for line in RESULTS.read_text(encoding="utf-8").splitlines()]
    rows = [row for row in rows if row["benchmark"] == f"study_{study}"]
    same = [row for row in rows if all(row.get(key) == rows[-1].get(key) for key in ("scale", "targets", "base"))]
    return sorted({row["seed"]: row for row in same}.values(), key=lambda row: row["seed"])


def gathered(rows: Iterable[Row], keys: Sequence[str], values: Sequence[str]) -> dict[tuple, dict[str, list[float]]]:
    """For each setting, one number a seed for each value: the mean over targets."""
    found: dict[tuple, dict[str, list[float]]] = {}
    for row in rows:
        groups: dict[tuple, list[Row]] = defaultdict(list)
        for run in row["runs"]:
            groups[tuple(run[key] for key in keys)].append(run)
        for setting, runs in groups.items():
            for value in values:
                found.setdefault(setting, {}).setdefault(value, []).append(mean(float(run[value]) for run in runs))
    return found


def told(numbers: Sequence[float], digits: int) -> str:
    spread = f" ± {stdev(numbers):.{digits}f}" if len(numbers) > 1 else ""
    return f"{mean(numbers):.{digits}f}{spread}"


def table(found: dict[tuple, dict[str, list[float]]], heads: Sequence[str], digits: dict[str, int]) -> str:
    lines = ["| " + " | ".join([*heads, *digits]) + " |", "|" + "---|" * (len(heads) + len(digits))]
    for setting, values in found.items():
        cells = [*map(str, setting), *(told(values[name], places) for name, places in digits.items())]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def conditions(rows: Sequence[Row]) -> str:
    first, scale = rows[0], ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in rows[0]["scale"].items())
    return (
        f"Scaled study: {scale}; targets {', '.join(first['targets'])}; seeds {', '.join(str(row['seed']) for row in rows)}; "
        f"{first['device']}, torch {first['torch']}."
    )


def bars(name: str, title: str, found: dict[tuple, dict[str, list[float]]], shown: Sequence[str]) -> None:
    """Two values of each setting, seeds as dots."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    labels = [" ".join(map(str, setting)) for setting in found]
    figure, axes = plt.subplots(1, 2, figsize=(8, 0.9 + 0.36 * len(labels)), sharey=True, layout="constrained")
    for axis, value, colour in zip(axes, shown, (BLUE, ORANGE), strict=True):
        for place, values in enumerate(found.values()):
            numbers = values[value]
            axis.barh(place, mean(numbers), color=colour, alpha=0.35, height=0.6)
            axis.plot(numbers, [place] * len(numbers), "o", color=colour, markersize=5)
        low = min(min(values[value]) for values in found.values())
        high = max(max(values[value]) for values in found.values())
        start = max(0.0, low - 0.6 * (high - low))
        axis.set_xlim(start, high + 0.1 * (high - low))
        cut = "; not from 0" if start else ""
        axis.set_xlabel(f"{LABELS[value]} (less is better{cut})", fontsize=8)
        axis.grid(axis="x", alpha=0.3)
    axes[0].set_yticks(range(len(labels)), labels)
    axes[0].invert_yaxis()
    figure.suptitle(title, fontsize=11)
    figure.savefig(PICTURES / f"{name}.png", dpi=100)
    plt.close(figure)


def lines(name: str, title: str, found: dict[tuple, dict[str, list[float]]]) -> None:
    """LPIPS and KID over the share of the pairs, a line for each way of choosing them."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    whole = next(values for (way, share), values in found.items() if share == 100)
    figure, axes = plt.subplots(1, 2, figsize=(8, 3.4), layout="constrained")
    for axis, value in zip(axes, ("lpips", "kid"), strict=True):
        for way, colour, sign in (("clusters", BLUE, "o"), ("random", ORANGE, "s")):
            points = {share: values[value] for (kind, share), values in found.items() if kind == way} | {100: whole[value]}
            spread = [stdev(numbers) if len(numbers) > 1 else 0.0 for numbers in points.values()]
            axis.errorbar(
                list(points), [mean(n) for n in points.values()], spread, marker=sign, color=colour, label=way, capsize=3
            )
        axis.set_xscale("log")
        axis.set_xticks(sorted(points), [f"{share} %" for share in sorted(points)])
        axis.minorticks_off()
        axis.set_xlabel("share of the pairs (log scale)")
        axis.set_ylabel(f"held-out {value.upper()}, less is better")
        axis.grid(alpha=0.3)
    axes[0].legend()
    figure.suptitle(title, fontsize=11)
    figure.savefig(PICTURES / f"{name}.png", dpi=100)
    plt.close(figure)


SCORES = {"lpips": 4, "kid": 4}
LABELS = {"lpips": "held-out LPIPS", "kid": "held-out KID", "seconds": "seconds of training"}
STUDIES = {  # study -> keys of a setting, their heads, digits of the values, title
    "bases": (("base",), ("base trained on",), SCORES, "What a base is trained on"),
    "ranks": (("scheme",), ("ranks",), {"numbers": 0, **SCORES}, "Ranks of a concept"),
    "data": (("way", "share"), ("pairs chosen by", "share, %"), {"pairs": 0, **SCORES}, "How many pairs a concept needs"),
    "cost": (
        ("kind",), ("training",), {"reached": 2, "steps": 0, "seconds": 1, "tflop": 2, "numbers": 0, **SCORES}, "Cost to an equal score",
    ),
    "layers": (("layers",), ("layers with LoRA",), {"numbers": 0, **SCORES}, "Which layers carry a concept"),
}  # fmt: skip


def replaced(page: str, study: str, text: str) -> str:
    """The page with what stands between a study's two marks exchanged."""
    mark = MARK.format(study)
    before, _, rest = page.partition(mark)
    _, _, after = rest.partition(mark)
    return f"{before}{mark}\n\n{text}\n\n{mark}{after}"


def main() -> None:
    page = PAGE.read_text(encoding="utf-8")
    for study, (keys, heads, digits, title) in STUDIES.items():
        rows = newest(study)
        if not rows:
            page = replaced(page, study, "Not yet run.")
            continue
        found = gathered(rows, keys, tuple(digits))
        if study == "data":
            lines(study, title, found)
        else:
            bars(study, title, found, ("seconds", "lpips") if study == "cost" else ("lpips", "kid"))
        text = f"{conditions(rows)}\n\n{table(found, heads, digits)}\n\n![{title}](studies/{study}.png)"
        page = replaced(page, study, text)
    Path(PAGE).write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()

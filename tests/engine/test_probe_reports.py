"""Reports survive the disk, and their views say it all."""

from __future__ import annotations

import csv
import io
import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hotpath.engine.errors import InvalidInput, NotWritten
from hotpath.engine.probe import chart, comparison_chart, history
from hotpath.engine.probe.compare import compare_reports
from hotpath.engine.probe.report import Measurement, from_json, load, write_text
from hotpath.engine.probe.table import csv_text, number, short_text, text_table
from hotpath.tests.engine.probe_samples import measurement, report, run_of_samples

# ---- on disk


def test_a_report_survives_the_disk(tmp_path: Path) -> None:
    before = report(measurement((10.0, 20.0, 30.0)), Measurement("vgg19", status="memory", note="too large"), notes=("a note",))
    write_text(tmp_path / "new" / "r.json", before.to_json())
    after = load(tmp_path / "new" / "r.json")
    assert after == before
    facts = json.loads(before.to_json())
    assert facts["format"] == "hotpath.probe.report"
    statistics = facts["measurements"][0]["statistics"]
    assert statistics["per_minute"] == 3000
    assert statistics["megapixels_per_s"] == pytest.approx(50 * 64**2 / 1e6)
    assert statistics["percent_of_peak"] == pytest.approx(5)
    assert os.listdir(tmp_path / "new") == ["r.json"]


@pytest.mark.parametrize(
    "text", ["", "{}", "[]", '{"format": "other", "version": 1}', report(measurement((1.0,))).to_json().replace('"measured"', '"odd"'),
             report(measurement((1.0,))).to_json().replace("1.0", "NaN")],
)  # fmt: skip
def test_damaged_reports_are_refused_in_a_sentence(text: str) -> None:
    with pytest.raises(InvalidInput, match=r"r\.json"):
        from_json(text, "r.json")


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(NotWritten, match="make the folder writable"):
        write_text(tmp_path / "file" / "r.json", "{}")
    with pytest.raises(NotWritten, match="make the folder writable"):
        history.append(tmp_path / "file" / "h.jsonl", report(measurement((1.0,))))


# ---- views


def test_the_table_and_the_csv_say_it_all() -> None:
    gap = Measurement("vgg19", status="memory", note="left out: needs 9 GiB", facts={"side_px": 4096})
    shown = report(
        measurement(tuple(float(ms) for ms in range(10, 31))),
        gap,
        notes=("Mind this.",),
        extras={"energy": {"energy": "not offered"}},
    )
    text = text_table(shown)
    for words in ("a processor", "nin 64 px cpu float32", "3000", "memory", "needs 9 GiB", "Mind this.", "energy not offered"):
        assert words in text
    assert [len(line.split("|")) for line in text.splitlines() if line.startswith("|")] == [12, 12, 12, 12]
    assert "3000" in short_text(shown)
    assert "needs 9 GiB" not in short_text(shown)
    rows = list(csv.DictReader(io.StringIO(csv_text(shown))))
    assert [row["status"] for row in rows] == ["measured", "memory"]
    assert float(rows[0]["median_ms"]) == 20
    assert "Nothing was measured" in text_table(report())
    assert [number(value) for value in (0.01234, 1.5, 250.4, 12345.6, 3, None, "x")] == [
        "0.0123",
        "1.50",
        "250",
        "12346",
        "3",
        "",
        "x",
    ]


def luminance(picture: torch.Tensor) -> float:
    return float(picture.mean())


@pytest.mark.parametrize("there", [True, False], ids=["matplotlib", "without matplotlib"])
@pytest.mark.parametrize("theme", list(chart.THEMES))
def test_charts_are_drawn_with_and_without_a_plotting_library(monkeypatch: pytest.MonkeyPatch, there: bool, theme: str) -> None:
    if there:
        pytest.importorskip("matplotlib")
    monkeypatch.setattr(chart, "matplotlib_is_here", lambda: there)
    monkeypatch.setattr(comparison_chart, "matplotlib_is_here", lambda: there)
    samples = run_of_samples(np.random.default_rng(0), count=30)
    gap = Measurement("nin", status="time", facts={**measurement(()).facts, "side_px": 1024})
    lines = report(measurement(samples), measurement(tuple(30 * ms for ms in samples), side=256), gap)
    bars = replace(lines, kind="model", measurements=lines.measurements[:1])
    for drawn in (chart.draw(lines, theme), chart.draw(bars, theme), chart.draw(report(), theme),
                  comparison_chart.draw_comparison(compare_reports(lines, lines), theme)):  # fmt: skip
        assert drawn.shape[1:] == (800, 3)
        assert 60 <= drawn.shape[0] <= 1200
        assert (luminance(drawn) > 0.6) == (theme == "light")
        assert drawn.std() > 0.03

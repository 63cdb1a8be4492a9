"""Statistics that admit noise, reports that survive the disk, a past that cannot be lost, and views of them."""

from __future__ import annotations

import csv
import io
import json
import os
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hotpath.engine.errors import InvalidInput, NotWritten
from hotpath.engine.probe import chart, comparison_chart, history
from hotpath.engine.probe.compare import BETWEEN_RUNS, compare_reports, compare_samples
from hotpath.engine.probe.report import Measurement, Report, from_json, load, write_text
from hotpath.engine.probe.statistics import limits, paired_difference, summary, warmup_length
from hotpath.engine.probe.table import csv_text, number, short_text, text_table

RUNS = 40


def run_of_samples(
    random: np.random.Generator,
    *,
    count: int = 200,
    between: float = 0.006,
    within: float = 0.03,
    rho: float = 0.5,
    ms: float = 20,
) -> tuple[float, ...]:
    """Samples as timers give them: a level of the run's own, noise like its neighbours, and now and then something slow."""
    noise = np.zeros(count)
    shocks = random.normal(0, within, count)
    for index in range(count):
        noise[index] = rho * noise[index - 1] + shocks[index] if index else shocks[0]
    slow = (random.random(count) < 0.05) * random.exponential(0.4, count)
    return tuple(ms * np.exp(random.normal(0, between) + noise) * (1 + slow))


def measurement(samples: tuple[float, ...], name: str = "nin", side: int = 64, **facts: object) -> Measurement:
    facts = {"workload": name, "side_px": side, "batch": 1, "device": "cpu", "precision": "float32", **facts}
    return Measurement(name, samples, facts=facts, images=1, pixels=side**2, flops=10**9, peak_flops_per_s=1e12)


def report(*measurements: Measurement, **fields: object) -> Report:
    environment = {"device_name": "a processor", "threads": 2, "torch": "2.11", "date": "2026-11-22T00:00:00Z"}
    return Report(
        "sweep", "Throughput sweep", measurements, **{"environment": environment, "workload": {"seconds": 1.0}, **fields}
    )


# ---- whether two runs differ


@pytest.mark.parametrize("rho", [0.0, 0.5, 0.7])
def test_equal_work_is_called_equal_and_a_planted_slow_down_is_found(rho: float) -> None:
    random = np.random.default_rng(int(10 * rho))
    runs = [run_of_samples(random, rho=rho, within=0.03 * (1 - rho)) for _ in range(RUNS + 1)]
    false = sum(compare_samples(a, b).claims for a, b in pairwise(runs))
    found = [compare_samples(a, [1.05 * ms for ms in b]) for a, b in pairwise(runs)]
    assert false <= 0.05 * RUNS
    assert sum(verdict.claims and verdict.percent > 0 for verdict in found) >= 0.9 * RUNS
    assert all("slower by" in verdict.sentence for verdict in found if verdict.claims)


def test_noise_that_comes_in_stretches_is_not_called_a_difference() -> None:
    """Strongly autocorrelated samples: a test for independent samples claims a difference in most of these runs."""
    random = np.random.default_rng(5)
    runs = [run_of_samples(random, rho=0.95, within=0.02) for _ in range(RUNS + 1)]
    naive = 0
    for a, b in pairwise(runs):
        spread = (np.var(a) / len(a) + np.var(b) / len(b)) ** 0.5
        naive += abs(np.mean(a) - np.mean(b)) > 1.96 * spread
    assert naive > 0.3 * RUNS
    assert sum(compare_samples(a, b).claims for a, b in pairwise(runs)) <= 0.05 * RUNS


def test_a_busy_neighbour_is_not_a_regression() -> None:
    random = np.random.default_rng(1)
    calm, busy = run_of_samples(random), tuple(1.2 * ms for ms in run_of_samples(random))
    first, second = (report(measurement(samples, others_percent=share)) for samples, share in ((calm, 1.0), (busy, 30.0)))
    assert not compare_reports(first, second).pairs[0][2].claims
    second = report(measurement(busy, others_percent=1.0))
    assert compare_reports(first, second).pairs[0][2].claims


def test_many_points_together_claim_no_more_than_one() -> None:
    random, false = np.random.default_rng(2), 0
    for _ in range(20):
        first, second = (
            report(*(measurement(run_of_samples(random, count=60), side=side) for side in (64, 128, 256, 512))) for _ in range(2)
        )
        comparison = compare_reports(first, second)
        false += any(verdict.claims for *_, verdict in comparison.pairs) or comparison.overall.claims
    assert false <= 2


def test_few_samples_claim_nothing() -> None:
    verdict = compare_samples([1.0] * 5, [9.0] * 50)
    assert (verdict.claims, "too few samples" in verdict.sentence) == (False, True)


def test_reports_are_paired_by_what_they_are_of() -> None:
    samples = run_of_samples(np.random.default_rng(3))
    slow = tuple(1.3 * ms for ms in samples)
    first = report(measurement(samples), measurement(samples, side=128))
    text = compare_reports(first, report(measurement(slow), measurement(slow, side=512))).text()
    assert "slower by 30.0 %" in text
    assert "Only in the first report: nin 128 px" in text
    assert "Only in the second report: nin 512 px" in text
    other = replace(report(measurement(slow, precision="bfloat16")), environment={**first.environment, "torch": "2.12"})
    text = compare_reports(first, other).text()
    assert "nin 64 px cpu float32 -> nin 64 px cpu bfloat16" in text
    assert "Another torch: 2.11 and 2.12." in text
    assert "no measurement in common" in compare_reports(first, report(measurement(samples, name="vgg19"))).text()
    assert "no measurement in common" in compare_reports(report(), first).text()


def test_limits_and_warm_up() -> None:
    random = np.random.default_rng(0)
    inside = sum(
        low < 20 < high
        for low, high in (limits(run_of_samples(random, between=0, rho=0, within=0.05, count=80)) for _ in range(60))
    )
    assert inside >= 50
    assert warmup_length([50.0, 30.0, 10.2, 9.8, 10.1, 10.0, 9.9, 10.0]) == 2
    assert warmup_length([10.0, 10.1, 9.9, 10.0, 10.1, 10.0]) == 0
    assert warmup_length([5.0]) == 0
    assert summary([4.0, 1.0, 2.0, 3.0])["median_ms"] == 2.5
    found = paired_difference([10.0] * 20, [11.0] * 20)
    assert found["percent"] == pytest.approx(10)


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


# ---- the past


def test_a_regression_is_seen_against_the_past(tmp_path: Path) -> None:
    path, random = tmp_path / "user" / "history.jsonl", np.random.default_rng(4)
    for _ in range(5):
        history.append(path, report(measurement(run_of_samples(random))))
    past, damage = history.read(path)
    assert (len(past), damage) == (5, "")
    (same,) = history.against_past(report(measurement(run_of_samples(random))), past)
    assert "no difference that can be told from noise" in same
    assert "5 earlier runs" in same
    slow = replace(report(measurement(run_of_samples(random, ms=24))), environment={**report().environment, "torch": "2.12"})
    (worse,) = history.against_past(slow, past)
    assert "REGRESSION, slower by" in worse
    assert "earlier ones with torch 2.11" in worse
    other = report(measurement(run_of_samples(random), precision="bfloat16"), measurement(run_of_samples(random), side=65))
    assert history.against_past(other, past) == []
    assert history.read(tmp_path / "none.jsonl") == ([], "")


def session(name: str, *measurements: Measurement, **fields: object) -> Report:
    return report(*measurements, environment={**report().environment, "session": name}, **fields)


def test_a_session_that_grows_stands_once_and_is_not_its_own_past(tmp_path: Path) -> None:
    """Each queue gives all samples so far, so rows of one session overlap; a slow-down must not hide behind them."""
    path, random = tmp_path / "history.jsonl", np.random.default_rng(7)
    samples = run_of_samples(random, count=12)
    for count in (6, 9, 12):
        history.append(path, session("a", measurement(samples[:count])))
        assert history.against_past(session("a", measurement(samples[:count])), history.read(path)[0]) == []
    (past,) = history.read(path)[0]
    assert len(past.samples_ms) == 12
    slow = tuple(1.5 * ms for ms in run_of_samples(random, count=30))
    for count in (10, 20, 30):
        new = session("b", measurement(slow[:count]))
        history.append(path, new)
        (sentence,) = history.against_past(new, history.read(path)[0])
        assert "REGRESSION" in sentence
        assert "1 earlier run," in sentence


def test_the_history_keeps_the_newest_of_each_thing_and_does_not_grow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "history.jsonl"
    for index in range(history.KEPT_RUNS + 5):
        history.append(path, session(str(index), measurement((1.0 + index,)), measurement((1.0,), side=128)))
    assert path.read_text().count("\n") == 2 * history.KEPT_RUNS
    small = [run for run in history.read(path)[0] if run.samples_ms != (1.0,)]
    assert [run.samples_ms[0] for run in small] == [float(index) for index in range(6, history.KEPT_RUNS + 6)]
    monkeypatch.setattr(history, "KEPT_LINES", 3)
    history.append(path, session("last", measurement((99.0,))))
    assert path.read_text().count("\n") == 3
    assert history.read(path)[0][-1].samples_ms == (99.0,)


def test_adding_to_a_damaged_history_takes_nothing_away(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    path.write_text("half a li\n")
    for _ in range(3):
        history.append(path, session("a", measurement((1.0,))))
    assert path.read_text().startswith("half a li\n")


def test_lines_without_a_session_are_runs_of_their_own(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    for _ in range(3):
        history.append(path, report(measurement((1.0, 2.0))))
    lines = [{**json.loads(line)} for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps({key: value for key, value in line.items() if key != "session"}) + "\n" for line in lines))
    assert len(history.read(path)[0]) == 3


def test_other_settings_are_no_regression(tmp_path: Path) -> None:
    path, random = tmp_path / "history.jsonl", np.random.default_rng(8)
    work = {"sampler": "euler", "steps": 20, "graph": "a"}
    for index in range(5):
        history.append(path, session(str(index), measurement(run_of_samples(random)), workload=work))
    slow = measurement(run_of_samples(random, ms=40))
    past = history.read(path)[0]
    assert "REGRESSION" in history.against_past(session("x", slow, workload=work), past)[0]
    for other in ({"sampler": "heun"}, {"graph": "b"}):
        assert history.against_past(session("x", slow, workload=work | other), past) == []


def test_interrupted_and_cached_work_is_not_remembered(tmp_path: Path) -> None:
    path, whole = tmp_path / "history.jsonl", measurement((1.0, 2.0))
    history.append(path, report(whole, *(replace(whole, status=status) for status in ("interrupted", "cached"))))
    past = history.read(path)[0]
    assert len(past) == 1
    assert len(history.against_past(report(whole, replace(whole, status="interrupted")), past)) == 1


def test_a_noisy_past_makes_careful(tmp_path: Path) -> None:
    path, random = tmp_path / "history.jsonl", np.random.default_rng(6)
    for level in (18, 20, 22, 19, 23, 21):
        history.append(path, report(measurement(run_of_samples(random, ms=level))))
    (sentence,) = history.against_past(report(measurement(run_of_samples(random, ms=22.5))), history.read(path)[0])
    assert "REGRESSION" not in sentence


def test_a_damaged_history_is_kept_aside(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    history.append(path, report(measurement((1.0, 2.0))))
    whole = path.read_text() + '{"key": "half a li'
    for number_aside in (1, 2):
        path.write_bytes(whole.encode() + b"\xff\xfe\x00")
        past, sentence = history.read(path)
        aside = tmp_path / f"history.damaged-{number_aside}.jsonl"
        assert len(past) == 1
        assert str(aside) in sentence
        assert aside.read_bytes() == whole.encode() + b"\xff\xfe\x00"
        assert history.read(path)[1] == ""


def test_a_damaged_history_that_cannot_be_set_aside_stays_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "history.jsonl"
    history.append(path, report(measurement((1.0, 2.0))))
    whole = path.read_text() + "half a li"
    path.write_text(whole)

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError("the folder is read-only")

    for target, name in ((Path, "write_text"), (os, "replace")):
        with monkeypatch.context() as patch:
            patch.setattr(target, name, refuse)
            past, said = history.read(path)
        assert len(past) == 1, "the good lines count"
        assert "1 lines of the history" in said
        assert "could not be mended (the folder is read-only)" in said
        assert path.read_text() == whole
        assert os.listdir(tmp_path) == ["history.jsonl"]


def test_a_history_that_cannot_be_read_is_said(tmp_path: Path) -> None:
    past, said = history.read(tmp_path)
    assert past == []
    assert "make it readable" in said
    (tmp_path / "file").write_text("in the way")
    assert "make it readable" in history.read(tmp_path / "file" / "history.jsonl")[1]


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


def test_the_assumed_scatter_between_runs_is_small() -> None:
    assert BETWEEN_RUNS <= 0.01, "with more than 1.1 % a slow-down of 5 % cannot be found in nine of ten"

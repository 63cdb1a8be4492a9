"""The past of a measurement: a regression is seen against it, and it cannot be lost."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hotpath.engine.probe import history
from hotpath.engine.probe.report import Measurement, Report
from hotpath.tests.engine.probe_samples import measurement, report, run_of_samples


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


def test_samples_too_short_for_the_clock_are_not_remembered(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    history.append(path, report(measurement((1.0, 2.0)), measurement((0.0, 2.0))))
    past, damage = history.read(path)
    assert (len(past), damage) == (1, "")


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

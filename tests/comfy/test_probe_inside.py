"""Probe Model around a small diffusion model inside ComfyUI's own sampling: it changes nothing, waits for nothing, and tells the truth."""

from __future__ import annotations

import pytest
from hotpath.tests.comfy.outside import good, run_inside
from hotpath.tests.testing import ROOT


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list]:
    return run_inside("probe_program", tmp_path_factory.mktemp("comfy"), ROOT)[0]


def test_the_picture_is_the_same_and_nothing_stays_behind(results: dict[str, list]) -> None:
    assert good(results, "same picture") == [True, True, {}, 0]


def test_off_means_gone(results: dict[str, list]) -> None:
    untouched, note = good(results, "off")
    assert untouched is True
    assert "turn 'enabled' on" in note


def test_the_probe_stands_around_what_is_there(results: dict[str, list]) -> None:
    assert good(results, "order") == ["hotpath_probe", "accelerate"]


def test_the_probe_adds_no_operation_to_the_devices_work(results: dict[str, list]) -> None:
    """The same operations in the same order, those included that make the host wait for a value."""
    equal, _, count = good(results, "operations")
    assert equal is True
    assert count > 1000


def test_the_probe_waits_only_when_the_report_is_read(results: dict[str, list]) -> None:
    made, during, after = good(results, "waits")
    assert made > 50
    assert (during, after) == (0, 1)


def test_stages_are_counted_as_they_happen(results: dict[str, list]) -> None:
    found, passes, steps, text = good(results, "euler")
    assert {name: found[name] for name in ("step", "prediction", "model call", "network", "load", "sampling")} == {
        "step": 4, "prediction": 4, "model call": 4, "network": 4, "load": 1, "sampling": 1,
    }  # fmt: skip
    assert passes == {"passes a prediction": 2.0, "model calls a prediction": 1.0}
    assert steps == {"asked for": 4, "done": 4, "predictions": 4, "runs": 1}
    blocks = [name for name in found if name.startswith("block ")]
    assert len(blocks) == 4 + 1 + 4
    assert all(found[name] == 4 for name in blocks)
    assert "last run" in text
    assert "%" in text
    found, _, steps, _ = good(results, "heun")
    assert (found["step"], found["prediction"], steps["predictions"]) == (4, 7, 7), "Heun looks twice in all steps but the last"
    assert good(results, "no CFG")[1]["passes a prediction"] == 1.0


def test_times_are_true(results: dict[str, list]) -> None:
    outside, sampling, steps, predictions = good(results, "truth")
    assert 0.9 * outside <= sampling <= outside
    assert predictions <= steps <= sampling
    assert steps >= 0.9 * sampling


def test_samples_gather_over_queues_and_the_cost_is_measured(results: dict[str, list]) -> None:
    steps, overhead, runs = good(results, "accumulates")
    assert (steps, runs) == (24, 3)
    assert overhead["percent"] < 1
    assert overhead["ab_pairs"] >= 6
    assert overhead["ab_low_percent"] <= 1


def test_progress_reaches_the_graph(results: dict[str, list]) -> None:
    assert good(results, "callback") == [0, 1, 2, 3]


def test_an_interrupted_run_is_said_and_does_not_spoil_the_next(results: dict[str, list]) -> None:
    measured, notes, left, steps = good(results, "interrupted")
    assert ["step", "interrupted"] in measured
    assert any("interrupted after 2 of 4 steps" in note for note in notes)
    assert left == [0, 0]
    assert steps >= 2


def test_nothing_sampled_is_said(results: dict[str, list]) -> None:
    before, statuses, after, text = good(results, "nothing")
    assert any("Nothing was sampled" in note for note in before)
    assert "empty" in statuses
    assert any("Nothing was sampled" in note for note in after)
    assert "empty" in text


def test_a_sampler_from_the_cache_is_said(results: dict[str, list]) -> None:
    (before, after), text, remembered = good(results, "cached")
    assert remembered is False
    assert (before, after) == (["measured"], ["cached"])
    assert "Cached: ComfyUI answered the sampler" in text
    assert "step (cached)" in text
    assert good(results, "rerun") == [True, False, False]


def test_other_samplers_and_patched_models_are_not_mixed(results: dict[str, list]) -> None:
    same, heun, workload, around, (one, two) = good(results, "another sampler")
    assert same is True
    assert (heun, around) == (8, 8)
    assert (workload["sampler"], workload["guider"], workload["cfg"]) == ("heun", "CFGGuider", 7.0)
    assert "1 run of 8 steps, latent [1, 4, 8, 8], sampler euler" in one
    assert two.count("1 run of") == 3
    assert "around the model" not in one, "nothing is"
    assert "around the model" in two.partition(":")[0]


def test_reports_of_two_models_are_compared_after_both_have_sampled(results: dict[str, list]) -> None:
    early, half, late = good(results, "compared")
    for text, words in ((early, "first"), (early, "second"), (half, "second")):
        assert f"Note of the {words} report: Nothing was sampled" in text
    assert "step -> step: " in late
    assert "Nothing was sampled" not in late


def test_a_seed_changes_no_settings_and_all_else_does(results: dict[str, list]) -> None:
    assert good(results, "graphs") == [True, False, True, False]


def test_a_model_in_the_sweep(results: dict[str, list]) -> None:
    measured, without = good(results, "sweep")
    assert [status for status, *_ in measured] == ["measured"] * 2, measured
    assert all(count >= 1 for _, count, _ in measured)
    assert [status for status, *_ in without] == ["failed"] * 2
    assert "wire both" in without[0][2]

    assert "of a latent [1, 4, 8, 8]" in measured[0][2]


def test_a_model_whose_latents_size_is_not_known_is_refused(results: dict[str, list]) -> None:
    ((status, note),) = good(results, "unknown latent")
    assert status == "failed"
    assert "got one of the format Odd" in note
    known, cell = good(results, "cells")
    assert all(known.values()), known
    assert cell == 8


def test_cancel_reaches_comfyui_and_keeps_what_was_measured(results: dict[str, list]) -> None:
    assert results["cancelled"][0] == "InterruptProcessingException"
    assert results["kept"][1] == ["interrupted_sweep"]


def test_a_sweep_that_is_cut_short_keeps_the_points_before(results: dict[str, list]) -> None:
    points, notes = good(results, "cut short")
    assert points == [[64, "measured"]]
    assert notes == ["Interrupted: the points after the last one were not measured."]


def test_folders_that_cannot_be_written_are_said_and_the_report_is_shown(results: dict[str, list]) -> None:
    chart, text, after, ended = good(results, "read only")
    assert chart[2] == 800
    assert after == "what was made"
    assert "per min" in text
    for words in ("Expected to read the history", "Expected to add to the history", "Expected to write"):
        assert words in text, text
    assert ended == "InterruptProcessingException", "and not that the part could not be kept"

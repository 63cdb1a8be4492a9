"""What a training run does with its minutes, and how it keeps its place: budgets, checkpoints, warnings and what it says of them."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hotpath.engine.e2gan.checkpoint import Base
from hotpath.engine.errors import InvalidInput, NotWritten, WeightsInvalid
from hotpath.tests.testing import digest, tiny_base
from hotpath.tests.training.test_loop import FakeLPIPS
from hotpath.tests.training.test_session import PLAN, finish, some_pairs
from hotpath.training import looks, ranks, session, start
from hotpath.training.loop import Trainer, held_out_losses
from hotpath.training.plan import SCORES, Plan, Update, scores_every, steps_within
from hotpath.training.session import ConceptRun

SMALL = replace(PLAN, batch=1, crop=32, loss_crop=16)


@pytest.fixture
def base(tmp_path: Path) -> Base:
    return tiny_base(tmp_path)


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time by which a run measures its minutes: a step takes `now[1]` s, a scored picture a fifth of it, gains six times it."""
    now = [0.0, 1.0]

    def timed(function: Callable, cost: Callable[..., float]) -> Callable:
        def call(*arguments: object, **named: object) -> object:
            now[0] += now[1] * cost(*arguments)
            return function(*arguments, **named)

        return call

    monkeypatch.setattr(ConceptRun, "clock", staticmethod(lambda: now[0]))
    monkeypatch.setattr(Trainer, "train_step", timed(Trainer.train_step, lambda _: 1.0))
    monkeypatch.setattr(ranks, "_gains", timed(ranks._gains, lambda *_: float(ranks.PROBES)))
    scored = timed(held_out_losses, lambda _, pairs, __: len(pairs.photographs) / 5)
    for module in (looks, ranks, session, start):
        monkeypatch.setattr(module, "held_out_losses", scored)
    return now


def new_run(base: Base, folder: Path, plan: Plan = SMALL, count: int = 10) -> ConceptRun:
    return ConceptRun(base, some_pairs(count), FakeLPIPS(3), plan, folder, torch.device("cpu"))


def in_minutes(minutes: float, **changes: object) -> Plan:
    return replace(SMALL, steps=0, minutes=minutes, **changes)


# ---- minutes


@pytest.mark.parametrize(
    ("minutes", "step_s", "how"),
    [
        (0.4, 0.2, "ranks searched in 1 round (ended by the time)"),
        (0.4, 0.8, "default ranks (no time to search)"),
    ],
)
def test_minutes_are_the_time_in_all(
    base: Base, tmp_path: Path, now: list[float], minutes: float, step_s: float, how: str
) -> None:
    now[1] = step_s
    run = new_run(base, tmp_path / "run", in_minutes(minutes, searched=True), 30)
    updates = finish(run)
    assert run.trainer.step == run.trainer.settings.steps
    assert 0.85 < now[0] / (60 * minutes) < 1.05
    assert now[0] - run.trainer.step * step_s < 0.5 * 60 * minutes, "most of the time is for training"
    assert how in run.summary
    assert f"{len(run.trace)} round" in how or not run.trace
    searched = [update.done for update in updates if update.phase == "searching ranks"]
    assert len(searched) % ranks.ROUND_STEPS <= ranks.TIMED, "a round that does not fit is known by its first steps"


def test_a_budget_too_short_for_anything_trains_the_least(base: Base, tmp_path: Path, now: list[float]) -> None:
    run = new_run(base, tmp_path / "run", in_minutes(0.02, searched=True))
    finish(run)
    assert run.trainer.step == 10
    assert now[0] < 0.02 * 60 + 16, "a look, one step that is timed, ten, and a score"


def test_looks_that_take_too_long_are_cut(base: Base, tmp_path: Path, now: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    known = {f"look {index}": base.neutral_context + index for index in range(20)}
    run = new_run(replace(base, looks=known), tmp_path / "run", in_minutes(0.1))
    looked = [update for update in finish(run) if update.phase.startswith("choosing")]
    assert looked[-1].done < looked[-1].total == 21
    assert f"(of {looked[-1].done} looks tried in time)" in run.summary


def test_steps_fill_the_time_together_with_their_scores() -> None:
    for seconds, step_s, score_s in ((60, 0.3, 1.4), (600, 0.3, 1.4), (40, 0.3, 0.0), (60, 0.02, 5.0)):
        steps = steps_within(seconds, step_s, score_s)
        spent = steps * step_s + (steps / scores_every(steps)) * score_s
        assert abs(spent - seconds) < step_s + score_s
        assert steps / scores_every(steps) < SCORES + 1
    assert steps_within(-5, 0.3, 1.4) == 10


def test_the_warm_up_is_a_tenth_of_a_short_run() -> None:
    assert [PLAN.settings(steps, 64).warmup for steps in (3, 10, 50, 199, 1000)] == [1, 1, 5, 19, 20]


def test_a_resumed_run_of_minutes_goes_on_with_what_was_decided(base: Base, tmp_path: Path, now: list[float]) -> None:
    plan = in_minutes(0.4, searched=True)
    now[1] = 0.6
    whole, parts = (new_run(base, tmp_path / name, plan) for name in ("whole", "parts"))
    finish(whole)
    finish(parts, until=20)
    now[1] = 5.0  # a busy machine would decide otherwise
    rest = new_run(base, tmp_path / "parts", plan)
    assert rest.resume()
    finish(rest)
    assert rest.trainer.settings.steps == whole.trainer.settings.steps
    assert digest(rest.trainer.state()) == digest(whole.trainer.state())
    assert rest.story == whole.story


@pytest.mark.parametrize(("name", "value"), [("lr", math.nan), ("minutes", math.nan), ("minutes", math.inf), ("lr", 0.0)])
def test_what_is_no_number_gets_a_sentence(name: str, value: float) -> None:
    with pytest.raises(InvalidInput, match=f"Expected {name} to be a number above 0, got {value}"):
        replace(SMALL, **{name: value})


# ---- going on


def test_a_prompt_may_change_on_the_way(base: Base, tmp_path: Path) -> None:
    first = new_run(base, tmp_path / "run")
    finish(first)
    again = new_run(base, tmp_path / "run", replace(SMALL, prompt="other words"))
    assert again.resume()
    assert again.best.info["prompt"] == again.best.info["plan"]["prompt"] == "other words"


def test_minutes_do_not_matter_beside_steps(base: Base, tmp_path: Path) -> None:
    finish(new_run(base, tmp_path / "run"), until=5)
    assert new_run(base, tmp_path / "run", replace(SMALL, minutes=99.0)).resume()


def test_a_run_says_how_it_begins(base: Base, tmp_path: Path) -> None:
    def begun(**changes: object) -> ConceptRun:
        run = new_run(base, tmp_path / "run", replace(SMALL, **changes))
        run.resume()
        return run

    first = begun()
    assert first.note == "", "nothing was there before"
    finish(first, until=5)
    longer = begun(steps=40, lr=1e-3)
    assert longer.note == "begins anew: 20 steps became 40 steps, lr changed"
    (update, *_) = finish(longer, until=3)
    assert update.text.startswith("begins anew: 20 steps became 40 steps, lr changed; choosing a look")
    assert first.place.checkpoint.is_file(), "the earlier run is kept"
    back = begun()
    assert back.note == "resumed at step 5"
    assert finish(back)[0].text.startswith("resumed at step 5; training, step 6 of 20")
    assert "; resumed at step 5; " in back.summary
    assert begun().note == "trained before, resume off trains anew"
    finish(begun(steps=40, lr=1e-3))
    assert begun(seed=7).note == "", "runs that were finished need no word"


# ---- keeping the place


def test_the_place_is_kept_every_two_minutes(base: Base, tmp_path: Path, now: list[float]) -> None:
    run = new_run(base, tmp_path / "run", replace(SMALL, steps=60))
    now[1] = 30.0
    updates = run.updates()
    while next(updates).done < 8 or run.trainer is None:
        pass
    crashed = new_run(base, tmp_path / "run", run.plan)
    assert crashed.resume()
    assert 4 <= crashed.trainer.step <= 8
    assert crashed.best is None, "there was no score yet"


def test_the_search_is_kept_before_the_first_step(base: Base, tmp_path: Path, now: list[float]) -> None:
    now[1] = 0.2
    run = new_run(base, tmp_path / "run", in_minutes(0.4, searched=True))
    next(update for update in run.updates() if update.phase == "training")
    again = new_run(base, tmp_path / "run", run.plan)
    assert again.resume()
    assert (again.trainer.step, again.trace) == (0, run.trace)
    assert run.trace


def test_a_full_disk_is_a_warning(base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise NotWritten("...") from OSError(28, "No space left on device")

    run, write = new_run(base, tmp_path / "run", replace(SMALL, steps=60)), Trainer.save
    monkeypatch.setattr(Trainer, "save", full)
    updates: list[Update] = []
    for update in run.updates():
        updates.append(update)
        if update.done == 45:
            monkeypatch.setattr(Trainer, "save", write)
    told = [update for update in updates if update.phase == "training"]
    warning = "checkpoint not written ([Errno 28] No space left on device)"
    assert all(update.text.startswith(warning) for update in told[:-1])
    assert told[-1].warning == "", "there is room again"
    assert run.best is not None
    assert run.keep()


def test_a_damaged_best_concept_gets_a_sentence_of_its_own(base: Base, tmp_path: Path) -> None:
    run = new_run(base, tmp_path / "run")
    finish(run)
    run.place.best.write_bytes(b"damaged")
    with pytest.raises(WeightsInvalid, match=r"best\.safetensors, but it is damaged: delete that folder, or switch resume off"):
        new_run(base, tmp_path / "run").resume()

"""A training run as the node drives it: it learns, stops and resumes bit for bit, keeps the best, and says no in sentences."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hotpath.engine.e2gan.checkpoint import Base, load_base, load_concept, save_base
from hotpath.engine.e2gan.model import Generator
from hotpath.engine.e2gan.network import E2GAN, Network
from hotpath.engine.errors import InvalidInput, WeightsInvalid
from hotpath.tests.testing import ROOT, TINY, digest, pictures, random, tiny_base
from hotpath.training import loop, perceptual
from hotpath.training import plan as plan_of_run
from hotpath.training.grid import to_uint8
from hotpath.training.looks import closest_look
from hotpath.training.loop import Pairs, held_out_losses, to_signed
from hotpath.training.pairs import PairSet
from hotpath.training.plan import Plan, Update, split
from hotpath.training.session import ConceptRun

LPIPS = ROOT / "models" / "training" / "perceptual_vgg16.safetensors"
PLAN = Plan("look", "negative", steps=20, searched=False, batch=2, crop=48, loss_crop=32, lr=1e-2, adversarial=0.0)


def some_pairs(count: int = 10) -> PairSet:
    stack = (pictures(count, 64, 64) / 2 + 0.5).movedim(1, -1)
    return PairSet(prompt="negative").plus(((f"pair {i}", picture, 1 - picture) for i, picture in enumerate(stack)), 64)


@pytest.fixture(autouse=True)
def _scores_in_short_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan_of_run, "LEAST_APART", 1)


@pytest.fixture
def base(tmp_path: Path) -> Base:
    return tiny_base(tmp_path)


def new_run(base: Base, folder: Path, plan: Plan = PLAN, pairs: PairSet | None = None) -> ConceptRun:
    return ConceptRun(base, some_pairs() if pairs is None else pairs, perceptual.load(LPIPS), plan, folder, torch.device("cpu"))


def finish(run: ConceptRun, until: int | None = None) -> list[Update]:
    updates = []
    for update in run.updates():
        updates.append(update)
        if update.phase == "training" and update.done == until:
            break
    run.keep()
    return updates


def test_a_run_learns_and_tells(base: Base, tmp_path: Path) -> None:
    run = new_run(base, tmp_path / "run")
    updates = [update for update in finish(run) if update.phase == "training"]
    assert [update.done for update in updates] == list(range(1, 21))
    scores = [update.score for update in updates if update.score is not None]
    assert len(scores) == 10
    assert scores[-1] < 0.9 * scores[0]
    assert run.best_score == min(scores)
    assert updates[0].preview.shape == (64, 3 * 64, 3), "before | teacher | student"
    assert len(run.history["loss"]) == 20
    assert "of 20" in updates[-1].text
    assert run.best.info["prompt"] == "negative"
    assert run.best.info["held_out_pictures"] == 1


def test_short_runs_are_scored_seldom(base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan_of_run, "LEAST_APART", 8)
    updates = finish(new_run(base, tmp_path / "run"))
    assert [update.done for update in updates if update.score is not None] == [8, 16, 20]


def test_what_comes_before_training_tells_how_far_it_is(base: Base, tmp_path: Path) -> None:
    updates = finish(new_run(base, tmp_path / "run", replace(PLAN, searched=True)))
    for phase in ("choosing a look to start from", "searching ranks"):
        told = [update for update in updates if update.phase == phase]
        assert [update.done for update in told] == list(range(1, len(told) + 1))
        assert all(update.done <= update.total for update in told)
        assert "left" not in told[0].text


def test_its_concept_does_in_the_engine_what_training_saw(base: Base, tmp_path: Path) -> None:
    run = new_run(base, tmp_path / "run")
    finish(run)
    before = run.held_out.photographs.movedim(-1, 1).float() / 127.5 - 1
    network, e2gan = Network(base, torch.float32), E2GAN(base)
    wanted = -before
    plain, learnt = (network(before, variant.blend) for variant in (e2gan, e2gan.with_concept(run.best, 1.0)))
    assert (learnt - wanted).abs().mean() < 0.9 * (plain - wanted).abs().mean()
    stored = load_concept(run.place.folder / "best.safetensors")
    assert all(torch.equal(stored.factors[layer][0], run.best.factors[layer][0]) for layer in run.best.factors)


@pytest.mark.parametrize("searched", [False, True])
def test_stopped_and_resumed_is_the_same_to_the_bit(base: Base, tmp_path: Path, searched: bool) -> None:
    plan = replace(PLAN, searched=searched, adversarial=0.02)
    whole = new_run(base, tmp_path / "whole", plan)
    finish(whole)
    finish(new_run(base, tmp_path / "parts", plan), until=7)
    rest = new_run(base, tmp_path / "parts", plan)
    assert rest.resume()
    assert finish(rest)[0].done == 8
    assert digest(rest.trainer.state()) == digest(whole.trainer.state())
    assert rest.history == whole.history
    assert rest.best_score == whole.best_score
    assert all(torch.equal(rest.best.factors[layer][1], whole.best.factors[layer][1]) for layer in whole.best.factors)
    assert rest.best.info == whole.best.info


def test_a_finished_run_resumes_to_its_result_at_once(base: Base, tmp_path: Path) -> None:
    first = new_run(base, tmp_path / "run")
    finish(first)
    again = new_run(base, tmp_path / "run")
    assert again.resume()
    assert [update for update in again.updates() if update.phase == "training"] == []
    assert torch.equal(again.best.factors["head"][1], first.best.factors["head"][1])
    assert again.picture().shape == (64, 192, 3)


@pytest.mark.parametrize("change", ["pairs", "base", "plan"])
def test_a_checkpoint_of_another_run_is_refused(base: Base, tmp_path: Path, change: str) -> None:
    first = new_run(base, tmp_path / "run")
    finish(first, until=3)
    other = {
        "pairs": lambda: new_run(base, tmp_path / "run", pairs=some_pairs(9)),
        "base": lambda: new_run(tiny_base(tmp_path, 1), tmp_path / "run"),
        "plan": lambda: new_run(base, tmp_path / "run", replace(PLAN, lr=1e-3)),
    }[change]()
    assert not other.resume(), "it has a folder of its own"
    other.place.folder.mkdir()
    shutil.copy(first.place.checkpoint, other.place.checkpoint)
    with pytest.raises(InvalidInput, match="other pairs, another base or other settings"):
        other.resume()


@pytest.mark.parametrize("damage", [lambda data: data[: len(data) // 2], lambda data: b"", lambda data: b"123"])
def test_a_damaged_checkpoint_gets_a_sentence(base: Base, tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    run = new_run(base, tmp_path / "run")
    finish(run, until=3)
    run.place.checkpoint.write_bytes(damage(run.place.checkpoint.read_bytes()))
    with pytest.raises(WeightsInvalid, match="switch resume off"):
        new_run(base, tmp_path / "run").resume()


@pytest.mark.parametrize("until", [7, None], ids=["on the way", "at the end"])
def test_a_best_concept_that_was_deleted_is_found_anew(base: Base, tmp_path: Path, until: int | None) -> None:
    finish(new_run(base, tmp_path / "run"), until=until)
    again = new_run(base, tmp_path / "run")
    (again.place.folder / "best.safetensors").unlink()
    assert again.resume()
    finish(again)
    assert again.best is not None
    assert again.summary.startswith("best 0.")
    assert load_concept(again.place.folder / "best.safetensors").factors


def test_a_divergence_leaves_the_last_good_checkpoint(base: Base, tmp_path: Path) -> None:
    run = new_run(base, tmp_path / "run")
    updates = run.updates()
    while next(updates).done < 6 or run.trainer is None:
        pass
    for parameter in run.trainer.parameters.values():
        parameter.data.fill_(float("nan"))
    with pytest.raises(WeightsInvalid, match="diverged at step 7"):
        next(updates)
    run.keep()
    again = new_run(base, tmp_path / "run")
    assert again.resume()
    assert again.trainer.step == 6
    assert all(parameter.isfinite().all() for parameter in again.trainer.parameters.values())


def test_nothing_to_resume_is_no_error(base: Base, tmp_path: Path) -> None:
    assert not new_run(base, tmp_path / "none").resume()


def test_the_closest_look_of_the_base_is_where_it_begins(tmp_path: Path) -> None:
    """Contexts are found by what they do: pairs made by the base itself under one of them lead back to it."""
    plain, looks = tiny_base(tmp_path), {name: torch.randn(4, 12, generator=random(i)) * 4 for i, name in enumerate("abc")}
    weights = {name: tensor * (6 if name.startswith("modulation.outer") else 1) for name, tensor in plain.weights.items()}
    save_base(tmp_path / "looks.safetensors", TINY, weights, plain.neutral_context, {}, looks=looks)
    base = load_base(tmp_path / "looks.safetensors")
    assert list(base.looks) == ["a", "b", "c"]
    network, stack = Network(base, torch.float32), pictures(6, 64, 64)
    for name, context in base.looks.items():
        made = network.module(stack, context.expand(6, -1, -1))
        two = ((tensor / 2 + 0.5).movedim(1, -1) for tensor in (stack, made))
        pairs = PairSet().plus(((str(i), *both) for i, both in enumerate(zip(*two, strict=True))), 64)
        run = new_run(base, tmp_path / name, replace(PLAN, steps=1), pairs)
        finish(run)
        assert run.look == name
        assert torch.equal(run.best.context, context.half().float())


def test_looks_are_compared_in_the_middle_of_the_pictures(tmp_path: Path) -> None:
    """A look that was used in the middle only, the neutral one around it."""
    plain = tiny_base(tmp_path)
    weights = {name: tensor * (6 if name.startswith("modulation.outer") else 1) for name, tensor in plain.weights.items()}
    look = torch.randn(4, 12, generator=random(1)) * 4
    save_base(tmp_path / "looks.safetensors", TINY, weights, plain.neutral_context, {}, looks={"one": look})
    base = load_base(tmp_path / "looks.safetensors")
    stack, middle, network = (
        pictures(3, 384, 384),
        (slice(None), slice(None), *[slice(128, 256)] * 2),
        Network(base, torch.float32),
    )
    made = network.module(stack, base.neutral_context.expand(3, -1, -1))
    made[middle] = network.module(stack[middle], base.looks["one"].expand(3, -1, -1))
    before, after = to_uint8(stack), to_uint8(made)
    pairs = Pairs(before, [after], base.neutral_context[None], [False])
    assert closest_look(base, pairs, perceptual.load(LPIPS))[0] == "one"


def test_a_budget_in_minutes_becomes_steps(base: Base, tmp_path: Path) -> None:
    run = new_run(base, tmp_path / "run", replace(PLAN, steps=0, minutes=0.02))
    finish(run)
    assert run.trainer.settings.steps >= 10
    assert run.trainer.step == run.trainer.settings.steps


@pytest.mark.parametrize("count", [2, 6, 7, 14, 150])
def test_the_split_is_by_contents_and_keeps_one_in_seven(count: int) -> None:
    pairs = some_pairs(count)
    train, held_out = split(pairs)
    assert sorted(train + held_out) == list(range(count))
    assert len(held_out) == min(12, max(1, count // 7))
    backwards = pairs.chosen(reversed(range(count)))
    chosen = {backwards.pairs[index].key for index in split(backwards)[1]}
    assert chosen == {pairs.pairs[index].key for index in held_out}


def test_what_is_held_out_is_scored(base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pair that is neither trained on nor scored is lost."""
    run, seen = new_run(base, tmp_path / "run", pairs=some_pairs(150)), []
    monkeypatch.setattr(loop, "to_signed", lambda pictures: seen.append(len(pictures)) or to_signed(pictures))
    held_out_losses(Generator(TINY), run.held_out, run.lpips)
    assert sum(seen) == 2 * len(run.held_out.photographs) == 2 * 12


@pytest.mark.parametrize("count", [0, 1])
def test_too_few_pairs_get_a_sentence(base: Base, tmp_path: Path, count: int) -> None:
    with pytest.raises(InvalidInput, match="at least 2 pairs"):
        new_run(base, tmp_path, pairs=some_pairs(2).chosen(range(count)))


def test_pairs_that_change_nothing_get_a_sentence(base: Base, tmp_path: Path) -> None:
    stack = (pictures(3, 64, 64) / 2 + 0.5).movedim(1, -1)
    same = PairSet().plus(((str(i), picture, picture) for i, picture in enumerate(stack)), 64)
    with pytest.raises(InvalidInput, match="nothing to learn"):
        new_run(base, tmp_path, pairs=same)

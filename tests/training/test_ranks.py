"""Rank search: its arithmetic against plain definitions, its limits, and that it finds the layer that matters."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hotpath.engine.e2gan.checkpoint import Base
from hotpath.engine.e2gan.concept import CRUCIAL_LAYERS, DEFAULT_RANKS, Concept
from hotpath.tests.testing import random, tiny_base
from hotpath.tests.training.test_loop import SETTINGS, FakeLPIPS
from hotpath.tests.training.test_loop import pairs as loop_pairs
from hotpath.training.loop import Pairs, Step
from hotpath.training.ranks import Found, cost, grown, numbers_of, search, unreached


def pairs() -> Pairs:
    """Six negatives of 48 x 32 px."""
    data = loop_pairs(1)
    return replace(data, photographs=data.photographs[:, :, :32], edits=[data.edits[0][:, :, :32]])


@pytest.fixture
def base(tmp_path: Path) -> Base:
    return tiny_base(tmp_path)


def test_numbers_are_those_a_concept_stores(base: Base) -> None:
    factors = {}
    for layer, rank in DEFAULT_RANKS.items():
        out, inputs, *kernel = base.weights[f"{layer}.weight"].shape
        factors[layer] = torch.zeros(rank, inputs, *kernel), torch.zeros(out, rank, *(1 for _ in kernel))
    concept = Concept("zero", factors, base.neutral_context, base.sha256)
    assert numbers_of(DEFAULT_RANKS, base.weights) == concept.numbers - concept.context.numel()


def test_what_the_factors_reach_is_taken_out() -> None:
    a, b, gradient = (torch.randn(*shape, generator=random(i)) for i, shape in enumerate([(2, 9), (7, 2), (7, 9)]))
    rest = unreached(gradient, a, b)
    torch.testing.assert_close(rest @ a.T, torch.zeros(7, 2), atol=1e-5, rtol=0)
    torch.testing.assert_close(b.T @ rest, torch.zeros(2, 9), atol=1e-5, rtol=0)
    identity = [torch.eye(7) - b @ torch.linalg.pinv(b), torch.eye(9) - torch.linalg.pinv(a) @ a]
    torch.testing.assert_close(rest, identity[0] @ gradient @ identity[1], atol=1e-5, rtol=0)


def test_fresh_factors_hide_only_the_rows_of_a() -> None:
    a, gradient = torch.randn(1, 9, generator=random(0)), torch.randn(7, 9, generator=random(1))
    rest = unreached(gradient, a, torch.zeros(7, 1))
    torch.testing.assert_close(rest, gradient - gradient @ torch.linalg.pinv(a) @ a, atol=1e-5, rtol=0)


def test_growth_takes_the_best_layers_within_the_budget(base: Base) -> None:
    ranks = dict.fromkeys(CRUCIAL_LAYERS, 1)
    gains = {layer: float(index) for index, layer in enumerate(CRUCIAL_LAYERS)}  # the later the better
    everything = grown(ranks, gains, base.weights, 10**9)
    doubled = {layer for layer in ranks if everything[layer] == 2}
    assert doubled == set(CRUCIAL_LAYERS[-11:-1]), "half of them, best first; never the modulation, which needs no second rank"
    assert grown(ranks, gains, base.weights, numbers_of(ranks, base.weights)) == ranks
    tight = numbers_of(ranks, base.weights) + cost(base.weights["head.weight"])
    assert {layer for layer, rank in grown(ranks, gains, base.weights, tight).items() if rank > 1} == {"head"}


def test_a_layer_never_grows_beyond_its_weight(base: Base) -> None:
    ranks = {"head": 12}
    assert grown(ranks, {"head": 1.0}, base.weights, 10**9) == ranks


def found_by(base: Base, data: Pairs, **arguments) -> tuple[list[Step], Found]:
    events = list(search(base, data, data, FakeLPIPS(3), SETTINGS, **arguments))
    assert isinstance(events[-1], Found)
    return events[:-1], events[-1]


def test_search_starts_small_keeps_to_its_budget_and_goes_on_from_its_factors(base: Base) -> None:
    budget = 3 * numbers_of(dict.fromkeys(CRUCIAL_LAYERS, 1), base.weights)
    steps, found = found_by(base, pairs(), budget=budget, rounds=4, round_steps=6)
    assert set(found.trace[0].ranks.values()) == {1}
    assert all(later.numbers > earlier.numbers for earlier, later in zip(found.trace, found.trace[1:], strict=False))
    assert len(found.trace) > 1
    assert found.trace[-1].loss < found.trace[0].loss
    assert numbers_of(found.ranks, base.weights) <= budget
    assert {layer: len(a) for layer, (a, _) in found.factors.items()} == found.ranks
    assert [step.index for step in steps] == list(range(1, 6 * len(found.trace) + 1))
    assert any(b.abs().max() > 0 for _, b in found.factors.values())


def test_search_is_the_same_for_the_same_seed(base: Base) -> None:
    (_, one), (_, two) = (found_by(base, pairs(), budget=9000, rounds=2, round_steps=3) for _ in range(2))
    assert one.ranks == two.ranks
    assert all(torch.equal(one.factors[layer][0], two.factors[layer][0]) for layer in one.factors)


def test_search_stops_when_a_round_no_longer_pays(base: Base) -> None:
    data = replace(pairs(), edits=[pairs().photographs])
    frozen = replace(SETTINGS, lr=0.0)
    events = list(search(base, data, data, FakeLPIPS(), frozen, budget=10**6, rounds=6, round_steps=2))
    assert len(events[-1].trace) == 2, "the second round gained nothing"

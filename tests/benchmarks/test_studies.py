"""The studies' arithmetic: ranks of equal weight, means over targets and seeds, and a page whose other parts stay."""

import json
from pathlib import Path

import pytest
from hotpath.benchmarks.studies import draw
from hotpath.benchmarks.studies.layers import GROUPS, variants
from hotpath.benchmarks.studies.ranks import at_random, everywhere
from hotpath.engine.e2gan.checkpoint import Base, load_base
from hotpath.engine.e2gan.concept import CRUCIAL_LAYERS, DEFAULT_RANKS, MODULATION
from hotpath.tests.testing import ROOT
from hotpath.training.ranks import cost, numbers_of


@pytest.fixture(scope="module")
def base() -> Base:
    return load_base(ROOT / "models" / "e2gan_base.safetensors")


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_random_ranks_use_up_the_budget_and_no_more(base: Base, seed: int) -> None:
    budget = numbers_of(DEFAULT_RANKS, base.weights)
    ranks = at_random(base, budget, seed)
    assert set(ranks) == set(CRUCIAL_LAYERS)
    assert min(ranks.values()) >= 1
    cheapest = min(cost(base.weights[f"{layer}.weight"]) for layer in CRUCIAL_LAYERS if layer not in MODULATION)
    assert budget - cheapest < numbers_of(ranks, base.weights) <= budget
    assert ranks != at_random(base, budget, seed + 10)


def test_rank_four_is_four_times_rank_one_but_for_the_modulation(base: Base) -> None:
    one, four = (numbers_of(everywhere(rank), base.weights) for rank in (1, 4))
    modulation = numbers_of(dict.fromkeys(MODULATION, 1), base.weights)
    assert four - modulation == 4 * (one - modulation)


def test_the_groups_of_layers_are_all_crucial_layers_once() -> None:
    assert sorted(layer for group in GROUPS.values() for layer in group) == sorted(CRUCIAL_LAYERS)
    kept = dict(variants())
    assert set(kept["with ResNet blocks"]) - set(CRUCIAL_LAYERS) == {f"res{b}.conv{c}" for b in (1, 2, 3) for c in (1, 2)}
    assert all(set(GROUPS[group]) == set(CRUCIAL_LAYERS) - set(kept[f"without {group}"]) for group in GROUPS)


ROWS = [
    {"seed": seed, "runs": [{"scheme": s, "target": t, "lpips": base + seed + shift} for s, base in (("a", 0.0), ("b", 8.0)) for t, shift in (("x", 0), ("y", 4))]}
    for seed in (0, 1, 2)
]  # fmt: skip


def test_means_are_over_targets_and_the_spread_is_over_seeds() -> None:
    found = draw.gathered(ROWS, ("scheme",), ("lpips",))
    assert found == {("a",): {"lpips": [2, 3, 4]}, ("b",): {"lpips": [10, 11, 12]}}
    assert draw.told([2, 3, 4], 1) == "3.0 ± 1.0"
    assert draw.told([2], 1) == "2.0"
    assert draw.table(found, ("ranks",), {"lpips": 1}).splitlines()[2] == "| a | 3.0 ± 1.0 |"


def test_only_the_newest_rows_of_one_scale_and_one_base_are_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def row(seed: int, base: str | None, date: int, study: str = "ranks") -> dict:
        known = {} if base is None else {"base": base}
        return {"benchmark": f"study_{study}", "scale": {"steps": 9}, "targets": ["x"], "seed": seed, "date": date, **known}

    rows = [row(0, None, 1), row(2, None, 2), row(0, "b", 3), row(1, "b", 4), row(0, "b", 5), row(0, "c", 6, "data")]
    monkeypatch.setattr(draw, "RESULTS", tmp_path / "results.jsonl")
    draw.RESULTS.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert [(row["seed"], row["date"]) for row in draw.newest("ranks")] == [(0, 5), (1, 4)]


def test_only_the_part_between_the_marks_changes() -> None:
    mark = draw.MARK.format("ranks")
    page = f"before\n{mark}\nold\n{mark}\nafter\n"
    assert draw.replaced(page, "ranks", "new") == f"before\n{mark}\n\nnew\n\n{mark}\nafter\n"

"""Study (b): ranks searched for, against rank 1 everywhere, rank 4 everywhere, ranks by hand, and random ranks of equal weight.

python -m hotpath.benchmarks.studies.ranks [--steps 160] [--seeds 0 1 2] [--targets night_glass green_ink]

Every scheme takes the same number of training steps; those of the search, its probes included, count as steps.
"""

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from hotpath.benchmarks.studies.study import Scale, Study, parser, study_from
from hotpath.engine.e2gan.checkpoint import Base, load_base
from hotpath.engine.e2gan.concept import CRUCIAL_LAYERS, DEFAULT_RANKS, MODULATION
from hotpath.training.loop import Pairs, Trainer
from hotpath.training.lora import Factors, attach, generator_of
from hotpath.training.ranks import PROBES, Found, numbers_of, search

LR, ROUND_STEPS = 1e-2, 16


def everywhere(rank: int) -> dict[str, int]:
    return {layer: 1 if layer in MODULATION else rank for layer in CRUCIAL_LAYERS}


def at_random(base: Base, budget: int, seed: int) -> dict[str, int]:
    """Layers drawn at random get one more rank, until no layer fits into the budget of numbers any more."""
    source, ranks, open_layers = random.Random(seed), everywhere(1), [name for name in CRUCIAL_LAYERS if name not in MODULATION]
    while open_layers:
        layer = source.choice(open_layers)
        candidate = {**ranks, layer: ranks[layer] + 1}
        if numbers_of(candidate, base.weights) <= budget:
            ranks = candidate
        else:
            open_layers.remove(layer)
    return ranks


def searched(study: Study, base: Base, train: Pairs, held_out: Pairs, seed: int, budget: int) -> tuple[Found, int]:
    """What was found, and the steps it took."""
    # The search stops by pictures that LPIPS is not judged on.
    found, few = None, replace(held_out, photographs=held_out.photographs[-12:], edits=[held_out.edits[0][-12:]])
    settings = study.scale.settings(seed, LR, 1)
    for event in search(base, train, few, study.lpips, settings, budget=budget, round_steps=ROUND_STEPS, rounds=4):
        found = event
    return found, len(found.trace) * (ROUND_STEPS + PROBES)


def trained(
    study: Study,
    base: Base,
    train: Pairs,
    held_out: Pairs,
    ranks: Mapping[str, int],
    seed: int,
    start: Factors | None,
    steps: int,
) -> dict[str, object]:
    generator = generator_of(base, study.device)
    trainer = Trainer(generator, attach(generator, ranks, seed, start), train, study.lpips, study.scale.settings(seed, LR, steps))
    for _, spent in study.train(trainer):
        seconds = spent
    return {"numbers": numbers_of(ranks, base.weights), "seconds": round(seconds, 1), **study.scores(trainer, held_out)}


def runs(study: Study, seed: int, base: Base) -> Iterator[dict[str, object]]:
    budget = numbers_of(DEFAULT_RANKS, base.weights)
    for name in study.targets:
        train, held_out = study.target(base, name)
        found, used = searched(study, base, train, held_out, seed, budget)
        schemes = {
            "searched": (found.ranks, found.factors, max(1, study.scale.steps - used)),
            "rank 1": (everywhere(1), None, 0),
            "rank 4": (everywhere(4), None, 0),
            "by hand": (DEFAULT_RANKS, None, 0),
            "random": (at_random(base, numbers_of(found.ranks, base.weights), seed), None, 0),
        }
        for scheme, (ranks, start, steps) in schemes.items():
            row = trained(study, base, train, held_out, ranks, seed, start, steps)
            yield {"target": name, "scheme": scheme, **row, "ranks": list(ranks.values())}


def main(words: Sequence[str] | None = None) -> None:
    args = parser(__doc__, Scale()).parse_args(words)
    known = load_base(args.base)
    study_from("ranks", args).run(lambda study, seed: runs(study, seed, known))


if __name__ == "__main__":
    main()

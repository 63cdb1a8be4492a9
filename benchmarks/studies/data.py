"""Study (c): how many pairs a concept needs, chosen by clusters or at random.

python -m hotpath.benchmarks.studies.data [--shares 5 10 25 40 60 100] [--seeds 0 1 2]

Every run takes the same number of steps, so fewer pairs are seen more often.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import replace

from hotpath.benchmarks.studies.study import Scale, Study, parser, study_from
from hotpath.engine.e2gan.checkpoint import Base, load_base
from hotpath.engine.e2gan.concept import DEFAULT_RANKS
from hotpath.training.loop import Trainer
from hotpath.training.lora import attach, generator_of
from hotpath.training.selection import features, nearest_to_centres

LR = 1e-2


def runs(study: Study, seed: int, base: Base, shares: list[int]) -> Iterator[dict[str, object]]:
    for name in study.targets:
        train, held_out = study.target(base, name)
        vectors, total = features(study.lpips, train.photographs), len(train.photographs)
        for share in shares:
            count = max(2, round(total * share / 100))
            ways = {
                "clusters": nearest_to_centres(vectors, count, seed),
                "random": random.Random(seed).sample(range(total), count),
            }
            for way, kept in ways.items():
                if share == 100 and way == "random":
                    continue  # all pairs are all pairs
                part = replace(train, photographs=train.photographs[kept], edits=[train.edits[0][kept]])
                generator = generator_of(base, study.device)
                settings = study.scale.settings(seed, LR)
                trainer = Trainer(generator, attach(generator, DEFAULT_RANKS, seed), part, study.lpips, settings)
                for _ in study.train(trainer):
                    pass
                yield {"target": name, "way": way, "share": share, "pairs": count, **study.scores(trainer, held_out)}


def main(words: Sequence[str] | None = None) -> None:
    arguments = parser(__doc__, Scale())
    arguments.add_argument("--shares", type=int, nargs="+", default=[5, 10, 25, 40, 60, 100], help="percent of the pairs")
    args = arguments.parse_args(words)
    known = load_base(args.base)
    study_from("data", args).run(lambda study, seed: runs(study, seed, known, args.shares))


if __name__ == "__main__":
    main()

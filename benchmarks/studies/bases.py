"""Study (a): what to train a base on: representatives of text clusters, looks at random, one look, or no base at all.

python -m hotpath.benchmarks.studies.bases [--looks 8] [--base-steps 400] [--width 128] [--seeds 0 1 2]

The pool is every look but the targets; its prompts' embeddings are clustered by k-means and the look nearest to each centre is kept.
Each base then learns the targets by LoRA, all with the same steps.
"""

import random
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from hotpath.benchmarks.studies.study import Scale, Study, parser, study_from
from hotpath.engine.e2gan.checkpoint import Base, load_base, save_base
from hotpath.engine.e2gan.concept import DEFAULT_RANKS
from hotpath.engine.e2gan.model import Architecture, Generator, initialise
from hotpath.training.loop import Trainer
from hotpath.training.lora import attach, generator_of
from hotpath.training.selection import nearest_to_centres
from hotpath.training.teachers import NEUTRAL, POOL
from hotpath.training.text import encode

LR, BASE_LR = 1e-2, 1.6e-3


def pool_of(targets: list[str]) -> list[str]:
    """Names of all looks with the photographs as their input, but the targets and the unchanged photograph."""
    return [
        name for name, look in POOL.items() if name not in (*targets, NEUTRAL) and not look.own_pictures and not look.grey_input
    ]


def choices(study: Study, pool: list[str], looks: int, seed: int) -> dict[str, list[str]]:
    """The looks each base is trained on."""
    vectors = F.normalize(encode([POOL[name].prompt for name in pool], study.packages).mean(1), dim=1)
    source = random.Random(seed)
    return {
        "clusters": [pool[index] for index in nearest_to_centres(vectors, looks, seed)],
        "random": source.sample(pool, looks),
        "whole pool": pool,
        "one look": [source.choice(pool)],
        "none": [],
    }


def train_base(study: Study, names: list[str], architecture: Architecture, seed: int, steps: int) -> Base:
    """A base over these looks; over none it is the start values."""
    generator = initialise(Generator(architecture), seed).to(study.device, memory_format=torch.channels_last).unwrapped()
    weights, looks = generator.state_dict(), {}
    if names:
        contexts = encode([POOL[name].prompt for name in names], study.packages)
        looks = dict(zip(names, contexts, strict=True))
        settings = replace(study.scale.settings(seed, BASE_LR, steps), ema=0.99)
        trainer = Trainer(generator, dict(generator.named_parameters()), study.pairs(names, contexts), study.lpips, settings)
        for _ in study.train(trainer):
            pass
        weights = trainer.ema
    neutral = encode([POOL[NEUTRAL].prompt], study.packages)[0]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "base.safetensors"
        save_base(path, architecture, {name: tensor.cpu() for name, tensor in weights.items()}, neutral, {}, looks=looks)
        return load_base(path)


def runs(study: Study, seed: int, width: int, looks: int, base_steps: int) -> Iterator[dict[str, object]]:
    text = encode([POOL[NEUTRAL].prompt], study.packages).shape
    architecture = Architecture(width // 4, width // 2, width, text_tokens=text[1], text_width=text[2])
    for kind, names in choices(study, pool_of(study.targets), looks, seed).items():
        base = train_base(study, names, architecture, seed, base_steps)
        for target in study.targets:
            train, held_out = study.target(base, target)
            generator = generator_of(base, study.device)
            parameters = attach(generator, DEFAULT_RANKS, seed)
            trainer = Trainer(generator, parameters, train, study.lpips, study.scale.settings(seed, LR))
            for _ in study.train(trainer):
                pass
            yield {"target": target, "base": kind, "looks": len(names), "names": names, **study.scores(trainer, held_out)}


def main(words: Sequence[str] | None = None) -> None:
    arguments = parser(__doc__, Scale(side=96, crop=96, loss_crop=64, batch=8, steps=100, pictures=120), base=False)
    arguments.set_defaults(targets=["night_glass", "green_ink", "pop_print"])
    arguments.add_argument("--looks", type=int, default=8, help="looks a base is trained on")
    arguments.add_argument("--base-steps", type=int, default=400)
    arguments.add_argument("--width", type=int, default=128, help="channels at 1/8 of the side (the bundled base has 256)")
    args = arguments.parse_args(words)
    study_from("bases", args).run(lambda study, seed: runs(study, seed, args.width, args.looks, args.base_steps))


if __name__ == "__main__":
    main()

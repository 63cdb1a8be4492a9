"""Study (d): what a concept costs: LoRA on the base, a full fine-tune of it, and a network from scratch, up to an equal score.

python -m hotpath.benchmarks.studies.cost [--steps 160] [--patience 8] [--seeds 0 1 2]

LoRA trains `--steps` and sets the mark: its held-out LPIPS. The others train until they reach it, or until they have taken
`--patience` times the steps. All learn at a constant rate and are judged by their averaged weights, so that none is looked at in the
middle of a schedule. FLOPs are counted by torch over one step.
"""

from collections.abc import Callable, Iterator, Sequence

import torch
from hotpath.benchmarks.studies.study import Scale, Study, parser, study_from
from hotpath.engine.e2gan.checkpoint import Base, load_base
from hotpath.engine.e2gan.concept import DEFAULT_RANKS
from hotpath.engine.e2gan.model import Generator, initialise
from hotpath.training.loop import Pairs, Trainer
from hotpath.training.lora import attach, generator_of
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

LOOKS = 5  # at the score in as many steps as LoRA takes
ENDLESS = 10**9


def lora(base: Base, seed: int, device: torch.device) -> tuple[nn.Module, dict[str, nn.Parameter]]:
    generator = generator_of(base, device)
    return generator, attach(generator, DEFAULT_RANKS, seed)


def full(base: Base, seed: int, device: torch.device) -> tuple[nn.Module, dict[str, nn.Parameter]]:
    generator = generator_of(base, device)
    return generator, dict(generator.named_parameters())


def scratch(base: Base, seed: int, device: torch.device) -> tuple[nn.Module, dict[str, nn.Parameter]]:
    generator = initialise(Generator(base.architecture), seed)
    generator = generator.to(device, memory_format=torch.channels_last).unwrapped()
    return generator, dict(generator.named_parameters())


RIVALS: dict[str, tuple[Callable, float]] = {
    "LoRA": (lora, 1e-2),
    "full fine-tune": (full, 1e-3),
    "from scratch": (scratch, 1.6e-3),
}


def run(study: Study, kind: str, base: Base, pairs: tuple[Pairs, Pairs], seed: int, steps: int, mark: float) -> dict[str, object]:
    """Train until `mark` (LPIPS) is reached, or to the end."""
    make, lr = RIVALS[kind]
    generator, parameters = make(base, seed, study.device)
    settings = study.scale.settings(seed, lr, ENDLESS)  # so the rate stays where it is
    trainer = Trainer(generator, parameters, pairs[0], study.lpips, settings)
    with FlopCounterMode(display=False) as counter:
        trainer.train_step()
    every, found = max(1, study.scale.steps // LOOKS), 9.0
    for step, spent in study.train(trainer):
        seconds = spent
        if step.index % every == 0 or step.index == steps:
            found = study.distance(trainer, pairs[1])
            if found <= mark or step.index == steps:
                break
    stored = sum(parameter.numel() for parameter in parameters.values())
    return {
        "kind": kind, "reached": found <= mark or mark == 0, "steps": step.index, "seconds": round(seconds, 1),
        "tflop": round(step.index * counter.get_total_flops() / 1e12, 2), "numbers": stored, **study.scores(trainer, pairs[1]),
    }  # fmt: skip


def runs(study: Study, seed: int, base: Base, patience: int) -> Iterator[dict[str, object]]:
    for name in study.targets:
        pairs, mark = study.target(base, name), 0.0
        for kind in RIVALS:
            steps = study.scale.steps * (1 if kind == "LoRA" else patience)
            row = run(study, kind, base, pairs, seed, steps, mark)
            mark = mark or row["lpips"]
            yield {"target": name, **row}


def main(words: Sequence[str] | None = None) -> None:
    arguments = parser(__doc__, Scale())
    arguments.add_argument("--patience", type=int, default=8, help="how many times LoRA's steps a rival may take")
    args = arguments.parse_args(words)
    known = load_base(args.base)
    study_from("cost", args).run(lambda study, seed: runs(study, seed, known, args.patience))


if __name__ == "__main__":
    main()

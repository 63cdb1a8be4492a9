"""Train an E2GAN base: one generator over the concept pool, told by text which edit to make.

    python -m hotpath.training.base --out RUN [--resume]

Writes into RUN: checkpoint.safetensors (resumable), log.jsonl, grid.png (photograph | teacher | student), base.safetensors;
and prints the share of live units at each checkpoint.
"""

import argparse
import sys

import torch

from ..engine.e2gan.checkpoint import save_base
from ..engine.e2gan.model import Architecture, Generator, initialise
from .command import add_arguments, load_pairs, run, settings_from
from .grid import save_grid
from .loop import Settings, Trainer, to_signed
from .lpips_weights import load_lpips
from .report import live_units
from .sources import fetch
from .spread import spread
from .teachers import CONCEPT_POOL, NEUTRAL
from .text import encode


def main() -> None:
    defaults = Settings(steps=8000, crop=160, loss_crop=96, lr=1.6e-3)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser, defaults)
    args = parser.parse_args()
    settings, processes = settings_from(args, defaults), spread()
    with processes.first():
        packages = fetch(photographs=False)
        lpips = load_lpips(packages).to(args.device, torch.bfloat16)
    concepts = [concept for concept in CONCEPT_POOL if not concept.held_from_base]
    contexts = encode([concept.prompt for concept in concepts], packages).to(args.device)
    pairs = load_pairs(args.corpus, concepts, contexts, "train")
    held_out = load_pairs(args.corpus, concepts, contexts, "held_out")
    architecture = Architecture(text_tokens=contexts.shape[1], text_width=contexts.shape[2])
    generator = initialise(Generator(architecture), settings.seed).to(args.device, memory_format=torch.channels_last).unwrapped()
    trainer = Trainer(generator, dict(generator.named_parameters()), pairs, lpips, settings, processes)

    def show() -> None:
        student = Generator(architecture).to(args.device)
        student.load_state_dict(trainer.ema)
        save_grid(args.out / "grid.png", student, held_out, range(len(concepts)))
        several = to_signed(held_out.photographs[: len(concepts)].to(args.device))
        shares = live_units(student, several, contexts[: len(several)])
        sys.stdout.write("live units: " + "  ".join(f"{layer} {share:.2f}" for layer, share in shares.items()) + "\n")

    terms = {"concepts": [concept.name for concept in concepts]}
    info = run(trainer, args, "checkpoint.safetensors", terms, show)
    processes.end()
    if processes.rank:
        return
    info["concepts"] = {concept.name: concept.prompt for concept in concepts}
    looks = {concept.name: context for concept, context in zip(concepts, contexts, strict=True)}
    neutral = looks.pop(NEUTRAL)
    save_base(args.out / "base.safetensors", architecture, trainer.ema, neutral, info, looks=looks, overwrite=True)


if __name__ == "__main__":
    main()

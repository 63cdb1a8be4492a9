"""Train an E2GAN base: one generator over the concept pool, told by text which edit to make.

    python -m hotpath.training.base --out RUN [--resume]

Writes into RUN: checkpoint.safetensors (resumable), log.jsonl, grid.png (photograph | teacher | student), base.safetensors.
"""

import argparse
import json
import time
from pathlib import Path

import torch
from safetensors.torch import load_file

from ..engine.e2gan.checkpoint import save_base
from ..engine.e2gan.model import Architecture, Generator, initialise
from .grid import save_grid
from .loop import Pairs, Settings, Trainer
from .lpips_weights import load_lpips
from .photographs import DATA
from .report import Progress
from .sources import cache_dir, fetch
from .teachers import CONCEPT_POOL, NEUTRAL, PoolConcept
from .text import encode


def load_pairs(corpus: Path, concepts: list[PoolConcept], contexts: torch.Tensor, split: str) -> Pairs:
    """The corpus' pictures of these concepts; contexts [K, T, W] in the same order."""
    photographs = load_file(corpus / "photographs.safetensors")[split]
    edits = [load_file(corpus / f"{concept.name}.safetensors")[split] for concept in concepts]
    return Pairs(photographs, edits, contexts, [concept.grey_input for concept in concepts])


def add_common_arguments(parser: argparse.ArgumentParser, defaults: Settings) -> None:
    parser.add_argument("--corpus", type=Path, default=cache_dir() / "corpus", help="folder made by hotpath.training.corpus")
    parser.add_argument("--out", type=Path, required=True, help="folder of this run")
    parser.add_argument("--steps", type=int, default=defaults.steps)
    parser.add_argument("--batch", type=int, default=defaults.batch)
    parser.add_argument("--crop", type=int, default=defaults.crop, help="training crop in px, a multiple of 16")
    parser.add_argument("--loss-crop", type=int, default=defaults.loss_crop, help="part of it seen by LPIPS and critic, px")
    parser.add_argument("--lr", type=float, default=defaults.lr)
    parser.add_argument("--seed", type=int, default=defaults.seed)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--resume", action="store_true", help="go on from RUN/checkpoint.safetensors if it exists")
    parser.add_argument("--every", type=int, default=250, help="steps between checkpoints and sample grids")


def settings_from(args: argparse.Namespace, defaults: Settings) -> Settings:
    from dataclasses import replace

    names = ("steps", "batch", "crop", "loss_crop", "lr", "seed")
    return replace(defaults, **{name: getattr(args, name) for name in names})


def main() -> None:
    defaults = Settings(steps=4500, crop=160, loss_crop=96, lr=1.2e-3)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_common_arguments(parser, defaults)
    args = parser.parse_args()
    settings = settings_from(args, defaults)
    packages = fetch(photographs=False)
    concepts = [concept for concept in CONCEPT_POOL if not concept.held_from_base]
    contexts = encode([concept.prompt for concept in concepts], packages).to(args.device)
    pairs = load_pairs(args.corpus, concepts, contexts, "train")
    held_out = load_pairs(args.corpus, concepts, contexts, "held_out")
    architecture = Architecture(text_tokens=contexts.shape[1], text_width=contexts.shape[2])
    generator = initialise(Generator(architecture), settings.seed).to(args.device, memory_format=torch.channels_last)
    trainer = Trainer(generator, dict(generator.named_parameters()), pairs, load_lpips(packages).to(args.device), settings)
    args.out.mkdir(parents=True, exist_ok=True)
    checkpoint = args.out / "checkpoint.safetensors"
    if args.resume and checkpoint.exists():
        trainer.resume(checkpoint)
    progress, started = Progress(args.out / "log.jsonl", settings.steps, trainer.step), time.time()
    for step in trainer.steps():
        progress.show(step)
        if step.index % args.every == 0 or step.index == settings.steps:
            trainer.save(checkpoint, {"settings": json.dumps(vars(args), default=str)})
            student = Generator(architecture).to(args.device)
            student.load_state_dict(trainer.ema)
            save_grid(args.out / "grid.png", student, held_out, range(len(concepts)))
    info = {
        "concepts": {concept.name: concept.prompt for concept in concepts},
        "pictures": len(pairs.photographs),
        "data": DATA,
        "settings": {key: str(value) for key, value in vars(settings).items()},
        "device": args.device,
        "minutes_of_last_start": round((time.time() - started) / 60, 1),
    }
    neutral = contexts[[concept.name for concept in concepts].index(NEUTRAL)]
    save_base(args.out / "base.safetensors", architecture, trainer.ema, neutral, info, overwrite=True)


if __name__ == "__main__":
    main()

"""Train a concept: LoRA on the crucial layers of a frozen base (E2GAN), or a full fine-tune for comparison.

    python -m hotpath.training.concept --base models/base.safetensors --concept comic --out RUN [--resume]

Writes into RUN: checkpoint.safetensors (resumable), log.jsonl, grid.png (photograph | teacher | student) and
<concept>.safetensors. With --full every weight is trained and <concept>_full.safetensors is a whole base file.
"""

import argparse
import json
import time
from pathlib import Path

import torch

from ..engine.e2gan.checkpoint import Base, load_base, save_base, save_concept
from ..engine.e2gan.concept import DEFAULT_RANKS, Concept
from ..engine.e2gan.model import Generator
from .base import add_common_arguments, load_pairs, settings_from
from .grid import save_grid
from .loop import Settings, Trainer
from .lora import attach, factors
from .losses import LossWeights
from .lpips_weights import load_lpips
from .photographs import DATA
from .report import Progress
from .sources import fetch
from .teachers import POOL
from .text import encode


def generator_of(base: Base, device: str) -> Generator:
    generator = Generator(base.architecture)
    generator.load_state_dict(base.weights)
    return generator.to(device, memory_format=torch.channels_last)


def main() -> None:
    weights = LossWeights(adversarial=0.02)
    defaults = Settings(steps=560, crop=160, loss_crop=96, lr=1e-2, warmup=20, adversarial_from=0, ema=0.98, weights=weights)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_common_arguments(parser, defaults)
    parser.add_argument("--base", type=Path, required=True, help="base file")
    parser.add_argument("--concept", required=True, choices=sorted(POOL), help="concept of the corpus to learn")
    parser.add_argument("--ranks", type=json.loads, default=DEFAULT_RANKS, help="JSON: rank by layer")
    parser.add_argument("--full", action="store_true", help="train every weight instead of LoRA (a baseline)")
    args = parser.parse_args()
    settings, packages, wanted = settings_from(args, defaults), fetch(photographs=False), POOL[args.concept]
    base = load_base(args.base)
    contexts = encode([wanted.prompt], packages).half().float().to(args.device)  # as the file will hold it
    pairs = load_pairs(args.corpus, [wanted], contexts, "train")
    held_out = load_pairs(args.corpus, [wanted], contexts, "held_out")
    generator = generator_of(base, args.device)
    parameters = dict(generator.named_parameters()) if args.full else attach(generator, args.ranks, settings.seed)
    trainer = Trainer(generator, parameters, pairs, load_lpips(packages).to(args.device), settings)
    args.out.mkdir(parents=True, exist_ok=True)
    checkpoint = args.out / f"{args.concept}{'_full' if args.full else ''}_checkpoint.safetensors"
    if args.resume and checkpoint.exists():
        trainer.resume(checkpoint)
    progress, started = Progress(args.out / "log.jsonl", settings.steps, trainer.step), time.time()
    for step in trainer.steps():
        progress.show(step)
        if step.index % args.every == 0 or step.index == settings.steps:
            trainer.save(checkpoint, {"settings": json.dumps(vars(args), default=str)})
    info = {
        "prompt": wanted.prompt,
        "teacher": wanted.teacher.source,
        "teacher_licence": wanted.teacher.licence,
        "pictures": len(pairs.photographs),
        "data": DATA,
        "seen_by_base": args.concept in base.info.get("concepts", {}),
        "settings": {key: str(value) for key, value in vars(settings).items()},
        "device": args.device,
        "minutes_of_last_start": round((time.time() - started) / 60, 2),
    }
    trained = {name: tensor.cpu() for name, tensor in trainer.ema.items()}
    if args.full:
        target = args.out / f"{args.concept}_full.safetensors"
        save_base(target, base.architecture, trained, contexts[0], info, overwrite=True)
    else:
        concept = Concept(args.concept, factors(trained), contexts[0].cpu(), base.sha256, info)
        save_concept(args.out / f"{args.concept}.safetensors", concept, overwrite=True)
    with torch.no_grad():
        for name, parameter in trainer.parameters.items():
            parameter.copy_(trainer.ema[name])
    save_grid(args.out / f"{args.concept}{'_full' if args.full else ''}.png", generator, held_out, [0])


if __name__ == "__main__":
    main()

"""Train a concept: LoRA on the crucial layers of a frozen base (E2GAN), or a full fine-tune for comparison.

    python -m hotpath.training.concept --base models/e2gan_base.safetensors --concept comic --out RUN [--resume]

Writes into RUN: comic_checkpoint.safetensors (resumable), log.jsonl, comic.png (photograph | teacher | student) and
comic.safetensors. With --full every weight is trained; the names start with comic_full, and the result is a whole base file.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path

import torch

from ..engine.e2gan.checkpoint import load_base, save_base, save_concept
from ..engine.e2gan.concept import DEFAULT_RANKS, Concept
from .command import add_arguments, load_pairs, run, settings_from
from .grid import save_grid
from .icons import DATA as ICONS
from .looks import closest_look
from .loop import Settings, Trainer
from .lora import attach, factors, generator_of
from .losses import LossWeights
from .lpips_weights import load_lpips
from .photographs import DATA
from .preview import averaged
from .sources import fetch
from .spread import spread
from .teachers import POOL
from .text import encode


def main() -> None:
    weights = LossWeights(adversarial=0.02)
    defaults = Settings(steps=560, crop=160, loss_crop=96, lr=1e-2, warmup=20, adversarial_from=0, ema=0.98, weights=weights)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser, defaults)
    parser.add_argument("--base", type=Path, required=True, help="base file")
    parser.add_argument("--concept", required=True, choices=sorted(POOL), help="concept of the corpus to learn")
    parser.add_argument("--ranks", type=json.loads, default=DEFAULT_RANKS, help="JSON: rank by layer")
    parser.add_argument("--full", action="store_true", help="train every weight instead of LoRA (a baseline)")
    args = parser.parse_args()
    settings, processes, wanted = settings_from(args, defaults), spread(), POOL[args.concept]
    with processes.first():
        packages = fetch(photographs=False)
        lpips = load_lpips(packages).to(args.device, torch.bfloat16)
    base = load_base(args.base)
    contexts = encode([wanted.prompt], packages).half().float().to(args.device)  # as the file will hold it
    pairs = load_pairs(args.corpus, [wanted], contexts, "train")
    held_out = load_pairs(args.corpus, [wanted], contexts, "held_out")
    look, context = args.concept, contexts[0]
    if look not in base.looks:  # unknown words steer an unknown way
        look, context = closest_look(base, pairs, lpips)
    contexts = context.unsqueeze(0).to(args.device)
    pairs, held_out = (replace(part, contexts=contexts) for part in (pairs, held_out))
    generator = generator_of(base, args.device)
    parameters = dict(generator.named_parameters()) if args.full else attach(generator, args.ranks, settings.seed)
    trainer = Trainer(generator, parameters, pairs, lpips, settings, processes)
    name = f"{args.concept}_full" if args.full else args.concept
    terms = {"base": base.sha256, "concept": name, "ranks": dict(args.ranks), "look": look}
    info = run(trainer, args, f"{name}_checkpoint.safetensors", terms)
    processes.end()
    if processes.rank:
        return
    info |= {
        "prompt": wanted.prompt,
        "data": ICONS if wanted.own_pictures else DATA,
        "teacher": wanted.teacher.source,
        "teacher_licence": wanted.teacher.licence,
        "start_look": look,
        "seen_by_base": args.concept in base.info.get("concepts", {}),
    }
    trained, target = {key: tensor.cpu() for key, tensor in trainer.ema.items()}, args.out / f"{name}.safetensors"
    if args.full:
        save_base(target, base.architecture, trained, contexts[0], info, overwrite=True)
    else:
        concept = Concept(args.concept, factors(trained), contexts[0].cpu(), base.sha256, info)
        save_concept(target, concept, overwrite=True)
    with averaged(trainer):
        save_grid(args.out / f"{name}.png", generator, held_out, [0])


if __name__ == "__main__":
    main()

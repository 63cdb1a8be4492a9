"""What the command lines of base and concept share: arguments, pictures, and a run with checkpoints and progress."""

import argparse
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from .loop import Pairs, Settings, Trainer
from .photographs import DATA
from .place import read_facts
from .report import Progress
from .sources import cache_dir
from .teachers import PoolConcept


def add_arguments(parser: argparse.ArgumentParser, defaults: Settings) -> None:
    parser.add_argument("--corpus", type=Path, default=cache_dir() / "corpus", help="folder made by hotpath.training.corpus")
    parser.add_argument("--out", type=Path, required=True, help="folder of this run")
    parser.add_argument("--steps", type=int, default=defaults.steps)
    parser.add_argument("--batch", type=int, default=defaults.batch)
    parser.add_argument("--crop", type=int, default=defaults.crop, help="training crop in px, a multiple of 16")
    parser.add_argument("--loss-crop", type=int, default=defaults.loss_crop, help="part of it seen by LPIPS and critic, px")
    parser.add_argument("--lr", type=float, default=defaults.lr)
    parser.add_argument("--seed", type=int, default=defaults.seed)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint in RUN if there is one")
    parser.add_argument("--every", type=int, default=250, help="steps between checkpoints")


def settings_from(args: argparse.Namespace, defaults: Settings) -> Settings:
    names = ("steps", "batch", "crop", "loss_crop", "lr", "seed")
    return replace(defaults, **{name: getattr(args, name) for name in names})


def load_pairs(corpus: Path, concepts: list[PoolConcept], contexts: torch.Tensor, split: str) -> Pairs:
    """The corpus' pictures of these concepts; contexts [K, T, W] in the same order. One with pictures of its own comes alone."""
    files = [load_file(corpus / f"{concept.name}.safetensors") for concept in concepts]
    photographs = files[0].get(f"before_{split}") if len(files) == 1 else None
    if photographs is None:
        photographs = load_file(corpus / "photographs.safetensors")[split]
    return Pairs(photographs, [file[split] for file in files], contexts, [concept.grey_input for concept in concepts])


def check_sizes(settings: Settings, side: int) -> None:
    """End the program with a sentence where these cannot be trained with on pictures of `side` px."""
    crop, part = settings.crop, settings.loss_crop
    if not 16 <= crop <= side or crop % 16:
        raise SystemExit(f"Expected --crop to be a multiple of 16 from 16 to {side} px, got {crop}: choose another.")
    if not 16 <= part <= crop:
        raise SystemExit(f"Expected --loss-crop from 16 px to the crop's {crop}, got {part}: choose another.")
    if min(settings.batch, settings.steps, settings.lr) <= 0:
        raise SystemExit(
            f"Expected --batch, --steps and --lr above 0, got {settings.batch}, {settings.steps} and {settings.lr}: choose others."
        )


def check_same_run(checkpoint: Path, terms: Mapping[str, object]) -> None:
    """End the program with a sentence if a checkpoint is of a run in other terms; a run may be made longer, so steps are none of them."""
    try:
        before = read_facts(checkpoint)
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise SystemExit(
            f"Expected a checkpoint of this program in {checkpoint}, but it is damaged ({error!r}): take it away."
        ) from error
    if changed := [key for key in terms if terms[key] != before.get(key)]:
        key = changed[0]
        raise SystemExit(
            f"The checkpoint in {checkpoint} is of another run ({key}: {before.get(key)} there, {terms[key]} here): "
            "choose another --out, or leave --resume out to begin anew."
        )


def run(
    trainer: Trainer,
    args: argparse.Namespace,
    name: str,
    terms: Mapping[str, object],
    on_checkpoint: Callable[[], None] = lambda: None,
) -> dict[str, object]:
    """Train to the end with checkpoints in `args.out / name`; returns the facts of the run that go into the weights' file.

    `terms` (JSON values) say what is trained; with the settings but for the number of steps they tell this run from others.
    """
    args.out.mkdir(parents=True, exist_ok=True)
    checkpoint, settings = args.out / name, trainer.settings
    check_sizes(settings, min(trainer.pairs.photographs.shape[1:3]))
    terms = {**terms, **{key: value for key, value in asdict(settings).items() if key != "steps"}}
    if args.resume and checkpoint.exists():
        check_same_run(checkpoint, terms)
        trainer.resume(checkpoint)
    progress, started = Progress(args.out / "log.jsonl", settings.steps, trainer.step), time.time()
    for step in trainer.steps():
        if trainer.processes.rank:
            continue  # the first process tells and writes
        progress.show(step)
        if step.index % args.every == 0 or step.index == settings.steps:
            trainer.save(checkpoint, {"hotpath": json.dumps(terms)})
            on_checkpoint()
    return {
        "pictures": len(trainer.pairs.photographs),
        "data": DATA,
        "settings": {key: str(value) for key, value in vars(settings).items()},
        "device": args.device,
        "minutes_of_last_start": round((time.time() - started) / 60, 2),
    }

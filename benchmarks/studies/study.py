"""What the studies share: looks of the corpus at a size, a short training run, scores on held-out pictures, rows in results.jsonl.

A study is scaled down to fit two cores unless `--full` is given (for a GPU); what it was run with stands in its rows. Seeds change
the factors' start, the order of pictures and everything that is drawn at random.
"""

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from hotpath.benchmarks.efficientnet import Features, kid
from hotpath.benchmarks.record import record
from hotpath.engine.e2gan.checkpoint import Base, file_sha256
from hotpath.training.command import load_pairs
from hotpath.training.grid import to_uint8
from hotpath.training.looks import closest_look
from hotpath.training.loop import Pairs, Settings, Step, Trainer, to_signed
from hotpath.training.losses import LossWeights
from hotpath.training.lpips_weights import load_lpips
from hotpath.training.perceptual import LPIPS, load
from hotpath.training.preview import averaged
from hotpath.training.sources import cache_dir, fetch
from hotpath.training.teachers import POOL
from torch import Tensor, nn

ROOT = Path(__file__).resolve().parents[2]
CHUNK, JUDGED = 10, 20
UNSEEN = ("night_glass", "green_ink")  # looks that the bundled base was not trained on


@dataclass(frozen=True)
class Scale:
    """Sides in px; `steps` of one concept; `pictures` to train on (0: all)."""

    side: int = 256
    crop: int = 128
    loss_crop: int = 64
    batch: int = 4
    steps: int = 160
    pictures: int = 0

    def settings(self, seed: int, lr: float, steps: int = 0) -> Settings:
        return Settings(
            steps or self.steps, self.batch, self.crop, self.loss_crop, lr, warmup=15, ema=0.97, seed=seed,
            weights=LossWeights(adversarial=0.0),
        )  # fmt: skip


class Study:
    """One study at one scale on one device."""

    def __init__(
        self, name: str, scale: Scale, seeds: list[int], targets: list[str], base: str | None, corpus: Path, device: str
    ) -> None:
        self.name, self.scale, self.seeds, self.targets, self.base = name, scale, seeds, targets, base
        self.corpus, self.device = corpus, torch.device(device)
        self.packages = fetch(photographs=False)
        self.lpips = load(ROOT / "models" / "training" / "perceptual_vgg16.safetensors").to(self.device, torch.bfloat16)
        self._wanted: dict[bytes, np.ndarray] = {}

    @cached_property
    def judge(self) -> LPIPS:
        """All five stages, for scores."""
        return load_lpips(self.packages).to(self.device, torch.bfloat16)

    @cached_property
    def features(self) -> Features:
        return Features(torch.load(self.packages.efficientnet, weights_only=True, map_location="cpu"))

    def pairs(self, names: list[str], contexts: Tensor, split: str = "train") -> Pairs:
        """Pictures of these looks at the study's side."""
        found = load_pairs(self.corpus, [POOL[name] for name in names], contexts.to(self.device), split)
        most = min(len(stack) for stack in (found.photographs, *found.edits))
        most = min(most, self.scale.pictures or most) if split == "train" else most
        return replace(
            found, photographs=self._sized(found.photographs[:most]), edits=[self._sized(e[:most]) for e in found.edits]
        )

    def _sized(self, pictures: Tensor) -> Tensor:
        if pictures.shape[1] == self.scale.side:
            return pictures
        small = F.interpolate(pictures.permute(0, 3, 1, 2).float(), (self.scale.side,) * 2, mode="area")
        return small.round().byte().permute(0, 2, 3, 1).contiguous()

    def target(self, base: Base, name: str) -> tuple[Pairs, Pairs]:
        """Train and held-out pairs of a look, with the context of the base's look closest to it."""
        train = self.pairs([name], base.neutral_context[None])
        context = closest_look(base, train, self.lpips)[1][None].to(self.device)
        return replace(train, contexts=context), self.pairs([name], context, "held_out")

    def train(self, trainer: Trainer) -> Iterator[tuple[Step, float]]:
        """Steps, each with the seconds of training so far."""
        spent, start = 0.0, time.perf_counter()
        for step in trainer.steps():
            spent += time.perf_counter() - start
            yield step, spent
            start = time.perf_counter()

    def students(self, generator: nn.Module, held_out: Pairs, pictures: int) -> Tensor:
        """The generator's pictures [N, 3, H, W] of the first held-out photographs."""
        chunks = [to_signed(chunk.to(self.device)) for chunk in held_out.photographs[:pictures].split(CHUNK)]
        with torch.autocast(self.device.type, torch.bfloat16):
            return torch.cat([generator(chunk, held_out.contexts.expand(len(chunk), -1, -1)).float() for chunk in chunks])

    def lpips_of(self, students: Tensor, held_out: Pairs) -> float:
        """Mean LPIPS to the teacher's pictures."""
        teacher = to_signed(held_out.edits[0][: len(students)].to(self.device))
        with torch.autocast(self.device.type, torch.bfloat16):
            chunks = zip(students.split(CHUNK), teacher.split(CHUNK), strict=True)
            return round(float(torch.cat([self.judge(a, b) for a, b in chunks]).mean()), 4)

    def distance(self, trainer: Trainer, held_out: Pairs) -> float:
        """LPIPS alone, of the pictures that `scores` takes it of."""
        with torch.no_grad(), averaged(trainer):
            return self.lpips_of(self.students(trainer.generator, held_out, JUDGED), held_out)

    def scores(self, trainer: Trainer, held_out: Pairs) -> dict[str, float]:
        """LPIPS of 20 and KID of 60 held-out pictures to the teacher's, with the averaged weights."""
        with torch.no_grad(), averaged(trainer):
            students = self.students(trainer.generator, held_out, len(held_out.photographs))
            distance = self.lpips_of(students[:JUDGED], held_out)
        teacher = held_out.edits[0]
        known = teacher.numpy().tobytes()
        if known not in self._wanted:
            self._wanted[known] = self.features(teacher)
        return {"lpips": distance, "kid": round(float(kid(self.features(to_uint8(students)), self._wanted[known])), 5)}

    def run(self, runs: Callable[["Study", int], Iterator[Mapping[str, object]]]) -> None:
        """One row in results.jsonl for each seed."""
        for seed in self.seeds:
            rows = []
            for row in runs(self, seed):
                rows.append(row)
                sys.stdout.write(f"{self.name}, seed {seed}: {row}\n")
                sys.stdout.flush()
            record(
                f"study_{self.name}",
                self.device.type,
                {"scale": asdict(self.scale), "targets": self.targets, "base": self.base, "seed": seed, "runs": rows},
            )


def parser(description: str, defaults: Scale, base: bool = True) -> argparse.ArgumentParser:
    """Options of a study; `base`: whether it builds upon one."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in asdict(defaults).items():
        made.add_argument(f"--{name.replace('_', '-')}", type=int, default=value)
    made.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    made.add_argument("--targets", nargs="+", default=list(UNSEEN), choices=sorted(POOL), help="looks to learn")
    made.add_argument("--corpus", type=Path, default=cache_dir() / "corpus")
    if base:
        made.add_argument("--base", type=Path, default=ROOT / "models" / "e2gan_base.safetensors")
    made.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    return made


def study_from(name: str, args: argparse.Namespace) -> Study:
    scale = Scale(**{key: getattr(args, key) for key in asdict(Scale())})
    base = file_sha256(args.base)[:12] if "base" in args else None
    return Study(name, scale, args.seeds, args.targets, base, args.corpus, args.device)

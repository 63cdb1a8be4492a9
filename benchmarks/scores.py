"""How close a concept comes to its teacher on held-out photographs: LPIPS (VGG) and KID (EfficientNet-Lite0).

Baselines in the same run: the untouched input and, where one was trained, a full fine-tune of all weights. Pictures of one scene
are alike, so errors are taken over scenes.
"""

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from hotpath.benchmarks.efficientnet import Features, kid
from hotpath.benchmarks.record import record
from hotpath.engine.e2gan.checkpoint import file_sha256, load_base, load_concept
from hotpath.engine.e2gan.network import E2GAN, Network
from hotpath.engine.precision import choose
from hotpath.training.command import load_pairs
from hotpath.training.grid import to_uint8
from hotpath.training.loop import to_grey, to_signed
from hotpath.training.lpips_weights import load_lpips
from hotpath.training.perceptual import LPIPS
from hotpath.training.sources import cache_dir, fetch
from hotpath.training.teachers import POOL
from safetensors import safe_open
from torch import Tensor

CHUNK = 10


def edited(network: Network, e2gan: E2GAN, photographs: Tensor) -> Tensor:
    """uint8 [N, H, W, 3] through the network."""
    return torch.cat([to_uint8(network(chunk, e2gan.blend)) for chunk in photographs.split(CHUNK)])


def distances(lpips: LPIPS, a: Tensor, b: Tensor) -> np.ndarray:
    """LPIPS of uint8 pictures [N, H, W, 3], as [N]."""
    pairs = zip(a.split(CHUNK), b.split(CHUNK), strict=True)
    with torch.inference_mode():
        return torch.cat([lpips(to_signed(x), to_signed(y)) for x, y in pairs]).numpy()


def jackknife(scenes: Sequence[str], statistic: Callable[[np.ndarray], float]) -> float:
    """Standard error of a statistic of some of the pictures (a mask [N]), by leaving out one scene after the other (Tukey 1958)."""
    of = np.asarray(scenes)
    without = np.asarray([statistic(of != scene) for scene in dict.fromkeys(scenes)])
    return float(np.sqrt((len(without) - 1) * without.var()))


def score(
    lpips: LPIPS, features: Features, teacher: Tensor, scenes: Sequence[str], sets: Mapping[str, Tensor]
) -> dict[str, float]:
    """Mean LPIPS and KID of each named set of pictures against the teacher's, each with its standard error over `scenes`."""
    wanted, row = features(teacher), {}
    for name, pictures in sets.items():
        values, found = distances(lpips, pictures, teacher), features(pictures)
        for metric, statistic in {
            "lpips": lambda kept, values=values: float(values[kept].mean()),
            "kid": lambda kept, found=found: float(kid(found[kept], wanted[kept])),
        }.items():
            row[f"{metric}_{name}"] = round(statistic(np.ones(len(values), bool)), 4)
            row[f"{metric}_{name}_se"] = round(jackknife(scenes, statistic), 4)
    return row


def scenes_of(corpus: Path, concept: str) -> list[str]:
    """The scene of each held-out picture of a concept."""
    for name in (concept, "photographs"):  # one with pictures of its own names their scenes itself
        with safe_open(corpus / f"{name}.safetensors", "pt") as file:
            if found := (file.metadata() or {}).get("held_out_scenes"):
                return json.loads(found)
    raise SystemExit(f"Expected the scenes of the held-out pictures in {corpus}, found none: make the corpus again.")


def steps_of(info: Mapping[str, object]) -> int:
    return int(dict(info["settings"])["steps"])


def run(models: Path, full: Path | None, corpus: Path | None) -> None:
    """Score every concept in `models/concepts`; `full` holds <concept>_full.safetensors of full fine-tunes."""
    packages, corpus = fetch(photographs=False), corpus or cache_dir() / "corpus"
    lpips = load_lpips(packages)
    features = Features(torch.load(packages.efficientnet, weights_only=True, map_location="cpu"))
    base = load_base(models / "e2gan_base.safetensors")
    dtype = choose(torch.device("cpu")).dtype
    network = Network(base, dtype)
    for path in sorted((models / "concepts").glob("*.safetensors")):
        concept = load_concept(path)
        pairs = load_pairs(corpus, [POOL[concept.name]], concept.context[None], "held_out")
        photographs = to_signed(pairs.photographs)
        photographs = to_grey(photographs) if pairs.grey_input[0] else photographs
        e2gan = E2GAN(base).with_concept(concept, 1.0)
        sets = {"input": to_uint8(photographs), "student": edited(network, e2gan, photographs)}
        steps = {"steps": steps_of(concept.info)}
        rival = full / f"{concept.name}_full.safetensors" if full else None
        if rival and rival.exists():
            tuned = load_base(rival)
            sets["full"] = edited(Network(tuned, dtype), E2GAN(tuned), photographs)
            steps["full_steps"] = steps_of(tuned.info)
        scenes = scenes_of(corpus, concept.name)
        row = score(lpips, features, pairs.edits[0], scenes, sets)
        record(
            "e2gan_scores",
            "cpu",
            {
                "concept": concept.name,
                "sha256": file_sha256(path),
                "pictures": len(photographs),
                "scenes": len(set(scenes)),
                "side_px": 256,
                **steps,
                **row,
            },
        )
        sys.stdout.write(f"{concept.name:20s} {row}\n")
        sys.stdout.flush()

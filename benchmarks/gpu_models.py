"""Whole networks on a GPU: as they are, in channels_last, with our operations, each launched call by call and as a CUDA graph."""

from __future__ import annotations

import gc
import importlib.util
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from hotpath.benchmarks.gpu_clock import call_us, graph_us, summary, wall_us
from hotpath.benchmarks.gpu_unet import fuse, inputs, unet
from hotpath.engine.e2gan.checkpoint import load_base, load_concept
from hotpath.engine.e2gan.concept import merged_weights
from hotpath.engine.e2gan.model import Architecture, Generator, initialise
from hotpath.kernels.dispatch import Operation, distance
from hotpath.kernels.instance_norm_act import INSTANCE_NORM_ACT
from torch import Tensor

MODELS = Path(__file__).resolve().parents[1] / "models"
TOY = Architecture(stem_width=24, down1_width=16, width=16, text_width=12, text_tokens=4, modulation_width=8)
ALLOWED = 2e-2  # relative distance of a network's result in float16 from that of the network as it is
Variant = tuple[str, Callable[..., Tensor], tuple]


@contextmanager
def by_torch(operation: Operation) -> Iterator[None]:
    """While it lasts, an operation runs by its last way."""
    ways = operation.ways
    operation.ways = ways[-1:]
    operation.forget()
    try:
        yield
    finally:
        operation.ways = ways
        operation.forget()


def e2gan(device: str, side: int, *, toy: bool) -> Iterator[Variant]:
    """The bundled generator as comic, or a toy, in the formats of `engine.e2gan.network`; "eager" and "channels_last" norm by torch."""
    torch.manual_seed(0)
    if toy:
        network, context = initialise(Generator(TOY), 0), torch.randn(1, TOY.text_tokens, TOY.text_width)
    else:
        base, concept = load_base(MODELS / "e2gan_base.safetensors"), load_concept(MODELS / "concepts" / "comic.safetensors")
        network, context = Generator(base.architecture), concept.context[None]
        network.load_state_dict({**base.weights, **merged_weights(base.weights, ((concept, 1.0),))})
    network = network.to(device, torch.float16).unwrapped().eval().requires_grad_(False)
    network.transformer.float(), network.modulation.float()
    image = torch.rand(1, 3, side, side, device=device).half() * 2 - 1
    text = network.read(context.to(device))
    text = text._replace(modulations=text.modulations.half())

    def run(image: Tensor) -> Tensor:
        return network(image, text=text)

    with by_torch(INSTANCE_NORM_ACT):
        yield "eager", run, (image,)
        network.to(memory_format=torch.channels_last)
        image = image.contiguous(memory_format=torch.channels_last)
        yield "channels_last", run, (image,)
    yield "ours", run, (image,)


def sd15(device: str, side: int, batch: int, *, toy: bool) -> Iterator[Variant]:
    """The UNet of SD1.5, one step."""
    network = unet(device, torch.float16, toy=toy)
    torch.manual_seed(0)
    latents, times, context = inputs(network, side, batch)

    def run(latents: Tensor, times: Tensor, context: Tensor) -> Tensor:
        return network(latents, times, context, return_dict=False)[0]

    yield "eager", run, (latents, times, context)
    network.to(memory_format=torch.channels_last)
    latents = latents.contiguous(memory_format=torch.channels_last)
    yield "channels_last", run, (latents, times, context)
    fuse(network)
    yield "ours", run, (latents, times, context)


def networks(device: str, *, toy: bool = False) -> Iterator[tuple[str, Iterator[Variant]]]:
    """(name, variants) of everything to time; variants are made one after the other and change what was before."""
    for side in (32,) if toy else (256, 512, 1024):
        yield f"e2gan {side} px float16", e2gan(device, side, toy=toy)
    if importlib.util.find_spec("diffusers") is None:
        print("no UNet is timed: diffusers is not installed")
        return
    for side, batch in ((64, 1),) if toy else ((512, 1), (512, 2), (1024, 1)):
        yield f"unet sd15 {side} px batch {batch} float16", sd15(device, side, batch, toy=toy)


def timed_network(name: str, variants: Iterator[Variant], *, dry: bool) -> dict[str, Any]:
    """One row: each variant by calls and as a graph, and how many times faster than the best of torch's ours is; or what is wrong."""
    row: dict[str, Any] = {"case": name}
    wanted, best = None, {True: float("inf"), False: float("inf")}  # by whether it is ours
    for variant, run, arguments in variants:
        result = run(*arguments)
        wanted = result if wanted is None else wanted
        off = distance(result, wanted)
        if not off <= ALLOWED:
            row["wrong"] = f"{variant} is {off:.2g} away from the network as it is, over {ALLOWED:g}"
            return row
        row[f"{variant} off"] = float(f"{off:.2g}")
        clocks = {"": wall_us} if dry else {"": call_us, " graph": lambda run, sets: graph_us(run, sets, rounds=1)}
        for suffix, clock in clocks.items():
            try:
                row[variant + suffix] = summary(clock(run, [arguments] * 2))
                best[variant == "ours"] = min(best[variant == "ours"], row[variant + suffix]["median_us"])
            except Exception as error:  # a graph may not be had; that is a result too
                row[variant + suffix] = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:120]}"
    if max(best.values()) < float("inf"):
        row["times_best_of_torch"] = round(best[False] / best[True], 2)
    gc.collect()
    return row

"""Rank search: which crucial layer of a concept deserves how many ranks (E2GAN's "simple yet effective rank search").

The paper prints no algorithm; this one is ours, after its outline. Every crucial layer starts with rank 1. In each round the
factors train a little, then the layers that would gain most from one more direction get twice their rank, until the numbers
allowed are used or a round no longer lowers the held-out loss. Factors are kept from round to round, so no step is lost.

What a layer would gain: let G be the loss's gradient in its weight, over several batches. LoRA reaches the part of G in the rows of
A and the columns of B; of the rest, (I - B B+) G (I - A+ A), the largest singular value squared is the first-order gain of one more
direction. It is divided by the numbers that direction stores.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from ..engine.e2gan.checkpoint import Base
from ..engine.e2gan.concept import CRUCIAL_LAYERS, DEFAULT_RANKS, MODULATION
from .loop import Pairs, Settings, Step, Trainer, held_out_losses
from .lora import Factors, attach, factors, generator_of
from .losses import LossWeights
from .perceptual import LPIPS

GROWN_SHARE = 0.5  # of the layers, in each round
LEAST_GROWTH = 1.1  # of the numbers, or it is not worth another round
LEAST_GAIN = 0.004  # of the held-out loss; a round below it is the last
PROBES = 6  # batches of gradients
ROUNDS, ROUND_STEPS = 6, 20  # at most
TIMED = 3  # steps of a round after which it is known whether the round fits into the time


@dataclass(frozen=True)
class Round:
    """What a round started with and came to: ranks, numbers stored, loss on held-out pictures, gain per number of each layer."""

    ranks: Mapping[str, int]
    numbers: int
    loss: float
    gains: Mapping[str, float]


@dataclass(frozen=True)
class Found:
    """Ranks by layer, factors to go on from, and how they were found; `cut` if the time was over before the search was."""

    ranks: Mapping[str, int]
    factors: Factors | None
    trace: tuple[Round, ...]
    cut: bool = False

    @property
    def text(self) -> str:
        if not self.trace:
            return "default ranks (no time to search)"
        rounds = "1 round" if len(self.trace) == 1 else f"{len(self.trace)} rounds"
        return f"ranks searched in {rounds}" + (" (ended by the time)" if self.cut else "")


WITHOUT_CRITIC = LossWeights(adversarial=0.0)


def cost(weight: Tensor) -> int:
    """Numbers stored for one rank of a layer: in * k * k + out."""
    return weight[0].numel() + weight.shape[0]


def numbers_of(ranks: Mapping[str, int], weights: Mapping[str, Tensor]) -> int:
    return sum(rank * cost(weights[f"{layer}.weight"]) for layer, rank in ranks.items())


def unreached(gradient: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """(I - B B+) G (I - A+ A) of matrices G [out, in], A [r, in], B [out, r]."""
    rows = torch.linalg.qr(a.T)[0]
    left = torch.linalg.svd(b, full_matrices=False)
    columns = left.U[:, 1e-6 * left.S.amax().clamp_min(1e-12) < left.S]
    rest = gradient - columns @ (columns.T @ gradient)
    return rest - (rest @ rows) @ rows.T


def _gains(trainer: Trainer, layers: Mapping[str, int]) -> dict[str, float]:
    """Gain per stored number of one more rank, for each layer that can take one."""
    modules = {layer: trainer.generator.get_submodule(layer) for layer in layers}
    originals = {layer: module.parametrizations.weight.original for layer, module in modules.items()}
    for weight in originals.values():
        weight.requires_grad_(True)
        weight.grad = None
    for _ in range(PROBES):
        photograph, edit, concepts = trainer.batch()
        window = trainer.window()
        with torch.autocast(trainer.device.type, torch.bfloat16):
            output = trainer.generator(photograph, trainer.pairs.contexts[concepts])
            loss = F.l1_loss(output.float(), edit) + trainer.lpips(output[window], edit[window]).mean()
        loss.backward()
    gains = {}
    for layer, weight in originals.items():
        gradient, low_rank = weight.grad.float().flatten(1), modules[layer].parametrizations.weight[0]
        rest = unreached(gradient, low_rank.a.detach().flatten(1), low_rank.b.detach().flatten(1))
        gains[layer] = float(torch.linalg.matrix_norm(rest, 2)) ** 2 / cost(weight)
        weight.requires_grad_(False)
        weight.grad = None
    for parameter in trainer.parameters.values():
        parameter.grad = None
    return gains


def grown(ranks: Mapping[str, int], gains: Mapping[str, float], weights: Mapping[str, Tensor], budget: int) -> dict[str, int]:
    """Double the ranks of the best layers, best first, as far as the budget of numbers allows; at most half of the layers."""
    result, order = dict(ranks), sorted(gains, key=lambda layer: -gains[layer])
    most = max(1, round(GROWN_SHARE * len(order)))
    for layer in order:
        weight = weights[f"{layer}.weight"]
        # One concept has one context, so rank 1 of the modulation sets every scale and shift freely.
        limit = 1 if layer in MODULATION else min(weight.shape[0], weight[0].numel())
        candidate = {**result, layer: min(2 * ranks[layer], limit)}
        if candidate[layer] > ranks[layer] and numbers_of(candidate, weights) <= budget:
            result, most = candidate, most - 1
            if most == 0:
                break
    return result


def search(
    base: Base,
    pairs: Pairs,
    held_out: Pairs,
    lpips: LPIPS,
    settings: Settings,
    *,
    budget: int,
    rounds: int = ROUNDS,
    round_steps: int = ROUND_STEPS,
    deadline: float = float("inf"),
    clock: Callable[[], float] = time.perf_counter,
) -> Iterator[Step | Found]:
    """Yields each training step, and at the end what was found. `budget`: numbers that the factors may hold together.

    A round that would not end before `deadline` (in seconds of `clock`) is left out or broken off: the ranks it was to try are
    taken, or the default ones where it is the first.
    """
    ranks, start, trace, took, cut = dict.fromkeys(CRUCIAL_LAYERS, 1), None, [], 0.0, False
    for _ in range(rounds):
        began = clock()
        if cut := began + took > deadline:
            break
        generator = generator_of(base, pairs.contexts.device)
        parameters = attach(generator, ranks, settings.seed + len(trace), start)
        steady = replace(settings, steps=10**6, warmup=1, seed=settings.seed + len(trace), weights=WITHOUT_CRITIC)
        trainer = Trainer(generator, parameters, pairs, lpips, steady)
        for _ in range(round_steps):
            step = trainer.train_step()
            yield replace(step, index=len(trace) * round_steps + step.index)
            expected = (clock() - began) / step.index * (round_steps + PROBES)
            if cut := step.index >= TIMED and began + expected > deadline:
                break
        if cut:
            break
        start, losses = factors(parameters), held_out_losses(generator, held_out, lpips)
        gains = _gains(trainer, ranks)
        trace.append(Round(ranks, numbers_of(ranks, base.weights), sum(losses.values()), gains))
        if len(trace) > 1 and trace[-1].loss > (1 - LEAST_GAIN) * trace[-2].loss:
            break
        larger = grown(ranks, gains, base.weights, budget)
        if numbers_of(larger, base.weights) < LEAST_GROWTH * numbers_of(ranks, base.weights) or len(trace) == rounds:
            break
        ranks, took = larger, clock() - began
    yield Found(ranks, start, tuple(trace), cut) if trace else Found(DEFAULT_RANKS, None, (), cut)

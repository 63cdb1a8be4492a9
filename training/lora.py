"""LoRA factors on a frozen generator, while they are being trained."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ..engine.e2gan.checkpoint import Base
from ..engine.e2gan.concept import low_rank_product
from ..engine.e2gan.model import Generator

Factors = Mapping[str, tuple[Tensor, Tensor]]


def generator_of(base: Base, device: str | torch.device) -> Generator:
    """A generator of its own with the base's weights."""
    generator = Generator(base.architecture)
    generator.load_state_dict(base.weights)
    return generator.to(device, memory_format=torch.channels_last).unwrapped()


class LowRank(nn.Module):
    """weight -> weight + B A, with A random and B zero (Hu et al. 2021, section 4.1), or going on from `start` of a lower rank."""

    def __init__(self, weight: Tensor, rank: int, random: torch.Generator, start: tuple[Tensor, Tensor] | None = None) -> None:
        super().__init__()
        out, inputs, *kernel = weight.shape
        a = torch.randn(rank, inputs, *kernel, generator=random) / math.sqrt(weight[0].numel())
        b = torch.zeros(out, rank, *(1 for _ in kernel))
        if start is not None:
            known = start[0].shape[0]
            a[:known], b[:, :known] = start
        self.a, self.b = nn.Parameter(a.to(weight.device)), nn.Parameter(b.to(weight.device))

    def forward(self, weight: Tensor) -> Tensor:
        return weight + low_rank_product(self.a, self.b)


def attach(generator: Generator, ranks: Mapping[str, int], seed: int, start: Factors | None = None) -> dict[str, nn.Parameter]:
    """Freeze the generator, put LoRA on the layers in `ranks`, and return the factors as `<layer>.a`, `<layer>.b`.

    `start` holds factors of the same or lower ranks to go on from.
    """
    generator.requires_grad_(False)
    random, parameters = torch.Generator().manual_seed(seed), {}
    for layer, rank in ranks.items():
        module = generator.get_submodule(layer)
        low_rank = LowRank(module.weight, rank, random, (start or {}).get(layer))
        parametrize.register_parametrization(module, "weight", low_rank)
        parameters |= {f"{layer}.a": low_rank.a, f"{layer}.b": low_rank.b}
    return parameters


def factors(parameters: Mapping[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
    """Named factors back to {layer: (A, B)}."""
    layers = dict.fromkeys(name.removesuffix(".a").removesuffix(".b") for name in parameters)
    return {layer: (parameters[f"{layer}.a"].detach().cpu(), parameters[f"{layer}.b"].detach().cpu()) for layer in layers}

"""LoRA factors on a frozen generator, while they are being trained."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ..engine.e2gan.concept import low_rank_product
from ..engine.e2gan.model import Generator


class LowRank(nn.Module):
    """weight -> weight + B A, with A random and B zero at the start (Hu et al. 2021, section 4.1)."""

    def __init__(self, weight: Tensor, rank: int, random: torch.Generator) -> None:
        super().__init__()
        out, inputs, *kernel = weight.shape
        start = torch.randn(rank, inputs, *kernel, generator=random) / math.sqrt(weight[0].numel())
        self.a = nn.Parameter(start.to(weight.device))
        self.b = nn.Parameter(torch.zeros(out, rank, *(1 for _ in kernel), device=weight.device))

    def forward(self, weight: Tensor) -> Tensor:
        return weight + low_rank_product(self.a, self.b)


def attach(generator: Generator, ranks: Mapping[str, int], seed: int) -> dict[str, nn.Parameter]:
    """Freeze the generator, put LoRA on the layers in `ranks`, and return the factors as `<layer>.a`, `<layer>.b`."""
    generator.requires_grad_(False)
    random, parameters = torch.Generator().manual_seed(seed), {}
    for layer, rank in ranks.items():
        module = generator.get_submodule(layer)
        low_rank = LowRank(module.weight, rank, random)
        parametrize.register_parametrization(module, "weight", low_rank)
        parameters |= {f"{layer}.a": low_rank.a, f"{layer}.b": low_rank.b}
    return parameters


def factors(parameters: Mapping[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
    """Named factors back to {layer: (A, B)}."""
    layers = dict.fromkeys(name.removesuffix(".a").removesuffix(".b") for name in parameters)
    return {layer: (parameters[f"{layer}.a"].detach().cpu(), parameters[f"{layer}.b"].detach().cpu()) for layer in layers}

"""What a generator is trained on: pixels, LPIPS and a patch discriminator's opinion."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class LossWeights:
    """Weights of the generator's loss; pix2pix's convention scaled so that L1 has weight 1."""

    l1: float = 1.0
    lpips: float = 1.0
    adversarial: float = 0.05


class PatchDiscriminator(nn.Module):
    """Realness of overlapping 26 px patches of (photograph, edit), after pix2pix (Isola et al. 2017), as a map [B, 1, h, w].

    A concept index adds a learned projection (Miyato & Koyama 2018), so that one discriminator serves many concepts.
    """

    def __init__(self, width: int = 48, concepts: int = 1) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            [
                nn.Conv2d(6, width, 4, 2, 1),
                nn.Conv2d(width, 2 * width, 4, 2, 1),
                nn.Conv2d(2 * width, 4 * width, 3, 1, 1),
            ]
        )
        self.realness = nn.Conv2d(4 * width, 1, 3, 1, 1)
        self.embedding = nn.Embedding(concepts, 4 * width)
        for layer in (*self.layers, self.realness):
            nn.utils.parametrizations.spectral_norm(layer)

    def forward(self, photograph: Tensor, edit: Tensor, concept: Tensor) -> Tensor:
        x = torch.cat([photograph, edit], 1)
        for layer in self.layers:
            x = F.leaky_relu(layer(x), 0.2)
        projection = (self.embedding(concept)[:, :, None, None].to(x.dtype) * x).mean(1, keepdim=True)
        return self.realness(x) + projection


def discriminator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """Hinge loss (Lim & Ye 2017)."""
    return F.relu(1 - real.float()).mean() + F.relu(1 + fake.float()).mean()


def adversarial_loss(fake: Tensor) -> Tensor:
    return -fake.float().mean()

"""Which pairs to train on: the ones nearest to the centres of clusters of similar pictures (E2GAN's data reduction).

The paper clusters pictures and keeps those near the centres (CLIP features, reported second-hand); here the features are VGG16's,
pooled to mean and standard deviation of each channel, because those weights are at hand wherever training is.
"""

import warnings
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..engine.errors import InvalidInput
from .loop import to_signed
from .perceptual import LPIPS

CHUNK = 8


@torch.no_grad()
def features(lpips: LPIPS, pictures: Tensor, side: int = 128, on_chunk: Callable[[int], None] = lambda done: None) -> Tensor:
    """uint8 pictures [N, H, W, 3] to feature vectors [N, D] of unit length, float32.

    `on_chunk` gets the number of pictures done; raising from it stops the work.
    """
    device = lpips.shift.device
    rows = []
    for chunk in pictures.split(CHUNK):
        small = F.interpolate(to_signed(chunk.to(device)), (side, side), mode="area")
        last = lpips.features(small)[-1].float().flatten(2)
        rows.append(F.normalize(torch.cat([last.mean(2), last.std(2)], 1)).cpu())
        on_chunk(sum(map(len, rows)))
    return torch.cat(rows)


def nearest_to_centres(vectors: Tensor, count: int, seed: int) -> list[int]:
    """Indices of `count` of the vectors [N, D], one nearest to the centre of each of `count` k-means clusters, in order.

    A cluster may lose its members to a neighbour; the places left over go to the vectors farthest from all that are kept.
    """
    total = len(vectors)
    if not 1 <= count <= total:
        raise InvalidInput(f"Expected to keep from 1 to {total} of {total} pairs, got {count}.")
    if count == total:
        return list(range(total))
    from scipy.cluster.vq import kmeans2

    data = vectors.double().numpy()
    with warnings.catch_warnings(), np.errstate(invalid="ignore"):
        warnings.simplefilter("ignore")  # of empty clusters: their places are given away below
        centres, labels = kmeans2(data, count, minit="++", seed=np.random.default_rng(seed), iter=30)
    kept = set()
    for cluster in range(count):
        members = np.flatnonzero(labels == cluster)
        if len(members):
            kept.add(int(members[np.argmin(((data[members] - centres[cluster]) ** 2).sum(1))]))
    while len(kept) < count:
        distance = torch.cdist(vectors, vectors[sorted(kept)]).amin(1)
        distance[sorted(kept)] = -1
        kept.add(int(distance.argmax()))
    return sorted(kept)

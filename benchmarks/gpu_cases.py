"""Shapes that are timed on a GPU, each named after the network it comes from, and the tiles that are tried for them."""

import importlib.util
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
from hotpath.kernels.instance_norm_act import INSTANCE_NORM_ACT
from hotpath.kernels.instance_norm_act import plan as instance_norm_act_plan
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
# (network, channels, side of the map, what is added: "" nothing, "r" a residual, "g" one with a gain)
PICTURES = [
    ("e2gan-256", 256, 34, ""), ("e2gan-256", 256, 34, "r"), ("e2gan-256", 256, 17, ""), ("e2gan-256", 128, 68, "g"), ("e2gan-256", 64, 136, "g"),
    ("e2gan-1024", 256, 130, "r"), ("e2gan-1024", 64, 520, "g"),
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
    "instance_norm_act": [(64, 64, 4), (32, 128, 4), (128, 64, 8), (32, 64, 4), (16, 256, 4), (32, 32, 4)],
    "geglu": [(1024, 4), (512, 4), (256, 2), (2048, 8)],
    "add_layer_norm": [(1,), (2,), (4,), (8,)],
}  # fmt: skip

KITCHEN = "comfy_kitchen"  # its attention computes in int8

PLANS = {
    "attention": attention_plan,
    "group_norm_silu": group_norm_silu_plan,
    "instance_norm_act": instance_norm_act_plan,
    "geglu": geglu_plan,
    "add_layer_norm": add_layer_norm_plan,
}


@dataclass(frozen=True)
class Timed:
    """make(device) gives fresh random arguments; rivals are what torch and comfy-kitchen offer, by name, the first of them exact.

    flops and bytes are the least there is to do.
    """

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


def _instance_norm_act(
    x: Tensor, scale: Tensor, shift: Tensor, relu: bool, residual: Tensor | None, gain: Tensor | None
) -> Tensor:
    y = F.group_norm(x, x.shape[1], scale[0], shift[0])
    if residual is not None:
        y = y + residual if gain is None else torch.addcmul(y, residual, gain[:, :, None, None])
    return F.relu(y) if relu else y


def _kitchen_attention(q: Tensor, k: Tensor, v: Tensor, heads: int, mask: None, scale: None) -> Tensor:
    import comfy_kitchen

    q, k, v = (t.unflatten(-1, (heads, -1)).transpose(1, 2) for t in (q, k, v))
    return comfy_kitchen.int8_attention(q, k, v).transpose(1, 2).flatten(2)


def _kitchen_group_norm_silu(
    x: Tensor, groups: int, weight: Tensor, bias: Tensor, eps: float, silu: bool, conv: None, embedding: Tensor
) -> Tensor:
    import comfy_kitchen

    x = (x + embedding[..., None, None]).unsqueeze(2)  # its maps are frames of a film
    return comfy_kitchen.group_norm_silu_pad3d(x, weight, bias, groups, eps, silu=silu).squeeze(2)


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
    backends = {name: _sdpa(backend) for name, backend in ({"torch": None} if toy else BACKENDS).items()}
    kitchen = importlib.util.find_spec("comfy_kitchen") is not None and not toy

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
            {**backends, **({KITCHEN: _kitchen_attention} if kitchen else {})},
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
            {"eager": _group_norm_silu, **({KITCHEN: _kitchen_group_norm_silu} if kitchen else {})},
            0,
            2 * size * batch * channels * side * side,
        )  # fmt: skip
    for network, channels, side, added in [("toy", 32, 4, "r"), ("toy", 32, 24, "g")] if toy else PICTURES:

        def picture(device: str, channels: int = channels, side: int = side, added: str = added) -> tuple:
            x, residual = (random(device, batch, channels, side, side).to(memory_format=torch.channels_last) for _ in range(2))
            scale, shift, gain = (random(device, 1, channels) for _ in range(3))
            return x, scale, shift, added != "r", residual if added else None, gain if added == "g" else None

        yield Timed(
            f"instance_norm_act {network} {batch}x{channels}x{side}x{side}{added and '-' + added} {kind}",
            INSTANCE_NORM_ACT,
            picture,
            {"eager": _instance_norm_act},
            0,
            (3 if added else 2) * size * batch * channels * side * side,
        )
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

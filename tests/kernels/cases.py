"""What the Triton kernels are proven on: odd sizes, views, masks and large numbers, and the faults that must not go unseen."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from hotpath.kernels.add_layer_norm.api import by_torch as add_layer_norm_by_torch
from hotpath.kernels.add_layer_norm.reference import add_layer_norm_reference
from hotpath.kernels.attention.api import by_torch as attention_by_torch
from hotpath.kernels.attention.reference import attention_reference
from hotpath.kernels.geglu.api import by_torch as geglu_by_torch
from hotpath.kernels.geglu.reference import geglu_reference
from hotpath.kernels.group_norm_silu.api import by_torch as group_norm_silu_by_torch
from hotpath.kernels.group_norm_silu.reference import group_norm_silu_reference
from hotpath.kernels.instance_norm_act.api import by_torch as instance_norm_act_by_torch
from hotpath.kernels.instance_norm_act.reference import instance_norm_act_reference
from hotpath.tests.testing import random
from torch import Tensor

HALF, BRAIN, FULL = torch.float16, torch.bfloat16, torch.float32


@dataclass(frozen=True)
class Case:
    """arguments() are given to the kernels' `forward`, to `plain` (torch in the same dtype), and in float64 to `exact`.

    far: numbers far from zero, of which float32 keeps fewer digits behind the point; only torch's own error is the measure then.
    """

    name: str
    room: str
    arguments: Callable[[], tuple]
    exact: Callable
    plain: Callable

    @property
    def far(self) -> bool:
        return self.name.endswith("-far")


@dataclass(frozen=True)
class Fault:
    """A piece of a kernel's source and what it is replaced with; `case` has to see it."""

    name: str
    case: str
    old: str
    new: str


# ---- attention


def heads_of(
    batch: int, rows: int, keys: int, heads: int, width: int, dtype: torch.dtype, *, key_heads: int = 0, size: float = 1.0
):
    source = random(rows * 1000 + keys)
    shapes = ((rows, heads), (keys, key_heads or heads), (keys, key_heads or heads))
    q, k, v = (torch.randn(batch, n, h * width, generator=source) for n, h in shapes)
    return (q * size).to(dtype), (k * size).to(dtype), v.to(dtype)


def attend(batch: int, rows: int, keys: int, heads: int, width: int, dtype: torch.dtype, mask: str = "", **options) -> tuple:
    q, k, v = heads_of(batch, rows, keys, heads, width, dtype, **options)
    return q, k, v, heads, key_mask(mask, batch, keys), None


def key_mask(kind: str, batch: int, keys: int) -> Tensor | None:
    """bool: a third of the keys forbidden. shared: the same for all pictures, in four dimensions. none: no key allowed for the last picture. first: the first 64 forbidden. added: numbers."""
    chance = torch.rand(batch, keys, generator=random(keys))
    if kind == "added":
        return (chance * 4 - 2).masked_fill(chance < 0.2, torch.finfo(torch.float32).min).masked_fill(chance > 0.9, -torch.inf)
    if not kind:
        return None
    mask = chance > 0.33
    if kind == "shared":
        return mask[:1, None, None]
    if kind == "none":
        mask[-1] = False
    if kind == "first":
        mask[:, :64] = False
    return mask


def packed(dtype: torch.dtype) -> tuple:
    """q, k and v as views of one tensor, off its start."""
    both = torch.randn(2, 100, 16 + 3 * 80, generator=random(1)).to(dtype)
    return *(both[:, 3:, 16 + i * 80 : 96 + i * 80] for i in range(3)), 2, None, None


def heads_first(dtype: torch.dtype) -> tuple:
    """[B, N, H, D] views of [B, H, N, D] memory."""
    q, k, v = (t.unflatten(-1, (2, 40)).transpose(1, 2).contiguous().transpose(1, 2) for t in heads_of(2, 65, 90, 2, 40, dtype))
    return q, k, v, 2, None, None


def attention_cases() -> list[Case]:
    forms: dict[str, Callable[[], tuple]] = {}
    for rows, keys, width in ((130, 63, 40), (17, 170, 80), (33, 231, 64), (20, 100, 160), (5, 100, 128), (1, 1, 40)):
        for dtype in (HALF, BRAIN, FULL):
            forms[f"flash-{rows}x{keys}x{width}-{dtype}"] = partial(attend, 2, rows, keys, 2, width, dtype)
    for rows, keys, width in ((130, 77, 40), (65, 77, 80), (20, 77, 160), (33, 77, 64), (70, 154, 40), (9, 80, 80), (9, 65, 40)):
        for dtype in (HALF, BRAIN):
            forms[f"short-{rows}x{keys}x{width}-{dtype}"] = partial(attend, 1, rows, keys, 2, width, dtype)
    for kind in ("bool", "none", "first", "added"):
        for keys in (77, 170):
            forms[f"mask-{kind}-{keys}"] = partial(attend, 2, 9, keys, 2, 40, HALF, kind)
    for keys in (77, 170):
        forms[f"mask-shared-{keys}"] = partial(attend, 2, 9, keys, 2, 40, HALF, "shared")
    forms["huge-flash"] = partial(attend, 1, 20, 170, 2, 40, HALF, size=50.0)
    forms["huge-short"] = partial(attend, 1, 20, 77, 2, 40, HALF, size=50.0)
    forms["grouped-heads"] = partial(attend, 2, 20, 170, 4, 40, HALF, key_heads=2)
    forms["grouped-heads-short"] = partial(attend, 2, 20, 77, 4, 40, HALF, key_heads=1)
    for dtype in (HALF, FULL):
        forms[f"packed-{dtype}"] = partial(packed, dtype)
        forms[f"heads-first-{dtype}"] = partial(heads_first, dtype)
    forms["scaled"] = lambda: (*attend(1, 20, 90, 2, 40, HALF)[:5], 0.5)
    return [Case(f"attention-{name}", "attention", form, attention_reference, attention_by_torch) for name, form in forms.items()]


MASK = "+= tl.load(mask + b * mask_batch + m, mask=key_ok, other=0.0)[None, :] * 1.4426950408889634"
ATTENTION_FAULTS = [
    Fault("dropped mask", "attention-mask-bool-170", MASK, "+= 0.0"),
    Fault("mask of another picture", "attention-mask-bool-170", "mask + b * mask_batch + m,", "mask + m,"),
    Fault("mask in the wrong unit", "attention-mask-added-170", " * 1.4426950408889634", ""),
    Fault("unguarded rows without keys", "attention-mask-none-170", "if MASKED else new_top", "if False else new_top"),
    Fault("dropped tail of keys", "attention-flash-17x170x80-torch.float16", "tl.where(key_ok[None, :], logits, -float(\"inf\"))", "logits"),
    Fault("dropped tail of a short kernel", "attention-short-130x77x40-torch.float16", "tl.where(key_ok[None, :], c, -float(\"inf\"))", "c"),
    Fault("missing rescale", "attention-huge-flash", "out0 * fade[:, None]", "out0"),
    Fault("missing rescale of the sum", "attention-flash-17x170x80-torch.float16", "total * fade +", "total +"),
    Fault("no anchor", "attention-huge-flash", "logits - anchor[:, None]", "logits"),
    Fault("wrong head stride", "attention-heads-first-torch.float16", "h // SHARED, v_batch, v_head", "h // SHARED, v_batch, q_head * 0 + WIDTH"),
    Fault("wrong row stride", "attention-packed-torch.float16", "m[None, :] * k_row", "m[None, :] * (heads * WIDTH)"),
    Fault("unwritten channels", "attention-flash-130x63x40-torch.float16", "mask=row_ok & (d1[None, :] < WIDTH))", "mask=row_ok & (d1[None, :] < D0))"),
    Fault("unwritten rows", "attention-flash-130x63x40-torch.float16", "row_ok = r[:, None] < rows", "row_ok = r[:, None] < rows - 1"),
    Fault("channels beyond the head", "attention-flash-130x63x40-torch.float16", "if FROM + D > WIDTH:", "if FROM + D > 2 * WIDTH:"),
    Fault("dropped second part", "attention-flash-20x100x160-torch.float16", "logits = _dot(q1,", "logits += 0.0 * _dot(q1,"),
]  # fmt: skip

# ---- group norm and SiLU


def maps(
    shape: tuple[int, ...], groups: int, dtype: torch.dtype, *, silu: bool = True, added: str = "", mean: float = 0.0
) -> tuple:
    """Arguments of group_norm_silu in channels_last; `added` names what is added before the norm: b(ias), e(mbedding), s(hared)."""
    source = random(shape[1])
    x = (torch.randn(shape, generator=source) + mean).to(dtype).contiguous(memory_format=torch.channels_last)
    weight, bias, conv_bias = (torch.randn(shape[1], generator=source).to(dtype) for _ in range(3))
    embedding = torch.randn(1 if "s" in added else shape[0], shape[1], generator=source).to(dtype) * 3
    given = conv_bias if "b" in added else None, embedding if added and added != "b" else None
    return x, groups, weight, bias, 1e-5, silu, *given


def map_cases() -> list[Case]:
    forms = {}
    for dtype in (HALF, BRAIN, FULL):
        forms[f"whole-{dtype}"] = partial(maps, (2, 40, 7, 5), 4, dtype)
        forms[f"passes-{dtype}"] = partial(maps, (2, 60, 19, 34), 2, dtype)
        forms[f"whole-added-{dtype}"] = partial(maps, (2, 40, 7, 5), 4, dtype, added="be")
        forms[f"passes-added-{dtype}"] = partial(maps, (2, 60, 19, 34), 2, dtype, added="be")
    forms["whole-far"] = partial(maps, (1, 40, 7, 5), 4, FULL, mean=300.0)
    forms["passes-far"] = partial(maps, (1, 60, 19, 34), 2, FULL, mean=300.0)
    forms["passes-shared"] = partial(maps, (2, 60, 19, 34), 2, HALF, added="s")
    forms["passes-plain"] = partial(maps, (1, 150, 13, 17), 3, HALF, silu=False, added="b")
    forms["whole-plain"] = partial(maps, (1, 8, 1, 1), 2, HALF, silu=False)
    forms["long-chunks"] = partial(maps, (1, 16, 50, 50), 1, HALF)
    return [
        Case(f"maps-{name}", "group_norm_silu", form, group_norm_silu_reference, group_norm_silu_by_torch)
        for name, form in forms.items()
    ]


MAP_FAULTS = [
    Fault("spread about zero", "maps-passes-far", "values - own_mean[None, :], 0.0)", "values, 0.0)"),
    Fault("tiles not joined", "maps-long-chunks", "+ step * step * (count * more / (count + more))", ""),
    Fault("mean of the last tile", "maps-long-chunks", "mean += step * (more / (count + more))", "mean += step"),
    Fault("a partial chunk counted whole", "maps-passes-torch.float16", "tl.minimum(chunk, cells - i * chunk)", "chunk"),
    Fault("padded cells in the spread", "maps-whole-torch.float16", "tl.where(ok, values - mean, 0.0)", "values - mean"),
    Fault(
        "embedding of the first picture", "maps-passes-added-torch.float16", "embedding + b * per_picture + c", "embedding + c"
    ),
    Fault("added after the norm's mean", "maps-passes-added-torch.float16", "(added - mean) * own_gain", "-mean * own_gain"),
    Fault("statistics of the first picture", "maps-passes-torch.float16", "at = (b * chunks + i[:, None])", "at = (i[:, None])"),
    Fault("unwritten channels of maps", "maps-passes-plain", "c_ok = c < channels\n    r =", "c_ok = c < channels - 1\n    r ="),
    Fault("SiLU on plain maps", "maps-passes-plain", "if SILU:", "if True:"),
]


# ---- instance norm and what follows it


def pictures(
    shape: tuple[int, ...], dtype: torch.dtype, *, rows: int = 1, relu: bool = True, added: str = "", mean: float = 0.0
) -> tuple:
    """Arguments of instance_norm_act; rows: of scale, shift and gain; added: "" for nothing, r(esidual), g(ain) for one with a gain."""
    source = random(shape[1])
    x, residual = (torch.randn(shape, generator=source) for _ in range(2))
    x, residual = (t.to(dtype).contiguous(memory_format=torch.channels_last) for t in (x + mean, residual))
    scale, shift, gain = (torch.randn(rows, shape[1], generator=source).to(dtype) for _ in range(3))
    return x, scale, shift, relu, residual if added else None, gain if added == "g" else None


def picture_cases() -> list[Case]:
    forms = {}
    for dtype in (HALF, BRAIN, FULL):
        for name, shape in (("whole", (2, 20, 7, 5)), ("passes", (2, 70, 19, 34))):
            forms[f"{name}-{dtype}"] = partial(pictures, shape, dtype, rows=2, added="g")
            forms[f"{name}-residual-{dtype}"] = partial(pictures, shape, dtype, relu=False, added="r")
    forms["whole-plain"] = partial(pictures, (1, 40, 17, 17), HALF)
    forms["passes-plain"] = partial(pictures, (1, 64, 34, 34), HALF)
    forms["passes-long"] = partial(pictures, (1, 8, 50, 50), HALF)
    forms["one-cell"] = partial(pictures, (1, 8, 1, 1), FULL)
    forms["whole-far"] = partial(pictures, (1, 20, 7, 5), FULL, mean=300.0)
    forms["passes-far"] = partial(pictures, (1, 20, 19, 34), FULL, mean=300.0)
    return [
        Case(f"pictures-{name}", "instance_norm_act", form, instance_norm_act_reference, instance_norm_act_by_torch)
        for name, form in forms.items()
    ]


PICTURE_FAULTS = [
    Fault("squares about zero", "pictures-passes-far", "values - own_mean[None, :], 0.0)", "values, 0.0)"),
    Fault("chunks not joined", "pictures-passes-torch.float16", "+ off * off * counts", ""),
    Fault("tiles of a chunk not joined", "pictures-passes-long", "+ step * step * (count * more / (count + more))", ""),
    Fault("a short chunk counted whole", "pictures-passes-torch.float16", "tl.minimum(chunk, cells - i * chunk)", "chunk"),
    Fault("cells beyond the map in the spread", "pictures-whole-torch.float16", "tl.where(ok, values - mean[None, :], 0.0)", "values - mean[None, :]"),
    Fault("scale of the first picture", "pictures-passes-torch.float16", "scale + b * scale_step + c", "scale + c"),
    Fault("shift of the first picture", "pictures-whole-torch.float16", "shift + b * scale_step + c", "shift + c"),
    Fault("gain of the first picture", "pictures-whole-torch.float16", "gain + b * gain_step + c", "gain + c"),
    Fault("sums of the first picture", "pictures-passes-torch.float16", "place = (b * chunks + i[:, None])", "place = (i[:, None])"),
    Fault("residual left out of a map", "pictures-whole-residual-torch.float16", "y += more", "y += 0.0 * more"),
    Fault("gain not applied", "pictures-passes-torch.float16", "if GAIN:", "if False:"),
    Fault("residual within the norm's scale", "pictures-whole-residual-torch.float16", "own_gain[None, :] + own_shift[None, :]", "own_gain[None, :]"),
    Fault("ReLU left out", "pictures-passes-plain", "if RELU:", "if False:"),
    Fault("ReLU where none is wanted", "pictures-passes-residual-torch.float16", "if RELU:", "if True:"),
    Fault("unwritten channels of pictures", "pictures-passes-torch.float16", "ok = (r[:, None] < cells) & c_ok[None, :]\n    at = b.to(tl.int64) * cells * channels + r[:, None] * channels + c[None, :]\n    centred", "ok = (r[:, None] < cells) & (c < channels - 1)[None, :]\n    at = b.to(tl.int64) * cells * channels + r[:, None] * channels + c[None, :]\n    centred"),
    Fault("unwritten last cells", "pictures-passes-torch.float16", "r = tl.program_id(0) * ROWS + tl.arange(0, ROWS)\n    ok = (r[:, None] < cells)", "r = tl.program_id(0) * ROWS + tl.arange(0, ROWS)\n    ok = (r[:, None] < cells - 1)"),
]  # fmt: skip


# ---- GEGLU, and layer norm of a sum


def halves(shape: tuple[int, ...], dtype: torch.dtype, size: float = 1.0) -> tuple:
    return ((torch.randn(shape, generator=random(shape[-1])) * size).to(dtype),)


def rows_of(shape: tuple[int, ...], dtype: torch.dtype, mean: float = 0.0) -> tuple:
    source = random(shape[-1])
    x, residual = (torch.randn(shape, generator=source).to(dtype) + mean for _ in range(2))
    weight, bias = (torch.randn(shape[-1], generator=source).to(dtype) for _ in range(2))
    return x, residual, weight, bias, 1e-5


def row_cases() -> list[Case]:
    gated, normed = {}, {}
    for dtype in (HALF, BRAIN, FULL):
        gated[f"{dtype}"] = partial(halves, (2, 3, 70), dtype)
        gated[f"wide-{dtype}"] = partial(halves, (3, 2600), dtype)
        normed[f"{dtype}"] = partial(rows_of, (2, 3, 70), dtype)
        normed[f"even-{dtype}"] = partial(rows_of, (3, 64), dtype)
    gated["huge"] = partial(halves, (2, 64), HALF, 100.0)
    normed["far"] = partial(rows_of, (3, 70), FULL, 300.0)
    rooms = (
        ("geglu", gated, geglu_reference, geglu_by_torch),
        ("add_layer_norm", normed, add_layer_norm_reference, add_layer_norm_by_torch),
    )
    return [
        Case(f"{room}-{name}", room, form, exact, plain) for room, forms, exact, plain in rooms for name, form in forms.items()
    ]


ROW_FAULTS = [
    Fault("gates and values changed over", "geglu-torch.float16", "values * gates * (0.5 + 0.5 * tl.erf(gates", "values * gates * (0.5 + 0.5 * tl.erf(values"),
    Fault("rows too near", "geglu-torch.float16", "x + row * 2 * channels + c", "x + row * channels + c"),
    Fault("unwritten last values", "geglu-wide-torch.float16", "ok = c < channels", "ok = c < BLOCK"),
    Fault("padded channels in the spread", "add_layer_norm-far", "tl.where(ok, value - tl.sum(value, 0) / channels, 0.0)", "value - tl.sum(value, 0) / channels"),
    Fault("residual left out", "add_layer_norm-torch.float16", "value += tl.load(residual", "value += 0.0 * tl.load(residual"),
    Fault("mean over padded channels", "add_layer_norm-far", "tl.sum(value, 0) / channels", "tl.sum(value, 0) / PADDED"),
]  # fmt: skip

CASES = [*attention_cases(), *map_cases(), *picture_cases(), *row_cases()]
FAULTS = [*ATTENTION_FAULTS, *MAP_FAULTS, *PICTURE_FAULTS, *ROW_FAULTS]

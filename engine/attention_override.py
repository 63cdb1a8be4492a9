"""An override for a host's attention: the fastest of our ways that agrees with the host's own, chosen on first use per shape."""

import logging
from collections import Counter
from collections.abc import Callable, Hashable
from functools import partial, update_wrapper

import torch
from torch import Tensor

from ..kernels.dispatch import capturing, seconds
from . import attention

log = logging.getLogger("hotpath")

Attention = Callable[..., Tensor]
# Allowed distance to the host's attention in the same dtype, relative root mean square; both round to 8 bits in bfloat16.
TOLERANCE = {torch.float32: 1e-4, torch.float16: 5e-3, torch.bfloat16: 3e-2}
DEVICES = ("cpu", "cuda")
OVERRIDE = "optimized_attention_override"  # ComfyUI's name for it among a call's options
# What was chosen per (host's attention, shapes, dtype, device, options): a way, or the reason why none is taken. Shared by all models.
Choices = dict[Hashable, Attention | str]
CHOICES: Choices = {}


def distance(a: Tensor, b: Tensor) -> float:
    """Root mean square of a - b relative to that of b; not a number where either is not."""
    a, b = a.float(), b.float()
    return float((a - b).norm() / b.norm().clamp_min(1e-12))


def first_line(error: Exception) -> str:
    """What an error says, without torch's pages after it."""
    return str(error).partition("\n")[0]


def overriding(previous: Attention | None, counts: Counter[str], choices: Choices | None = None) -> Attention:
    """A function for `optimized_attention_override`, called as override(func, q, k, v, heads, **options).

    func: the host's attention, taken wherever ours declines. q, k, v [B, N, H*D], or [B, H, N, D] with skip_reshape.
    previous: an override that was there before; it stays in charge and gets our attention in place of `func`. The function has it
    as `hotpath_previous`.
    counts: calls taken ("taken") and declined, by reason.
    Nothing is measured while torch.compile or a CUDA graph records: a graph gets what was chosen before, a compiler the host's.
    """
    choices = CHOICES if choices is None else choices

    def override(func: Attention, *args: object, **options: object) -> Tensor:
        if torch.compiler.is_compiling():
            return func(*args, **options) if previous is None else previous(func, *args, **options)
        ours = update_wrapper(partial(_attend, func, counts, choices), func)
        return ours(*args, **options) if previous is None else previous(ours, *args, **options)

    override.hotpath_previous = previous
    return override


def _attend(
    func: Attention, counts: Counter[str], choices: Choices, q: Tensor, k: Tensor, v: Tensor, heads: int, *args, **options
) -> Tensor:
    host = partial(func, q, k, v, heads, *args, **options)
    if reason := _ineligible(q, k, v, args, options):
        counts[reason] += 1
        return host()
    mask, scale, gqa = options.get("mask"), options.get("scale"), bool(options.get("enable_gqa"))
    exact = options.get("low_precision_attention") is False or options.get("attn_precision") == torch.float32
    split = bool(options.get("skip_reshape"))
    key = (getattr(func, "__name__", func), q.shape, k.shape, q.dtype, q.device, heads, split, scale, gqa, exact)
    key += (None if mask is None else (mask.shape, mask.dtype),)

    def run(way: Attention) -> Tensor:
        width = q.shape[-1] if split else q.shape[-1] // heads
        tokens = [t if split else t.unflatten(-1, (-1, width)).transpose(1, 2) for t in (q, k, v)]
        out = way(*tokens, scale=scale) if way is attention.blocked else way(*tokens, _additive(mask, q.dtype), scale, gqa)
        return out if options.get("skip_output_reshape") else out.transpose(1, 2).flatten(2)

    if key not in choices:
        if capturing():
            return host()
        ways = _ways(q, plain=mask is None and not gqa and not exact)
        chosen = _choose(run, ways, host, q, f"{tuple(q.shape)} by {tuple(k.shape)}")
        if chosen is None:
            counts["memory ran out while choosing"] += 1
            return host()
        choices[key] = chosen
    if isinstance(choices[key], str):
        counts[choices[key]] += 1
        return host()
    counts["taken"] += 1
    return run(choices[key])


def on_gpu(q: Tensor) -> bool:
    return q.device.type == "cuda"


def _ways(q: Tensor, *, plain: bool) -> list[Attention]:
    """plain: no mask, no shared keys, and logits may be rounded."""
    if on_gpu(q):
        return [attention.fused]
    return [attention.whole, attention.blocked] if plain and q.element_size() == 2 else [attention.whole]


def _ineligible(q: Tensor, k: Tensor, v: Tensor, args: tuple, options: dict) -> str | None:
    """Why these arguments are left to the host, or None."""
    mask = options.get("mask")
    if len({t.device for t in (q, k, v)}) > 1 or q.device.type not in DEVICES:
        return "tensors neither on the processor nor on one NVIDIA GPU"
    if len({t.dtype for t in (q, k, v)}) > 1 or q.dtype not in TOLERANCE:
        return "a number format other than float32, float16 or bfloat16, or several at once"
    if args:
        return "options given by position"
    if q.ndim != (4 if options.get("skip_reshape") else 3):
        return "a layout of heads that is not known"
    if mask is not None and (mask.dtype == torch.bool or mask.ndim < 2):
        return "a mask that is not added to the logits"
    if torch.is_grad_enabled() and any(t.requires_grad for t in (q, k, v)):
        return "gradients asked for"
    return None


def _additive(mask: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """A mask [N, M], [B, N, M] or [B, H, N, M] in four dimensions and `dtype`, without turning large values to infinity."""
    if mask is None:
        return None
    mask = mask.reshape(1 if mask.ndim == 2 else mask.shape[0], -1, *mask.shape[-2:])
    return mask.clamp_min(torch.finfo(dtype).min).to(dtype)


def _choose(run: Callable, ways: list[Attention], host: Callable, q: Tensor, shapes: str) -> Attention | str | None:
    """The fastest way whose result agrees with the host's, or why there is none; None where memory ran out, which says nothing of a way.

    Each runs a few times on a GPU, else once or twice.

    On a GPU the host takes part: its attention is good there. On a processor it is a slow one by slices, and not worth the time.
    """
    wanted, best, worst, repeats = host(), None, 0.0, 5 if on_gpu(q) else 1
    for way in ways:
        try:
            off = distance(run(way), wanted)
            took = seconds(lambda way=way: run(way), (q,), repeats)
        except torch.OutOfMemoryError:
            return None
        except (RuntimeError, ValueError) as error:
            log.warning("Attention of %s is left to ComfyUI because ours fails: %s", shapes, first_line(error))
            return "an error on first use"
        if off <= TOLERANCE[q.dtype] and (best is None or took < best[0]):
            best = took, way
        worst = max(worst, off if off == off else float("inf"))
    if best is None:
        log.warning(
            "Attention of %s is left to ComfyUI because ours is %.2g away from it, over %.2g.", shapes, worst, TOLERANCE[q.dtype]
        )
        return "a result unlike the host's on first use"
    if on_gpu(q) and seconds(host, (q,), repeats) < best[0]:
        return "the host's is faster"
    return best[1]

"""How much arithmetic a computation does, and how much this device can do: measured, not taken from a data sheet."""

import time
from collections.abc import Callable
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from .clock import Clock

SECONDS = 0.25


def count_flops(run: Callable[[], object]) -> int:
    """Floating-point operations of one call (a multiplication and an addition count as two); it is run once, slowly."""
    uncounted = getattr(torch.ops.aten, "_scaled_dot_product_flash_attention_for_cpu", None)  # torch's own table lacks it
    extra = {uncounted: lambda q, k, v, *_, **__: sdpa_flop_count(q, k, v)} if uncounted else {}
    with FlopCounterMode(display=False, custom_mapping=extra) as counter:
        run()
    return counter.get_total_flops()


def _rate(device: torch.device, work: int, run: Callable[[], object]) -> float:
    """Best `work` per second over about a quarter of a second."""
    clock, best = Clock(device), float("inf")
    run()
    until = time.perf_counter() + SECONDS
    while time.perf_counter() < until:
        begin = clock.mark()
        run()
        end = clock.mark()
        clock.wait()
        best = min(best, clock.between_ms(begin, end))
    return work / (best / 1e3)


@lru_cache(maxsize=8)
def measured_peak(device: torch.device, dtype: torch.dtype) -> float:
    """Floating-point operations per second of the better of a square matrix product and a 3 x 3 convolution; 0 where torch has none."""
    if dtype not in (torch.float16, torch.bfloat16, torch.float32, torch.float64):  # 8 bits are for storage only
        return 0.0
    side, channels, pixels = (4096, 256, 128) if device.type == "cuda" else (1024, 128, 96)
    with torch.inference_mode():
        a = torch.randn(side, side, device=device, dtype=dtype)
        image = torch.randn(1, channels, pixels, pixels, device=device, dtype=dtype).contiguous(memory_format=torch.channels_last)
        kernel = torch.randn(channels, channels, 3, 3, device=device, dtype=dtype).contiguous(memory_format=torch.channels_last)
        product = _rate(device, 2 * side**3, lambda: a @ a)
        convolution = _rate(device, 2 * 9 * channels**2 * pixels**2, lambda: F.conv2d(image, kernel, padding=1))
    return max(product, convolution)

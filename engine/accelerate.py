"""Calls of a network that run on its twin: casts, the check against the path they replace, and the way back to that path."""

import logging
from collections import Counter
from collections.abc import Callable, Hashable
from typing import Any

import torch
from torch import Tensor, nn

from .attention_override import distance, first_line
from .twin import Twin

log = logging.getLogger("hotpath")

# Allowed distance between the two paths, relative root mean square. bfloat16 alone is about 0.015 away.
TOLERANCE = {torch.bfloat16: 0.05, torch.float16: 0.02}


class OnTwin:
    """Calls of one network that run on its twin instead; `run` on what the host would have run.

    A shape is compared once; where the twin differs, fails or cannot be used the host's path runs, and one sentence says so.
    """

    def __init__(self, twin: Twin, what: str) -> None:
        self.twin, self.what, self.counts = twin, what, Counter[str]()
        self.blocked: str | None = None  # why it must not run on the twin for now
        self._checked: dict[Hashable, str | None] = {}

    def run(
        self, network: nn.Module, key: Hashable, compare: Callable[[nn.Module], float], fast: Callable[[nn.Module], Any]
    ) -> tuple[bool, Any]:
        """(True, what `fast` gives on the twin), or (False, None) where the host's path has to run.

        key: what the check depends on. compare: distance between twin and network on something small.
        """
        reason = self.blocked or _per_call(network) or self._checked.get(key)
        if reason is None:
            twin = self.twin.follow(network)
            try:
                if key not in self._checked:
                    off, allowed = compare(twin), TOLERANCE[self.twin.dtype]
                    if not off <= allowed:
                        reason = f"it is {off:.2g} away from the path it replaces, over {allowed:.2g}"
                if reason is None:
                    result = fast(twin)
                    self._checked[key] = None
                    self.counts["taken"] += 1
                    return True, result
            except torch.OutOfMemoryError:
                raise
            except RuntimeError as error:
                if self._checked.get(key, "") is None:
                    raise  # it has worked before, so the error is not ours to hide
                reason = f"it fails: {type(error).__name__} {first_line(error)}"
            self._checked[key] = reason
        if not self.counts[reason]:
            log.warning("%s runs on ComfyUI's own path because %s.", self.what, reason)
        self.counts[reason] += 1
        return False, None


def _per_call(network: nn.Module) -> str | None:
    """Why the weights a network holds are not those it computes with, or None."""
    for module in network.modules():
        if getattr(module, "weight_function", None) or getattr(module, "bias_function", None):
            return "another node changes its weights on each call, or they are kept off the device"
    return None


def cast(value: Any, dtype: torch.dtype) -> Any:
    """Floating tensors in `dtype`, pictures channels_last, inside lists and dicts too; anything else as it is."""
    if isinstance(value, Tensor) and value.is_floating_point():
        return value.to(dtype, memory_format=torch.channels_last) if value.ndim == 4 else value.to(dtype)
    if isinstance(value, list):
        return [cast(entry, dtype) for entry in value]
    if isinstance(value, dict):
        return {name: cast(entry, dtype) for name, entry in value.items()}
    return value


def corner(latent: Tensor, side: int) -> Tensor:
    """A corner of the first latent of [B, C, H, W]."""
    return latent[:1, :, :side, :side]


def unet_call(
    calls: OnTwin, network: nn.Module, bare: Callable, chain: Callable, arguments: tuple, more: dict
) -> tuple[bool, Any]:
    """`OnTwin.run` for a diffusion network called with (x, timesteps, context, y, control, options).

    bare: bare(module, *arguments) runs a network with nothing around it, for the check on a corner of 16 latent pixels.
    chain: chain(module) gives the function to call in place of the network's, with what others have wrapped around it.
    """
    x, timesteps, context, y, control, options = arguments
    dtype = calls.twin.dtype
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (x, context, y)):
        return False, None  # a twin learns nothing

    def compare(twin: nn.Module) -> float:
        piece, t, c, label = corner(x, 16), *(None if tensor is None else tensor[:1] for tensor in (timesteps, context, y))
        return distance(
            bare(twin, cast(piece, dtype), t, cast(c, dtype), cast(label, dtype), None, {}),
            bare(network, piece, t, c, label, None, {}),
        )

    def fast(twin: nn.Module) -> Tensor:
        given = (cast(x, dtype), timesteps, cast(context, dtype), cast(y, dtype), cast(control, dtype), options)
        return chain(twin)(*given, **cast(more, dtype)).to(x.dtype, memory_format=torch.contiguous_format)

    return calls.run(network, (x.shape, None if context is None else context.shape), compare, fast)

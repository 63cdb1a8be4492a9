"""Calls of a network that run on its twin or by fused parts: the check against the path they replace, and the way back to it."""

import logging
from collections import Counter
from collections.abc import Callable, Hashable
from typing import Any

import torch
from torch import Tensor, nn

from .attention_override import distance, first_line
from .graphs import Graphs
from .layout import ChannelsLast
from .twin import Twin
from .wiring import Wiring

log = logging.getLogger("hotpath")

# Allowed distance between the two paths, relative root mean square. bfloat16 alone is about 0.015 away.
TOLERANCE = {torch.bfloat16: 0.05, torch.float16: 0.02, torch.float32: 1e-3, torch.float64: 1e-9}


class OnTwin:
    """Calls of one network that run on its twin instead; `run` on what the host would have run.

    A shape is compared once; where the twin differs, fails or cannot be used the host's path runs, and one sentence says so.
    """

    def __init__(self, twin: Twin, what: str, counts: Counter[str] | None = None, wiring: Wiring | None = None) -> None:
        self.twin, self.what, self.counts = twin, what, Counter[str]() if counts is None else counts
        self.wiring = wiring or Wiring()  # of the twin's parts
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
    """`OnTwin.run` for a diffusion network called with (x, timesteps, context, y, control, options), with the twin's parts fused.

    bare: bare(module, *arguments) runs a network with nothing around it, for the check on a corner of 16 latent pixels.
    chain: chain(module) gives the function to call in place of the network's, with what others have wrapped around it.
    """
    x, timesteps, context, y, control, options = arguments
    dtype = calls.twin.dtype
    if _learning(x, context, y):
        return False, None  # a twin learns nothing

    def compare(twin: nn.Module) -> float:
        piece = _corner(arguments)
        with calls.wiring.around(twin):
            found = bare(twin, *(cast(t, dtype) if i != 1 else t for i, t in enumerate(piece)), None, {})
        return distance(found, bare(network, *piece, None, {}))

    def fast(twin: nn.Module) -> Tensor:
        given = (cast(x, dtype), timesteps, cast(context, dtype), cast(y, dtype), cast(control, dtype), options)
        with calls.wiring.around(twin, given[2], options):
            return chain(twin)(*given, **cast(more, dtype)).to(x.dtype, memory_format=torch.contiguous_format)

    return calls.run(network, (x.shape, None if context is None else context.shape), compare, fast)


def _learning(*tensors: Tensor | None) -> bool:
    return torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)


def _corner(arguments: tuple) -> tuple:
    """(x, timesteps, context, y) of the first picture, cut to 16 latent pixels."""
    x, *others = arguments[:4]
    return corner(x, 16), *(None if t is None else t[:1] for t in others)


class OnParts:
    """Calls of one network that stay on it, with its parts fused; `run` for one called with (x, timesteps, context, y, control, options).

    A shape is compared once; where the fused parts differ the host's path runs, and one sentence says so.
    channels_last: lay pictures and convolution weights out so, as the fused norms of a GPU want them; `release` lays weights back.
    graphs: record and replay the calls in which nobody else takes part; their memory is given back by `release`.
    """

    def __init__(self, wiring: Wiring, what: str, channels_last: bool = False, graphs: Graphs | None = None) -> None:
        self.wiring, self.what, self.layout, self.graphs = wiring, what, ChannelsLast() if channels_last else None, graphs
        self.blocked: str | None = None  # why they must not be fused for now
        self._checked: dict[Hashable, str | None] = {}
        self._laid_out = False

    def forget(self) -> None:
        """Say that weights may have changed."""
        self.wiring.forget()
        self._laid_out = False

    def release(self, gone: bool = True) -> None:
        """Say that the network is no longer ours to run; gone: and that its memory is wanted."""
        self.forget()
        if self.graphs and gone:
            self.graphs.forget()
        if self.layout:
            self.layout.undo()

    def run(
        self, network: nn.Module, bare: Callable, call: Callable[[Tensor], Any], arguments: tuple, alone: bool = False
    ) -> Any:
        """bare: as for `unet_call`. call: what the host would have run, for x; alone: that is `bare` with nothing around it."""
        x, timesteps, context, y, control, options = arguments
        if torch.compiler.is_compiling() or _learning(x, context, y):
            return call(x)  # a compiler fuses by itself, and sees nothing of what is put over modules for one call
        key = (x.shape, x.dtype, x.device, None if context is None else context.shape)
        if self.blocked is None:
            x = self._lay_out(network, x)
            if key not in self._checked:
                self._checked[key] = self._compare(network, bare, _corner((x, *arguments[1:])))
        if reason := self.blocked or self._checked[key]:
            self.wiring.counts[reason] += 1
            return call(arguments[0])
        if self.graphs and not (alone and control is None):
            self.graphs.counts["another node takes part in the call"] += 1
        elif self.graphs:

            def again(x: Tensor, timesteps: Tensor, context: Tensor | None, y: Tensor | None) -> Tensor:
                with self.wiring.around(network, context, options):
                    return bare(network, x, timesteps, context, y, None, dict(options))

            found = self.graphs.run(network, again, (x, timesteps, context, y), options)
            if found is not None:
                return found.contiguous()
        with self.wiring.around(network, context, options):
            return call(x).contiguous()

    def _lay_out(self, network: nn.Module, x: Tensor) -> Tensor:
        if self.layout is None:
            return x
        if not self._laid_out:
            self.layout.apply(network, x.device)
            self._laid_out = True
        return x.contiguous(memory_format=torch.channels_last)

    def _compare(self, network: nn.Module, bare: Callable, piece: tuple) -> str | None:
        """Why the fused parts cannot be used, or None."""
        try:
            with self.wiring.around(network):
                found = bare(network, *piece, None, {})
            off, allowed = distance(found, bare(network, *piece, None, {})), TOLERANCE[piece[0].dtype]
            if off <= allowed:
                return None
            reason = f"fused, it is {off:.2g} away from the path it replaces, over {allowed:.2g}"
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            reason = f"a small picture to try it on fails: {type(error).__name__} {first_line(error)}"
        log.warning("%s runs on ComfyUI's own path because %s.", self.what, reason)
        return reason

"""Our kernels inside a U-Net for the length of a call: forward methods are put over its modules' own and taken off again."""

import weakref
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import MethodType

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..kernels.cross_kv import CrossKV, state
from .contents import Contents
from .layout import ChannelsLast
from .unet_parts import Part, parts_of, patched

EMBEDDINGS = 2048  # projected time embeddings kept: about 90 steps of an SD1.5 U-Net, under 6 MB a picture in 16 bits

REPLACED = "another node has replaced a layer that is fused"


class Wiring:
    """`with wiring.around(network, context, options):` runs parts of a network by our kernels where they can be.

    Weights stay where they are and are read on each call. counts: calls taken ("taken"), and left to the host by reason.
    keep: hold the keys and values of prompts and the projected time embeddings from call to call. They are found by content, for
    which a GPU is waited for once a call. A weight that is written to in place where torch does not count it (an inference tensor)
    needs a `forget`.
    """

    def __init__(self, keep: bool = True, counts: Counter[str] | None = None) -> None:
        self.keep, self.counts = keep, Counter[str]() if counts is None else counts
        self._forget_call()
        self.forget()

    def forget(self) -> None:
        """Drop what is held from call to call, and look anew for parts on the next."""
        self._network: Callable[[], nn.Module | None] = lambda: None
        self._crossed, self._prompts, self._times = CrossKV(), Contents(), Contents()
        self._projected: OrderedDict[tuple, Tensor] = OrderedDict()

    @contextmanager
    def around(self, network: nn.Module, context: object = None, options: dict | None = None) -> Iterator[None]:
        """context: what cross-attention reads in this call. options: the host's, with what other nodes ask of this call."""
        put_on = self._put_on(network)
        if self.keep and isinstance(context, Tensor) and not patched({"patches": (options or {}).get("patches", {})}):
            self._context = context
        try:
            yield
        finally:
            self._forget_call()
            for module in put_on:
                del vars(module)["forward"]

    def _put_on(self, network: nn.Module) -> list[nn.Module]:
        if self._network() is not network:
            self.forget()
            self._parts = [(weakref.ref(part.place(module)), self._instead(module, part)) for module, part in parts_of(network)]
            self._network = weakref.ref(network)
        put_on = []
        for ref, forward in self._parts:
            target = ref()
            if target is not None and "forward" not in vars(target):
                vars(target)["forward"] = MethodType(forward, target)
                put_on.append(target)
            else:
                self.counts[REPLACED] += 1
        return put_on

    def _instead(self, module: nn.Module, part: Part) -> Callable:
        """What stands in for the forward of a part's target. It holds nothing alive."""
        owner, memory = weakref.ref(module), weakref.ref(self)

        def forward(target: nn.Module, *arguments, **named):
            module, wiring = owner(), memory()
            try:
                reason = part.why_not(module, *arguments, **named) if part.place(module) is target else REPLACED
            except (AttributeError, IndexError):  # what was found here once is no longer
                reason = REPLACED
            wiring.counts[reason or "taken"] += 1
            if reason is None:
                return part.run(wiring, module, *arguments, **named)
            return type(target).forward(target, *arguments, **named)

        return forward

    # ---- what is remembered, within a call and from call to call

    def _forget_call(self) -> None:
        self._context = self._prompt = self._emb = self._active = self._time = None

    def embedded(self, linear: nn.Linear, emb: Tensor) -> Tensor:
        """linear(silu(emb)), [B, C] of [B, T]; SiLU once a call."""
        if self._emb is not emb:
            self._emb, self._active = emb, F.silu(emb)
            self._time = self._times.names(emb) if self.keep else None
        if self._time is None:
            return F.linear(self._active, linear.weight, linear.bias)
        key = state(linear.weight), state(linear.bias), emb.dtype, self._time
        if key not in self._projected:
            with torch.inference_mode(False), torch.no_grad():  # what is kept may be asked for outside of that mode
                self._projected[key] = F.linear(self._active, linear.weight, linear.bias)
            if len(self._projected) > EMBEDDINGS:
                self._projected.popitem(last=False)
        return self._projected[key]

    def projected(self, linear: nn.Linear, attention: nn.Module, context: Tensor) -> Tensor:
        """linear(context) for the keys or values of an attention; kept where `context` is that of the whole call."""
        if context is not self._context:
            return F.linear(context, linear.weight, linear.bias)
        self._prompt = self._prompt or self._prompts.names(context)
        both = attention.to_k, attention.to_v
        weights, biases = tuple(layer.weight for layer in both), tuple(layer.bias for layer in both)
        pair = self._crossed.projected(id(attention), context, self._prompt, weights, biases)
        return pair[both.index(linear)]


def wire(network: nn.Module, keep: bool = True, channels_last: bool = False) -> tuple[Wiring, Callable[[], None]]:
    """A network of ComfyUI's form called with (x, timesteps, context, ...) runs wired from now on; and the function that ends it.

    channels_last: lay x and the convolution weights out so. With keep=False nothing waits for a GPU, so a CUDA graph may record it.
    """
    wiring, layout = Wiring(keep), ChannelsLast()

    def forward(network: nn.Module, x: Tensor, *arguments, **named):
        context = named.get("context", arguments[1] if len(arguments) > 1 else None)
        options = named.get("transformer_options", arguments[4] if len(arguments) > 4 else None)
        with wiring.around(network, context, options):
            x = x.contiguous(memory_format=torch.channels_last) if channels_last else x
            return type(network).forward(network, x, *arguments, **named)

    def undo() -> None:
        vars(network).pop("forward", None)
        layout.undo()

    if channels_last:
        layout.apply(network, next(network.parameters()).device)
    vars(network)["forward"] = MethodType(forward, network)
    return wiring, undo

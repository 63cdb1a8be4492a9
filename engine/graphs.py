"""A network's calls recorded as CUDA graphs: replaying one spares a GPU the wait for Python and for hundreds of launches.

A graph repeats what was done to the memory that it was recorded with. So one is made for each form of the arguments and for each state
of the weights, is compared with plain calls before it is used, and is left alone wherever a call may depend on anything else.
"""

import logging
from collections import Counter, OrderedDict
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from .attention_override import OVERRIDE, distance, first_line

log = logging.getLogger("hotpath")

Arguments = tuple[Tensor | None, ...]
Call = Callable[..., Tensor]
# record(run) gives a function that repeats what run() did, and the tensor in which each repetition leaves its result.
Record = Callable[[Callable[[], Tensor]], tuple[Callable[[], None], Tensor]]

OFF_DEVICE = "weights or inputs are kept off the device"
KEPT = 4  # graphs; each holds the memory that a call needs
TOLERANCE = 1e-2  # relative root mean square between a replay and a plain call, which run the same kernels
# What a host tells every call, and what our own parts put there. Anything else comes from a node that wants to take part.
HARMLESS = {
    "cond_or_uncond",
    "uuids",
    "sigmas",
    "sample_sigmas",
    "cond_hint",
    "callbacks",
    "wrappers",
}


def on_cuda(run: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
    """A `Record` by torch: two calls aside, so that libraries are set up and choices made, then the recorded one."""
    side, main = torch.cuda.Stream(), torch.cuda.current_stream()
    side.wait_stream(main)
    with torch.cuda.stream(side):
        for _ in range(2):
            run()
    main.wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        result = run()
    return graph.replay, result


@dataclass
class _Graph:
    arguments: Arguments  # read by the replay
    replay: Callable[[], None]
    result: Tensor  # written by the replay

    def __call__(self, arguments: Arguments) -> Tensor:
        for own, given in zip(self.arguments, arguments, strict=True):
            if own is not None:
                own.copy_(given)
        self.replay()
        return self.result.clone()  # the next replay writes over it


class Graphs:
    """Calls of one network by graphs. counts: calls replayed ("taken"), and left to the host by reason."""

    def __init__(self, record: Record = on_cuda, kept: int = KEPT, counts: Counter[str] | None = None) -> None:
        self.record, self.kept, self.counts = record, kept, Counter[str]() if counts is None else counts
        self.forget()

    def forget(self) -> None:
        """Give the memory back; graphs are recorded anew when they are needed."""
        self._graphs: OrderedDict[Hashable, _Graph | str] = OrderedDict()
        self._weights: Hashable = None

    def run(self, network: nn.Module, call: Call, arguments: Arguments, options: Mapping[str, object]) -> Tensor | None:
        """What call(*arguments) gives, by a graph; or None where the host has to make the call.

        arguments: tensors of any shape, all of a batch, or None. options: what the host tells a call besides.
        """
        reason = asked(options) or unfit(network, arguments)
        if reason == OFF_DEVICE:  # memory is short
            self.forget()
        if reason is None:
            if self._weights != (weights := state(network)):
                self.forget()  # memory first: a graph of other weights is of no use any more
                self._weights = weights
            key = form(arguments), tuple(options.get("cond_or_uncond", ()))
            graph = self._graphs.get(key) or self._made(key, call, arguments)
            if isinstance(graph, _Graph):
                self._graphs.move_to_end(key)
                self.counts["taken"] += 1
                return graph(arguments)
            reason = graph
        self.counts[reason] += 1
        return None

    def _made(self, key: Hashable, call: Call, arguments: Arguments) -> "_Graph | str":
        try:
            graph = self._graphs[key] = self._checked(call, arguments)
        except torch.OutOfMemoryError:
            self.forget()
            graph = self._graphs[key] = "there is no memory left for a graph"
        except RuntimeError as error:
            graph = self._graphs[key] = f"it cannot be recorded: {first_line(error)}"
        if isinstance(graph, str):
            log.warning("A model's calls are not replayed as a CUDA graph because %s.", graph)
        while len(self._graphs) > self.kept:
            self._graphs.popitem(last=False)
        return graph

    def _checked(self, call: Call, arguments: Arguments) -> "_Graph | str":
        """A graph whose replays agree with calls on these arguments and on others of their form."""
        own = tuple(None if t is None else t.clone() for t in arguments)
        graph = _Graph(own, *self.record(partial(call, *own)))
        for some in (arguments, tuple(None if t is None else others(t) for t in arguments)):
            off = distance(graph(some), call(*some))
            if not off <= TOLERANCE:
                return f"a replay is {off:.2g} away from a call, over {TOLERANCE}"
        return graph


def others(tensor: Tensor) -> Tensor:
    """Other numbers of the same size, so that whatever a graph holds fast shows."""
    return tensor.flip(-1) * 0.5


def form(arguments: Arguments) -> Hashable:
    return tuple(None if t is None else (t.shape, t.stride(), t.dtype, t.device) for t in arguments)


def state(network: nn.Module) -> Hashable:
    """What changes when a layer or a weight is replaced, or a weight is moved or, where torch counts it, written to."""
    weights = [(p.data_ptr(), p.dtype, None if p.is_inference() else p._version) for p in network.parameters()]
    return tuple(map(id, network.modules())), tuple(weights)


def asked(options: Mapping[str, object]) -> str | None:
    """What other nodes want of a call, or None."""
    ours = {OVERRIDE} if getattr(options.get(OVERRIDE), "hotpath_previous", "another's") is None else set()
    more = sorted(name for name, value in options.items() if name not in HARMLESS | ours and not _nothing(value))
    return f"another node asks for '{more[0]}' in it" if more else None


def _own(module: nn.Module, name: str) -> bool:
    """Whether a method is that of the module's class; a patch that has come off leaves it on the module itself."""
    method = vars(module).get(name)
    return method is None or getattr(method, "__func__", None) is getattr(type(module), name, None)


def _nothing(value: object) -> bool:
    return value is None or value is False or (isinstance(value, dict | list | tuple) and not value)


def unfit(network: nn.Module, arguments: Arguments) -> str | None:
    """Why calls of a network with these arguments cannot be recorded, or None."""
    device = next(network.parameters()).device
    if any(t is not None and t.device != device for t in (*arguments, *network.parameters())):
        return OFF_DEVICE
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in arguments):
        return "gradients are asked for"
    for module in network.modules():
        if module._forward_hooks or module._forward_pre_hooks or not all(_own(module, name) for name in ("forward", "_forward")):
            return "another node hooks into a layer"
        if getattr(module, "weight_function", None) or getattr(module, "bias_function", None):
            return "weights are changed on each call, or kept off the device"
    return None

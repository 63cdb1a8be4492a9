"""A second copy of a network in another number format, laid out for speed, which follows the weights of the first."""

import copy
import weakref
from collections.abc import Callable, Collection
from threading import Lock

import torch
from torch import Tensor, nn

from .packed import pack, unpack
from .upsampled import upsampled

PLAIN = (torch.float32, torch.float16, torch.bfloat16)


def unfit(network: nn.Module) -> str | None:
    """Why a network cannot have a twin, or None."""
    for parameter in network.parameters():
        if parameter.dtype not in PLAIN or type(parameter.data) is not Tensor or parameter.is_meta:
            return "its weights are quantised"
    if any(buffer.is_floating_point() for buffer in network.buffers()):
        return "it holds constants of its own besides weights"
    return None


def _laid_out(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """A copy of a weight, convolution kernels with the channels last."""
    layout = torch.channels_last if weight.ndim == 4 else torch.contiguous_format
    return torch.empty_like(weight, dtype=dtype, memory_format=layout).copy_(weight)


class Twin:
    """The copy is made on the first `follow`, brought up to date on later ones, and dropped by `release`.

    `finish` may change the copy once it is made, never what it was made from.
    """

    def __init__(self, dtype: torch.dtype, finish: Callable[[nn.Module], None] | None = None) -> None:
        self.dtype, self.finish = dtype, finish
        self.copied = 0  # weights copied so far; tells that following costs nothing while nothing changes
        self._doubtful: set[str] = set()
        self._touched: set[str] = set()  # outlives the copy: one made while weights are patched must see them restored
        self.release()

    def release(self) -> None:
        """Give the memory back; the next `follow` makes the copy anew."""
        self.module: nn.Module | None = None
        self._modules: list[weakref.ref] = []
        self._seen: dict[str, tuple] = {}

    def doubt(self, names: Collection[str]) -> None:
        """Say that these weights may have changed in place. Once named, a weight is doubted each time: it will be restored too."""
        self._touched.update(names)
        self._doubtful |= self._touched

    def follow(self, network: nn.Module) -> nn.Module:
        """The copy with the weights that `network` has now."""
        with torch.inference_mode(False), torch.no_grad():  # else the copy could not be brought up to date outside of that mode
            return self._follow(network)

    def _follow(self, network: nn.Module) -> nn.Module:
        modules = list(network.modules())
        if self.module is None or [r() for r in self._modules] != modules:
            self.release()
            self.module = self._copied(network)
            self._modules = [weakref.ref(module) for module in modules]
            self._seen = {name: _state(p) for name, p in network.named_parameters()}
            self._doubtful.clear()
            return self.module
        for name, parameter in network.named_parameters():
            ref, *facts = self._seen.get(name, (lambda: None,))
            if ref() is parameter and facts == list(_state(parameter)[1:]) and name not in self._doubtful:
                continue
            path, _, leaf = name.rpartition(".")
            self._set(self.module.get_submodule(path), leaf, parameter)
            self._seen[name] = _state(parameter)
        self._doubtful.clear()
        return self.module

    def _set(self, module: nn.Module, leaf: str, weight: Tensor) -> None:
        setattr(module, leaf, nn.Parameter(_laid_out(weight, self.dtype), requires_grad=False))
        if leaf == "weight":
            unpack(module)
        self.copied += 1

    def _copied(self, network: nn.Module) -> nn.Module:
        """A deep copy whose weights never exist twice in the old format."""
        memo: dict[int, object] = {}
        for parameter in network.parameters():
            memo[id(parameter)] = nn.Parameter(_laid_out(parameter.detach(), self.dtype), requires_grad=False)
            self.copied += 1
        twin = copy.deepcopy(network, memo)
        kept = [module.conv for module in twin.modules() if upsampled(module)]
        for module in twin.modules():
            if module not in kept:
                pack(module)
        if isinstance(getattr(twin, "dtype", None), torch.dtype):
            twin.dtype = self.dtype
        if self.finish:
            self.finish(twin)
        return twin


def _state(parameter: Tensor) -> tuple:
    """What changes when a weight is replaced, moved or, where torch counts it, written to."""
    version = None if parameter.is_inference() else parameter._version
    return weakref.ref(parameter), parameter.data_ptr(), version


_TWINS: weakref.WeakKeyDictionary[nn.Module, weakref.WeakValueDictionary] = weakref.WeakKeyDictionary()
_LOCK = Lock()


def twin_of(network: nn.Module, dtype: torch.dtype, finish: Callable[[nn.Module], None] | None = None) -> Twin:
    """The one twin of a network in a dtype, shared by all who hold it; it goes when the last of them does."""
    with _LOCK:
        twins = _TWINS.setdefault(network, weakref.WeakValueDictionary())
        twin = twins.get(dtype)
        if twin is None:
            twin = twins[dtype] = Twin(dtype, finish)
        return twin

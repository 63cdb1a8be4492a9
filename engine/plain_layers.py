"""Which layers may be passed over: they are torch's own kind, nothing is hung on them, and their weights are what they compute with."""

import torch
from torch import Tensor, nn

# Where the forward methods live that compute from `weight` and `bias` as torch does.
KNOWN = ("torch.nn.modules.", "comfy.ops")
FORMATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


def plain(module: object, kind: type) -> bool:
    """Whether a module is of a kind of torch's, and computes as that does."""
    return isinstance(module, kind) and type(module).forward.__module__.startswith(KNOWN)


def made_of(module: object, *kinds: type) -> bool:
    """Whether a module is a plain sequence of these."""
    same = isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward and len(module) == len(kinds)
    return same and all(plain(child, kind) for child, kind in zip(module, kinds, strict=True))


def children(module: nn.Module) -> set[str]:
    return {name for name, _ in module.named_children()}


def norm_of(module: object, kind: type) -> bool:
    """Whether a module is a plain norm with weight and bias."""
    return plain(module, kind) and module.weight is not None and module.bias is not None


def bare(*modules: nn.Module) -> bool:
    """Whether nothing is hung on these modules that passing over them would leave out."""
    return not any("forward" in vars(m) or m._forward_hooks or m._forward_pre_hooks for m in modules)


def held(module: nn.Module, x: Tensor, *, cast: bool = False) -> str | None:
    """Why the weights a module holds are not those it computes with on x, or None. cast: another dtype than that of x will do."""
    if getattr(module, "weight_function", None) or getattr(module, "bias_function", None):
        return "weights are changed on each call, or kept off the device"
    for weight in (module.weight, module.bias):
        if weight is not None and (
            type(weight) not in (nn.Parameter, Tensor) or weight.dtype not in (FORMATS if cast else (x.dtype,))
        ):
            return "weights are in another number format"
        if weight is not None and weight.device != x.device:
            return "weights are kept off the device"
    return None


def learning(module: nn.Module, *tensors: Tensor) -> bool:
    """Whether gradients are asked for: of these tensors or of a module's own weights."""
    return torch.is_grad_enabled() and any(t.requires_grad for t in (*tensors, *module.parameters()))

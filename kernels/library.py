"""Our operations as operators of torch, so that torch.compile and FLOP counters know them."""

from collections.abc import Callable, Sequence
from hashlib import sha256

import torch
from torch.utils.flop_counter import register_flop_formula

# A clone may be loaded under two names in one process; each gets operators of its own.
_package = __name__.rsplit(".kernels", 1)[0]
NAMESPACE = "hotpath" if _package == "hotpath" else f"hotpath_{sha256(_package.encode()).hexdigest()[:8]}"
_library = torch.library.Library(NAMESPACE, "FRAGMENT")


def define(
    schema: str, run: Callable, fake: Callable, flops: Callable[..., int] | None = None, devices: Sequence[str] = ("CPU", "CUDA")
) -> torch._ops.OpOverload:
    """Define an operator. fake: the result's shape, strides and dtype. flops: from shapes and options, for FLOP counters."""
    name = schema.split("(")[0]
    _library.define(schema, tags=(torch.Tag.pt2_compliant_tag,))
    for device in devices:
        _library.impl(name, run, device)
    torch.library.register_fake(f"{NAMESPACE}::{name}", fake, lib=_library)
    packet = getattr(getattr(torch.ops, NAMESPACE), name)
    if flops:
        register_flop_formula(packet)(flops)
    return packet.default

"""Parts of a U-Net of ComfyUI's form, known by what they are made of, and the same mathematics by our kernels.

`fits(module)` is asked once. `place` is the module within it whose forward a part takes over. `why_not(module, ...)` is asked on every
call: why the host has to run that forward itself, or None. `run(memory, module, ...)` gives what it would have given.
What a part passes over (norms, activations, projections) must be plain (plain_layers.py).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from inspect import signature
from operator import attrgetter
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from ..kernels.add_layer_norm import add_layer_norm
from ..kernels.geglu import geglu_linear
from ..kernels.group_norm_silu import group_norm_silu
from .plain_layers import bare, children, held, learning, made_of, norm_of, plain

# Patches of other nodes that act outside of transformer blocks.
OUTSIDE = {"emb_patch", "forward_timestep_embed_patch"}
OUTSIDE |= {"input_block_patch", "input_block_patch_after_skip", "output_block_patch"}
HOOKED = "another node hooks into a layer that is fused"
GRADIENTS = "gradients are asked for"
SHAPE = "an input is of another shape"


@dataclass(frozen=True)
class Part:
    fits: Callable[[nn.Module], bool]
    place: Callable[[nn.Module], nn.Module]
    why_not: Callable[..., str | None]
    run: Callable[..., Any]


def parts_of(network: nn.Module) -> Iterator[tuple[nn.Module, Part]]:
    """(module, part) for each module of a network that is one of our parts."""
    for module in network.modules():
        for part in PARTS:
            if part.fits(module):
                yield module, part


def normed(norm: nn.GroupNorm, x: Tensor, *, silu: bool = True, embedding: Tensor | None = None) -> Tensor:
    return group_norm_silu(x, norm.num_groups, norm.weight, norm.bias, norm.eps, silu=silu, embedding=embedding)


# ---- norm, SiLU, convolution: the end of a U-Net


def head_fits(network: nn.Module) -> bool:
    fits = children(network) >= {"input_blocks", "output_blocks", "out"} and made_of(
        network.out, nn.GroupNorm, nn.SiLU, nn.Conv2d
    )
    return fits and norm_of(network.out[0], nn.GroupNorm)


def head_why_not(network: nn.Module, x: Tensor) -> str | None:
    if learning(network.out, x):
        return GRADIENTS
    return held(network.out[0], x, cast=True) if bare(*network.out[:2]) else HOOKED


def head_run(memory: object, network: nn.Module, x: Tensor) -> Tensor:
    return network.out[2](normed(network.out[0], x))


# ---- residual blocks


def residual_fits(block: nn.Module) -> bool:
    own = {"in_layers", "emb_layers", "out_layers", "skip_connection"}
    if not own <= children(block) <= own | {"h_upd", "x_upd"}:
        return False
    if any(getattr(block, flag, False) for flag in ("updown", "use_scale_shift_norm", "exchange_temb_dims", "skip_t_emb")):
        return False
    return (
        made_of(block.in_layers, nn.GroupNorm, nn.SiLU, nn.Conv2d)
        and made_of(block.emb_layers, nn.SiLU, nn.Linear)
        and made_of(block.out_layers, nn.GroupNorm, nn.SiLU, nn.Dropout, nn.Conv2d)
        and all(norm_of(layers[0], nn.GroupNorm) for layers in (block.in_layers, block.out_layers))
    )


def residual_why_not(block: nn.Module, x: Tensor, emb: Tensor) -> str | None:
    first, time, second = block.in_layers, block.emb_layers, block.out_layers
    if learning(block, x, emb):
        return GRADIENTS
    if x.ndim != 4 or emb.ndim != 2 or (second[2].training and second[2].p):
        return SHAPE
    if not bare(first, *first[:2], time, *time, second, *second[:3]):
        return HOOKED
    return held(first[0], x, cast=True) or held(second[0], x, cast=True) or held(time[1], emb)


def residual_run(memory: Any, block: nn.Module, x: Tensor, emb: Tensor) -> Tensor:
    h = block.in_layers[2](normed(block.in_layers[0], x))
    h = normed(block.out_layers[0], h, embedding=memory.embedded(block.emb_layers[1], emb).to(h.dtype))
    return block.skip_connection(x) + block.out_layers[3](h)


# ---- transformers


def transformer_fits(module: nn.Module) -> bool:
    """Norm, projection, blocks over pixels as tokens, projection. A host that tells its blocks more than this does is left alone."""
    if children(module) != {"norm", "proj_in", "transformer_blocks", "proj_out"} or not norm_of(module.norm, nn.GroupNorm):
        return False
    code = getattr(type(module).forward, "__code__", None)
    told = {constant for constant in code.co_consts if isinstance(constant, str) and constant.isidentifier()} if code else {"?"}
    return told <= {"activations_shape", "block_index"} and all(
        plain(layer, nn.Linear) or (plain(layer, nn.Conv2d) and layer.kernel_size == (1, 1) and layer.stride == (1, 1))
        for layer in (module.proj_in, module.proj_out)
    )


def transformer_why_not(
    module: nn.Module, x: Tensor, context: object = None, transformer_options: dict | None = None
) -> str | None:
    if learning(module, x):
        return GRADIENTS
    if x.ndim != 4:
        return SHAPE
    if not bare(module.norm, module.proj_in, module.proj_out):
        return HOOKED
    return held(module.norm, x, cast=True) or held(module.proj_in, x) or held(module.proj_out, x)


def transformer_run(
    memory: object, module: nn.Module, x: Tensor, context: object = None, transformer_options: dict | None = None
) -> Tensor:
    """The 1 x 1 convolutions are products with tokens, so a map in channels_last is never copied."""
    options = {} if transformer_options is None else transformer_options
    options["activations_shape"] = list(x.shape)
    tokens = normed(module.norm, x, silu=False).movedim(1, 3).flatten(1, 2)
    tokens = F.linear(tokens, module.proj_in.weight.flatten(1), module.proj_in.bias)
    for i, block in enumerate(module.transformer_blocks):
        options["block_index"] = i
        tokens = block(tokens, context=context[i] if isinstance(context, list) else context, transformer_options=options)
    tokens = F.linear(tokens, module.proj_out.weight.flatten(1), module.proj_out.bias)
    return x + tokens.unflatten(1, x.shape[2:]).movedim(3, 1)


def gate_fits(module: nn.Module) -> bool:
    """GEGLU within a feed-forward network: a projection to twice what the next layer takes."""
    net = getattr(module, "net", None)
    if children(module) != {"net"} or not isinstance(net, nn.Sequential) or len(net) != 3 or children(net[0]) != {"proj"}:
        return False
    return plain(net[0].proj, nn.Linear) and plain(net[2], nn.Linear) and net[0].proj.out_features == 2 * net[2].in_features


def gate_why_not(module: nn.Module, x: Tensor) -> str | None:
    projection = module.net[0].proj
    if learning(projection, x):
        return GRADIENTS
    return held(projection, x) if bare(projection) else HOOKED


def gate_run(memory: object, module: nn.Module, x: Tensor) -> Tensor:
    projection = module.net[0].proj
    return geglu_linear(x, projection.weight, projection.bias)


def block_fits(block: nn.Module) -> bool:
    """A block of self-attention, cross-attention and feed-forward network, each after a norm and added to what it was given."""
    if children(block) != {"attn1", "attn2", "ff", "norm1", "norm2", "norm3"} or not getattr(block, "is_res", True):
        return False
    if any(getattr(block, flag, False) for flag in ("ff_in", "disable_self_attn", "switch_temporal_ca_to_sa")):
        return False
    takes = all(
        {"context", "value", "transformer_options"} <= set(signature(a.forward).parameters) for a in (block.attn1, block.attn2)
    )
    return takes and all(norm_of(norm, nn.LayerNorm) for norm in (block.norm2, block.norm3))


def block_why_not(
    block: nn.Module, x: Tensor, context: Tensor | None = None, transformer_options: dict | None = None
) -> str | None:
    if learning(block, x):
        return GRADIENTS
    if patched(transformer_options or {}):
        return "another node patches this transformer block"
    if not bare(block.norm2, block.norm3):
        return HOOKED
    return held(block.norm2, x, cast=True) or held(block.norm3, x, cast=True)


def block_run(
    memory: object, block: nn.Module, x: Tensor, context: Tensor | None = None, transformer_options: dict | None = None
):
    options = {} if transformer_options is None else transformer_options
    n = block.attn1(block.norm1(x), context=None, value=None, transformer_options=options)
    x, n = add_layer_norm(n, x, block.norm2.weight, block.norm2.bias, block.norm2.eps)
    n = block.attn2(n, context=context, value=None, transformer_options=options)
    x, n = add_layer_norm(n, x, block.norm3.weight, block.norm3.bias, block.norm3.eps)
    return x + block.ff(n)


def patched(options: dict) -> bool:
    """Whether another node asks something of the transformer block that is running."""
    if any(patches and name not in OUTSIDE for name, patches in options.get("patches", {}).items()):
        return True
    place = options.get("block")
    places = {place, None if place is None else (*place, options.get("block_index", 0))}
    return any(places & set(replaced) for replaced in options.get("patches_replace", {}).values())


# ---- keys and values of cross-attention


def crossing_fits(block: nn.Module) -> bool:
    attention = getattr(block, "attn2", None)
    if attention is None or children(attention) != {"to_q", "to_k", "to_v", "to_out"}:
        return False
    return all(plain(layer, nn.Linear) for layer in (attention.to_k, attention.to_v))


def crossing_why_not(block: nn.Module, context: Tensor) -> str | None:
    keys, values = block.attn2.to_k, block.attn2.to_v
    return GRADIENTS if learning(block.attn2, context) else held(keys, context) or held(values, context)


def keys_run(memory: Any, block: nn.Module, context: Tensor) -> Tensor:
    return memory.projected(block.attn2.to_k, block.attn2, context)


def values_run(memory: Any, block: nn.Module, context: Tensor) -> Tensor:
    return memory.projected(block.attn2.to_v, block.attn2, context)


PARTS = (
    Part(head_fits, attrgetter("out"), head_why_not, head_run),
    Part(residual_fits, lambda block: block, residual_why_not, residual_run),
    Part(transformer_fits, lambda module: module, transformer_why_not, transformer_run),
    Part(gate_fits, lambda module: module.net[0], gate_why_not, gate_run),
    Part(block_fits, lambda block: block, block_why_not, block_run),
    Part(crossing_fits, attrgetter("attn2.to_k"), crossing_why_not, keys_run),
    Part(crossing_fits, attrgetter("attn2.to_v"), crossing_why_not, values_run),
)

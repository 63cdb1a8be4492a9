"""A whole SD1.5 UNet of diffusers with random weights, and the same with our operations in place of its own."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from hotpath.kernels.add_layer_norm import add_layer_norm
from hotpath.kernels.attention import attention
from hotpath.kernels.geglu import geglu_linear
from hotpath.kernels.group_norm_silu import group_norm_silu
from torch import Tensor, nn

SD15 = {"cross_attention_dim": 768}  # all else is diffusers' default
TOY = {
    "block_out_channels": (32, 64),
    "layers_per_block": 1,
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "cross_attention_dim": 32,
}


def unet(device: str, dtype: torch.dtype, *, toy: bool = False) -> nn.Module:
    from diffusers import UNet2DConditionModel

    torch.manual_seed(0)
    with torch.device(device):
        return UNet2DConditionModel(**(TOY if toy else SD15)).to(dtype).eval().requires_grad_(False)


def inputs(network: nn.Module, side: int, batch: int) -> tuple[Tensor, Tensor, Tensor]:
    """Latents of a picture of `side` px, a time, and a text context, in the layout and dtype of the network."""
    weight = network.conv_in.weight
    like = {"device": weight.device, "dtype": weight.dtype}
    latents = torch.randn(batch, 4, side // 8, side // 8, **like)
    if weight.is_contiguous(memory_format=torch.channels_last):
        latents = latents.contiguous(memory_format=torch.channels_last)
    return (
        latents,
        torch.full((batch,), 500, device=weight.device),
        torch.randn(batch, 77, network.config.cross_attention_dim, **like),
    )


def fuse(network: nn.Module) -> nn.Module:
    """Put our operations into a UNet, which is changed: norms with SiLU, the blocks of its transformers, and their attention."""
    from diffusers.models.attention import BasicTransformerBlock
    from diffusers.models.resnet import ResnetBlock2D
    from diffusers.models.transformers.transformer_2d import Transformer2DModel

    for module in list(network.modules()):
        if isinstance(module, Transformer2DModel):
            module.norm = Norm(module.norm, silu=False)
        for name, child in list(module.named_children()):
            if isinstance(child, ResnetBlock2D):
                setattr(module, name, ResNet(child))
            elif isinstance(child, BasicTransformerBlock):
                setattr(module, name, Transformer(child))
    network.conv_norm_out, network.conv_act = Norm(network.conv_norm_out, silu=True), nn.Identity()
    return network


class Norm(nn.Module):
    def __init__(self, norm: nn.GroupNorm, *, silu: bool) -> None:
        super().__init__()
        self.norm, self.silu = norm, silu

    def forward(self, x: Tensor, **added: Tensor | None) -> Tensor:
        norm = self.norm
        return group_norm_silu(x, norm.num_groups, norm.weight, norm.bias, norm.eps, silu=self.silu, **added)


class ResNet(nn.Module):
    """ResnetBlock2D of SD1.5; the first convolution's bias and the time embedding are added by the second norm."""

    def __init__(self, block: Any) -> None:
        super().__init__()
        self.block = block
        self.norm1, self.norm2 = Norm(block.norm1, silu=True), Norm(block.norm2, silu=True)

    def forward(self, x: Tensor, temb: Tensor) -> Tensor:
        block, conv = self.block, self.block.conv1
        y = F.conv2d(self.norm1(x), conv.weight, None, conv.stride, conv.padding)
        y = block.conv2(self.norm2(y, conv_bias=conv.bias, embedding=block.time_emb_proj(F.silu(temb))))
        return y + (x if block.conv_shortcut is None else block.conv_shortcut(x))


class Transformer(nn.Module):
    """BasicTransformerBlock of SD1.5; each sum is added by the norm that follows it."""

    def __init__(self, block: Any) -> None:
        super().__init__()
        self.block = block

    def forward(self, x: Tensor, encoder_hidden_states: Tensor, **_: object) -> Tensor:
        block = self.block
        x, y = self.next(attend(block.attn1, block.norm1(x), None), x, block.norm2)
        x, y = self.next(attend(block.attn2, y, encoder_hidden_states), x, block.norm3)
        up, _, down = block.ff.net
        return x + down(geglu_linear(y, up.proj.weight, up.proj.bias))

    @staticmethod
    def next(x: Tensor, residual: Tensor, norm: nn.LayerNorm) -> tuple[Tensor, Tensor]:
        return add_layer_norm(x, residual, norm.weight, norm.bias, norm.eps)


def attend(layer: Any, x: Tensor, context: Tensor | None) -> Tensor:
    context = x if context is None else context
    return layer.to_out[0](attention(layer.to_q(x), layer.to_k(context), layer.to_v(context), layer.heads))

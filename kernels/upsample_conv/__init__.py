"""Nearest upsampling by 2 and a 3 x 3 convolution, in one."""

from .api import upsample_conv

__all__ = ["upsample_conv"]

"""Convolutions and linear layers on weights arranged once for the processor."""

from .api import arrange_conv2d, arrange_doubling, conv2d, convolved, doubling, fits, linear, supported

__all__ = ["arrange_conv2d", "arrange_doubling", "conv2d", "convolved", "doubling", "fits", "linear", "supported"]

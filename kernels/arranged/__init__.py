"""Convolutions and linear layers on weights arranged once for the processor."""

from .api import arrange_doubling, conv2d, doubling, fits, linear, supported

__all__ = ["arrange_doubling", "conv2d", "doubling", "fits", "linear", "supported"]

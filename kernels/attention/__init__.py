"""Attention at the head sizes of diffusion networks: 40, 64, 80, 128 and 160."""

from .api import ATTENTION, attention

__all__ = ["ATTENTION", "attention"]

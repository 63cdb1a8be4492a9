"""Keys and values of cross-attention, projected once a prompt."""

from .api import CrossKV

__all__ = ["CrossKV"]

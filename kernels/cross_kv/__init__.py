"""Keys and values of cross-attention, projected once a prompt."""

from .api import CrossKV, state

__all__ = ["CrossKV", "state"]

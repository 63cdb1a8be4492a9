"""Instance norm over channels_last maps."""

from .api import instance_norm

__all__ = ["instance_norm"]

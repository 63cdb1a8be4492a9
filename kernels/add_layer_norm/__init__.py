"""A residual added and the sum layer-normed, in one."""

from .api import ADD_LAYER_NORM, add_layer_norm

__all__ = ["ADD_LAYER_NORM", "add_layer_norm"]

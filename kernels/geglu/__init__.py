"""The gated activation of transformer blocks in diffusion networks."""

from .api import GEGLU, geglu, geglu_linear

__all__ = ["GEGLU", "geglu", "geglu_linear"]

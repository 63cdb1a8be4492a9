"""Our Triton kernels as PTX compiled beforehand, for machines without Triton: the driver of the GPU does the rest."""

from .way import ptx

__all__ = ["ptx"]

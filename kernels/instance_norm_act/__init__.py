"""Instance norm, what is added to it, and ReLU over channels_last maps, in one."""

from .api import INSTANCE_NORM_ACT, instance_norm_act

__all__ = ["INSTANCE_NORM_ACT", "instance_norm_act"]

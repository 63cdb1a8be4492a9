"""Group norm and SiLU over channels_last maps, in one."""

from .api import GROUP_NORM_SILU, group_norm_silu

__all__ = ["GROUP_NORM_SILU", "group_norm_silu"]

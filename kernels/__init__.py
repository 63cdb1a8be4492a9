"""Fused and rearranged operations, one room each: api, reference, and faster forms."""

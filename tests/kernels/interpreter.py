"""Triton's interpreter made fit for proofs: repairs for 3.6.0, and memory that comes filled with not-a-number.

The interpreter runs a kernel on the CPU in numpy. Out of the box it fails on loops of run-time length with numpy 2.4, multiplies the
bits of bfloat16 as integers, and truncates where a GPU rounds to nearest even. The repairs apply to 3.6 alone.
"""

import os

os.environ["TRITON_INTERPRET"] = "1"

import numpy as np
import torch
import triton
import triton.language as tl
from triton.runtime import interpreter

REPAIRED = "3.6."


def install() -> bool:
    """Repair the interpreter; False on a version these repairs were not made for."""
    if not triton.__version__.startswith(REPAIRED):
        return False
    builder, handle = interpreter.InterpreterBuilder, interpreter.TensorHandle
    patch, dot, cast, binary = interpreter._patch_lang_tensor, builder.create_dot, builder.cast_impl, builder.binary_op

    def patch_tensor(tensor, scope):
        patch(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: int(np.asarray(self.handle.data).reshape(-1)[0]))

    def is_bfloat16(value) -> bool:
        return value.dtype.scalar == tl.bfloat16

    def float32(value):
        return (value.data.astype(np.uint32) << 16).view(np.float32) if is_bfloat16(value) else value.data.astype(np.float32)

    def create_dot(self, a, b, c, precision, imprecise):
        if is_bfloat16(a) or is_bfloat16(b):
            return handle(np.matmul(float32(a), float32(b), dtype=np.float32) + c.data, c.dtype.scalar)
        return dot(self, a, b, c, precision, imprecise)

    def cast_impl(self, source, kind):
        if source.dtype.scalar == tl.float32 and kind.scalar == tl.bfloat16:
            bits = np.ascontiguousarray(source.data, dtype=np.float32).view(np.uint32)
            rounded = ((bits + (((bits >> 16) & 1) + np.uint32(0x7FFF))) >> 16).astype(np.uint16)
            return handle(np.where(np.isnan(source.data), np.uint16(0x7FC0), rounded), tl.bfloat16)
        return cast(self, source, kind)

    def binary_op(self, a, b, operation):
        if is_bfloat16(a) or is_bfloat16(b):
            raise TypeError("arithmetic in bfloat16: the interpreter would take it for integers; go to float32 first")
        return binary(self, a, b, operation)

    interpreter._patch_lang_tensor = patch_tensor
    builder.create_dot, builder.cast_impl, builder.binary_op = create_dot, cast_impl, binary_op
    return True


def poison_memory() -> None:
    """Fresh tensors hold not-a-number, so that what a kernel forgets to write shows."""
    for owner, name in ((torch, "empty"), (torch, "empty_like"), (torch.Tensor, "new_empty")):
        setattr(owner, name, _poisoned(getattr(owner, name)))


def _poisoned(original):
    def fresh(*args, **options):
        tensor = original(*args, **options)
        return tensor.fill_(float("nan")) if tensor.is_floating_point() else tensor

    return fresh

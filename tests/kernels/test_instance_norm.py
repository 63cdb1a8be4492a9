"""The instance norm agrees with its reference and with torch, forward and backward, in every layout."""

import pytest
import torch
import torch.nn.functional as F
from hotpath.kernels.instance_norm import instance_norm
from hotpath.kernels.instance_norm.api import EPS
from hotpath.kernels.instance_norm.reference import instance_norm_reference
from hotpath.tests.testing import random
from torch import Tensor


def group_norm(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    return F.group_norm(x, x.shape[1], eps=EPS) * scale[:, :, None, None] + shift[:, :, None, None]


def reference(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    return instance_norm_reference(x, scale, shift, EPS)


def inputs(
    shape: tuple[int, ...], offset: float = 0.0, dtype: torch.dtype = torch.float64, *, rows: int = 1
) -> tuple[Tensor, Tensor, Tensor]:
    """x, scale and shift, with gradients; `rows` is 1 or the number of pictures."""
    source = random(1)
    sizes = (shape, (rows, shape[1]), (rows, shape[1]))
    tensors = [torch.randn(size, generator=source, dtype=torch.float64) for size in sizes]
    tensors[0] += offset
    return tuple(tensor.to(dtype).requires_grad_() for tensor in tensors)


@pytest.mark.parametrize("oracle", [group_norm, reference])
@pytest.mark.parametrize("shape", [(1, 3, 2, 2), (2, 5, 7, 3), (3, 8, 1, 16)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("shared", [True, False])
def test_values_and_gradients(oracle, shape: tuple[int, ...], layout: torch.memory_format, shared: bool) -> None:
    x, scale, shift = inputs(shape, offset=3.0, rows=1 if shared else shape[0])
    x = x.detach().contiguous(memory_format=layout).requires_grad_()
    ours, theirs = instance_norm(x, scale, shift), oracle(x, scale, shift)
    with torch.no_grad():
        torch.testing.assert_close(instance_norm(x, scale, shift), theirs, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    upstream = torch.randn(shape, generator=random(2), dtype=torch.float64)
    gradients = (torch.autograd.grad(y, (x, scale, shift), upstream) for y in (ours, theirs))
    for mine, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, expected, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("rows", [1, 2])
def test_gradcheck(rows: int) -> None:
    assert torch.autograd.gradcheck(instance_norm, inputs((2, 3, 4, 3), rows=rows))


@pytest.mark.parametrize("asks", [0, 1, 2], ids=["x", "scale", "shift"])
def test_each_input_alone_may_ask_for_its_gradient(asks: int) -> None:
    tensors = inputs((2, 4, 5, 6))
    given = [tensor if index == asks else tensor.detach() for index, tensor in enumerate(tensors)]
    (mine,) = torch.autograd.grad(instance_norm(*given).square().sum(), given[asks])
    (expected,) = torch.autograd.grad(group_norm(*given).square().sum(), given[asks])
    torch.testing.assert_close(mine, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_a_picture_is_normed_the_same_with_and_without_gradients(mode: type) -> None:
    tensors = inputs((2, 4, 6, 5), dtype=torch.float32)
    with mode():
        without = instance_norm(*tensors)
    torch.testing.assert_close(instance_norm(*tensors).detach(), without, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_16_bit_input_with_a_large_mean(dtype: torch.dtype) -> None:
    """Within twice the error of torch's own form against float64."""
    tensors = inputs((1, 4, 16, 16), offset=60.0, dtype=dtype)
    exact = reference(*(tensor.double() for tensor in tensors))
    error, allowed = ((form(*tensors).double() - exact).abs().max() for form in (instance_norm, group_norm))
    assert error <= 2 * allowed


def test_a_mean_that_bfloat16_cannot_hold() -> None:
    """256 and 258 are neighbours in bfloat16; their mean of 257 is not there."""
    x = torch.tensor([256.0, 258.0]).repeat(8).view(1, 1, 4, 4).bfloat16().requires_grad_()
    y = instance_norm(x, torch.ones(1, 1), torch.zeros(1, 1))
    torch.testing.assert_close(y.float(), torch.tensor([-1.0, 1.0]).repeat(8).view(1, 1, 4, 4), rtol=0, atol=0.01)


def test_channels_last_is_kept() -> None:
    x, scale, shift = inputs((2, 4, 6, 5))
    y = instance_norm(x.contiguous(memory_format=torch.channels_last), scale, shift)
    assert y.is_contiguous(memory_format=torch.channels_last)

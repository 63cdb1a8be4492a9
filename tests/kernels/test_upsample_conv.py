"""Upsampling and convolution in one agrees with its reference, and never answers with the weights of before."""

import pytest
import torch
from hotpath.kernels.upsample_conv import api, upsample_conv
from hotpath.kernels.upsample_conv.reference import upsample_conv_reference
from hotpath.tests.testing import random
from torch import Tensor


@pytest.fixture(params=["arranged", "plain"], autouse=True)
def form(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "plain":
        monkeypatch.setattr(api, "fits", lambda *_: False)


def inputs(shape: tuple[int, ...] = (2, 3, 5, 4), out: int = 6, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    source = random(0)
    x, weight = torch.randn(shape, generator=source), torch.randn(out, shape[1], 3, 3, generator=source)
    return x.to(dtype), weight.to(dtype)


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (2, 3, 5, 4), (1, 4, 1, 9), (3, 2, 8, 8)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-5), (torch.float32, 1e-4), (torch.bfloat16, 0.1)])
@pytest.mark.parametrize("bias", [None, torch.arange(6.0)], ids=["no bias", "bias"])
def test_it_is_the_reference(
    shape: tuple[int, ...], layout: torch.memory_format, dtype: torch.dtype, tolerance: float, bias: Tensor | None
) -> None:
    x, weight = inputs(shape, dtype=dtype)
    wanted = upsample_conv_reference(x.double(), weight.double(), None if bias is None else bias.double())
    with torch.no_grad():
        result = upsample_conv(x.contiguous(memory_format=layout), weight, None if bias is None else bias.to(dtype))
    assert (result.shape, result.dtype) == (wanted.shape, dtype)
    assert result.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(result.double(), wanted, atol=tolerance, rtol=tolerance)


def test_a_view_of_a_larger_map_is_read_right() -> None:
    x, weight = inputs((2, 8, 9, 9))
    part = x[:, 2:5, 1:7, 3:8]
    with torch.no_grad():
        result = upsample_conv(part, weight[:, 2:5])
    torch.testing.assert_close(result, upsample_conv_reference(part, weight[:, 2:5]), atol=1e-5, rtol=0)


def test_with_gradients_it_is_differentiable() -> None:
    x, weight = (tensor.requires_grad_() for tensor in inputs())
    bias = torch.arange(6.0, dtype=x.dtype, requires_grad=True)
    assert torch.autograd.gradcheck(upsample_conv, (x, weight))
    assert torch.autograd.gradcheck(upsample_conv, (x, weight, bias))


def test_a_frozen_weight_first_met_in_inference_mode_passes_gradients_later() -> None:
    x, weight = inputs(dtype=torch.float32)
    with torch.inference_mode():
        upsample_conv(x, weight)
    x.requires_grad_()
    upsample_conv(x, weight).square().sum().backward()
    ours, x.grad = x.grad, None
    upsample_conv_reference(x, weight).square().sum().backward()
    torch.testing.assert_close(ours, x.grad, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("change", ["in place", "data", "new"])
def test_a_changed_weight_is_seen(change: str) -> None:
    x, weight = inputs(dtype=torch.float32)
    with torch.no_grad():
        upsample_conv(x, weight)
        if change == "in place":
            weight.mul_(2)
        elif change == "data":
            weight.data = weight.data * 3
        else:
            weight = weight * 4
        torch.testing.assert_close(upsample_conv(x, weight), upsample_conv_reference(x, weight), atol=1e-4, rtol=1e-4)


def test_in_inference_mode_too() -> None:
    with torch.inference_mode():
        x, weight = inputs(dtype=torch.float32)
        torch.testing.assert_close(upsample_conv(x, weight), upsample_conv_reference(x, weight), atol=1e-4, rtol=1e-4)

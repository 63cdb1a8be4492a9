"""Layers on arranged weights give the bits of torch's own, follow their weights, and keep out of the way of learning."""

import gc
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from hotpath.kernels import arranged
from hotpath.kernels.arranged import api, conv2d, linear
from hotpath.kernels.arranged.reference import conv2d_reference, linear_reference
from hotpath.kernels.derived import PerWeight
from hotpath.tests.testing import random
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

DTYPES = [torch.bfloat16, torch.float32]


def layer(*shape: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """A weight and a bias."""
    source = random(shape[0])
    return (torch.randn(shape, generator=source) * 0.1).to(dtype), torch.randn(shape[0], generator=source).to(dtype)


def picture(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=random(9)).to(dtype).contiguous(memory_format=torch.channels_last)


def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Which layers have been computed on an arranged weight, by name, from here on."""
    made: list[str] = []

    def watch(name: str, real: Callable) -> None:
        monkeypatch.setattr(api, name, lambda *arguments: made.append(name) or real(*arguments))

    watch("convolved", api.convolved)
    watch("_multiplied", api._multiplied)
    return made


needs_arranging = pytest.mark.skipif(
    not all(arranged.supported(dtype) for dtype in DTYPES), reason="this torch or processor has no arranged weights"
)


@pytest.mark.parametrize("dtype", [*DTYPES, torch.float64])
@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("activation", [True, False])
@pytest.mark.parametrize(("kernel", "stride", "padding"), [(3, 1, 1), (3, 2, 1), (2, 1, 1), (1, 1, 0)])
def test_convolutions(dtype: torch.dtype, with_bias: bool, activation: bool, kernel: int, stride: int, padding: int) -> None:
    weight, bias = layer(8, 5, kernel, kernel, dtype=dtype)
    for size in ((1, 5, 7, 9), (2, 5, 1, 1), (1, 5, 70, 3)):
        x = picture(*size, dtype=dtype)
        given = x, weight, bias if with_bias else None
        ours = conv2d(*given, stride=stride, padding=padding, relu=activation)
        wanted = conv2d_reference(*given, stride, padding, activation)
        torch.testing.assert_close(ours, wanted, rtol=1e-2 if dtype == torch.bfloat16 else 1e-5, atol=1e-5)
        assert dtype == torch.float64 or ours.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("dtype", [*DTYPES, torch.float64])
@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("activation", [True, False])
def test_linear_layers(dtype: torch.dtype, with_bias: bool, activation: bool) -> None:
    weight, bias = layer(12, 8, dtype=dtype)
    x = torch.randn(2, 5, 8, generator=random(1)).to(dtype)
    given = x, weight, bias if with_bias else None
    exact = linear_reference(*(None if t is None else t.double() for t in given), activation)
    torch.testing.assert_close(linear(*given, gelu=activation).double(), exact, rtol=1e-2, atol=1e-2)


@needs_arranging
@pytest.mark.parametrize("dtype", DTYPES)
def test_they_are_computed_on_arranged_weights(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    made, (weight, bias) = calls(monkeypatch), layer(8, 5, 3, 3, dtype=dtype)
    conv2d(picture(1, 5, 6, 6, dtype=dtype), weight, bias)
    linear(torch.zeros(2, 8, dtype=dtype), layer(8, 8, dtype=dtype)[0])
    assert made == (["convolved", "_multiplied"] if dtype == torch.bfloat16 else ["convolved"])
    conv2d(picture(1, 5, 6, 6, dtype=dtype), layer(8, 5, 1, 1, dtype=dtype)[0])
    assert len(made) == (2 if dtype == torch.bfloat16 else 1), "1 x 1 is left to torch"


@needs_arranging
def test_where_something_is_learnt_torch_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    made, (weight, bias) = calls(monkeypatch), layer(8, 5, 3, 3)
    x = picture(1, 5, 6, 6)
    for learnt in (x, weight, bias):
        learnt.requires_grad_()
        (ours,) = torch.autograd.grad(conv2d(x, weight, bias, relu=True).sum(), learnt)
        (wanted,) = torch.autograd.grad(F.relu(F.conv2d(x, weight, bias)).sum(), learnt)
        assert torch.equal(ours, wanted)
        learnt.requires_grad_(False)
    with torch.autocast("cpu", torch.bfloat16):
        assert conv2d(x, weight, bias).dtype == torch.bfloat16
    assert not made
    assert not arranged.supported(torch.float64)


@needs_arranging
def test_arithmetic_is_counted() -> None:
    x, (weight, _) = picture(1, 8, 6, 6, dtype=torch.bfloat16), layer(4, 8, 3, 3, dtype=torch.bfloat16)
    with FlopCounterMode(display=False) as counter:
        conv2d(x, weight, padding=1)
    assert counter.get_total_flops() == 2 * 36 * 8 * 4 * 9
    with FlopCounterMode(display=False) as counter:
        linear(torch.zeros(3, 8, dtype=torch.bfloat16), layer(4, 8, dtype=torch.bfloat16)[0])
    assert counter.get_total_flops() == 2 * 3 * 8 * 4
    with FlopCounterMode(display=False) as counter:
        api.doubling(x, api.arrange_doubling(layer(8, 4, 4, 4, dtype=torch.bfloat16)[0]))
    assert counter.get_total_flops() == 2 * 36 * 8 * 4 * 16


@pytest.mark.parametrize("change", ["in place", "data", "new"])
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_a_changed_weight_is_seen(change: str, mode: type) -> None:
    x, (weight, _) = picture(1, 5, 6, 6), layer(8, 5, 3, 3)
    with mode():
        conv2d(x, weight)
        if change == "in place":
            weight.mul_(2)
        elif change == "data":
            weight.data = weight.data * 3
        else:
            weight = weight * 4
        torch.testing.assert_close(conv2d(x, weight), F.conv2d(x, weight))


def test_a_value_is_kept_as_long_as_its_weight() -> None:
    made: list[tuple] = []
    doubled = PerWeight(lambda weight, *how: made.append(how) or weight * 2)
    weight = torch.ones(3)
    assert doubled(weight) is doubled(weight)
    assert torch.equal(doubled(weight, "another way"), weight * 2)
    assert made == [(), ("another way",)]
    weight.add_(1)
    assert doubled(weight).tolist() == [4, 4, 4]
    assert len(doubled) == 1
    del weight
    gc.collect()
    assert len(doubled) == 0


def test_what_was_made_in_inference_mode_passes_gradients_later() -> None:
    weight, doubled = torch.ones(3), PerWeight(lambda weight: weight * 2)
    with torch.inference_mode():
        doubled(weight)
    x = torch.ones(3, requires_grad=True)
    (x * doubled(weight)).sum().backward()
    assert x.grad.tolist() == [2, 2, 2]

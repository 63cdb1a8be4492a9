"""The instance norm and what follows it agree with their reference and with torch, forward and backward, in every layout."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from hotpath.kernels.dispatch import Declined, InvalidArguments
from hotpath.kernels.instance_norm_act import INSTANCE_NORM_ACT, api, instance_norm_act
from hotpath.kernels.instance_norm_act.api import EPS, FEW
from hotpath.kernels.instance_norm_act.plan import prepare, why_not_form
from hotpath.kernels.instance_norm_act.reference import instance_norm_act_reference
from hotpath.tests.testing import random
from torch import Tensor


def group_norm(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    return F.group_norm(x, x.shape[1], eps=EPS) * scale[:, :, None, None] + shift[:, :, None, None]


reference = partial(instance_norm_act_reference, relu=False, eps=EPS)
instance_norm = partial(instance_norm_act, relu=False)


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


# ---- what follows the norm


def followed(
    shape: tuple[int, ...], dtype: torch.dtype = torch.float64, *, rows: int = 1, relu: bool = True, added: str = ""
) -> tuple:
    """Arguments of INSTANCE_NORM_ACT, with gradients; added: "" for nothing, r(esidual), g(ain) for a residual with a gain."""
    x, scale, shift = (tensor.detach() for tensor in inputs(shape, dtype=dtype, rows=rows))
    source = random(3)
    residual, gain = torch.randn(shape, generator=source).to(dtype), torch.randn(rows, shape[1], generator=source).to(dtype)
    x, residual = (tensor.contiguous(memory_format=torch.channels_last) for tensor in (x, residual))
    given = x, scale, shift, relu, residual if added else None, gain if added == "g" else None
    return tuple(value.requires_grad_() if isinstance(value, Tensor) else value for value in given)


@pytest.mark.parametrize("added", ["", "r", "g"])
@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize("rows", [1, 2])
@pytest.mark.parametrize("side", [3, 33], ids=["few cells", "many cells"])
def test_sums_and_relu(added: str, relu: bool, rows: int, side: int) -> None:
    arguments = followed((2, 4, side, 32), rows=rows, relu=relu, added=added)
    assert (side * 32 < FEW) == (side == 3)
    ours, theirs = INSTANCE_NORM_ACT(*arguments), instance_norm_act_reference(*arguments)
    with torch.no_grad():
        without = INSTANCE_NORM_ACT(*arguments)
    for result in (ours, without):
        torch.testing.assert_close(result, theirs, rtol=1e-11, atol=1e-12)
        assert result.is_contiguous(memory_format=torch.channels_last)
    given = [value for value in arguments if isinstance(value, Tensor)]
    upstream = torch.randn(ours.shape, generator=random(2), dtype=torch.float64)
    gradients = (torch.autograd.grad(y, given, upstream) for y in (ours, theirs))
    for mine, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, expected, rtol=1e-10, atol=1e-11)


def test_what_comes_in_is_left_as_it_was() -> None:
    arguments = followed((1, 4, 5, 6), added="g")
    before = [value.clone() for value in arguments if isinstance(value, Tensor)]
    with torch.no_grad():
        INSTANCE_NORM_ACT(*arguments)
    INSTANCE_NORM_ACT(*arguments)
    assert all(torch.equal(a, b) for a, b in zip(before, (v for v in arguments if isinstance(v, Tensor)), strict=True))


X, C = torch.zeros(2, 8, 3, 3), torch.zeros(1, 8)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: instance_norm_act(X[0], C, C), r"maps \[B, C, H, W\] of floats"),
        (lambda: instance_norm_act(X, C[0], C[0]), r"scale \[1 or 2, 8\], got \[8\]"),
        (lambda: instance_norm_act(X, C, C[:, :4]), r"shift \[1 or 2, 8\], got \[1, 4\]"),
        (lambda: instance_norm_act(X, C, C.expand(2, 8)), "of one shape"),
        (lambda: instance_norm_act(X, C, C, residual=X.half()), "of torch.float32 as the maps are, got .* of torch.float16"),
        (lambda: instance_norm_act(X, C, C, residual=X[:1]), r"a residual \[2, 8, 3, 3\]"),
        (lambda: instance_norm_act(X, C, C, gain=C), "a residual for the gain"),
    ],
)
def test_what_does_not_fit_is_refused_in_a_sentence(call, sentence: str) -> None:
    with pytest.raises(InvalidArguments, match=sentence):
        call()


def test_what_the_kernels_cannot_take_has_reasons() -> None:
    with pytest.raises(Declined, match="its tensors are on 'cpu', and it needs an NVIDIA GPU"):
        instance_norm_act(X, C, C, way="triton")
    last = X.contiguous(memory_format=torch.channels_last)
    assert why_not_form(last, last) is None
    assert "x is not channels_last" in why_not_form(X)
    assert "residual is not channels_last" in why_not_form(last, X)
    assert "float64" in why_not_form(last.double())


@pytest.mark.parametrize("cells", [1, 512, 513, 4096, 65536])
def test_chunks_cover_all_cells_of_a_map(cells: int) -> None:
    x = torch.empty(1, 32, cells, 1, dtype=torch.float16).contiguous(memory_format=torch.channels_last)
    _, launches = prepare(x, x[:, :, 0, 0], x[:, :, 0, 0], True, None, None, arch=0)
    assert len(launches) == (1 if cells <= 512 else 2)
    if len(launches) == 1:
        assert launches[0].constants["CELLS"] >= cells
    else:
        chunk, chunks = launches[0].arguments[-1], launches[0].grid[0]
        assert (chunks - 1) * chunk < cells <= chunks * chunk
        assert launches[1].constants["CHUNKS"] >= chunks


@pytest.mark.parametrize("added", ["", "g"])
def test_as_an_operator_of_torch(added: str) -> None:
    arguments = followed((2, 8, 5, 3), torch.float32, rows=2, added=added)
    arguments = tuple(value.detach() if isinstance(value, Tensor) else value for value in arguments)
    utilities = ("test_schema", "test_faketensor", "test_aot_dispatch_static", "test_aot_dispatch_dynamic")
    torch.library.opcheck(api.OPERATOR, arguments, test_utils=utilities)


def test_it_compiles_in_one_graph() -> None:
    x, scale, shift, *_ = (value.detach() for value in followed((1, 8, 4, 4), torch.float32)[:3])
    compiled = torch.compile(instance_norm_act, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x, scale, shift, residual=x), instance_norm_act(x, scale, shift, residual=x))


@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad])
def test_a_map_of_one_cell_is_its_shift(mode: type) -> None:
    x, scale, shift = inputs((2, 4, 1, 1), rows=2)
    with mode():
        torch.testing.assert_close(instance_norm(x, scale, shift), shift[:, :, None, None])

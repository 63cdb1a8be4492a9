"""The public attention: what it takes, what it refuses, which way it goes, and as an operator of torch."""

import pytest
import torch
from hotpath.kernels.attention import ATTENTION, attention
from hotpath.kernels.attention.api import OPERATOR
from hotpath.kernels.attention.plan import SPLIT, additive, prepare, why_not_form
from hotpath.kernels.attention.reference import attention_reference
from hotpath.kernels.dispatch import Declined, InvalidArguments
from hotpath.tests.kernels.cases import CASES, attend, heads_of
from hotpath.tests.testing import random
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode


@pytest.mark.parametrize("case", [case for case in CASES if case.room == "attention"], ids=lambda case: case.name)
def test_torch_is_the_reference(case) -> None:
    arguments = case.arguments()
    exact = case.exact(*(t.double() if isinstance(t, Tensor) and t.is_floating_point() else t for t in arguments))
    result = attention(*arguments[:4], mask=arguments[4], scale=arguments[5])
    assert (result.shape, result.dtype) == (exact.shape, arguments[0].dtype)
    torch.testing.assert_close(result.double(), exact, rtol=0, atol=0.1 if result.dtype == torch.bfloat16 else 0.01)


def test_the_reference_is_torchs_in_float64() -> None:
    q, k, v = heads_of(2, 9, 13, 2, 8, torch.float64)
    split = [t.unflatten(-1, (2, 8)).transpose(1, 2) for t in (q, k, v)]
    wanted = torch.nn.functional.scaled_dot_product_attention(*split).transpose(1, 2).flatten(2)
    torch.testing.assert_close(attention_reference(q, k, v, 2), wanted, rtol=1e-12, atol=1e-12)


def test_a_query_without_keys_gives_zeros() -> None:
    q, k, v = heads_of(2, 4, 6, 2, 8, torch.float32)
    mask = torch.ones(2, 6, dtype=torch.bool)
    mask[1] = False
    result = attention(q, k, v, 2, mask=mask)
    assert (result[1] == 0).all()
    torch.testing.assert_close(result[0], attention(q, k, v, 2)[0])


@pytest.mark.parametrize("shape", [(2, 1, 4, 6), (1, 2, 1, 6), (1, 1, 4, 6), (2, 2, 4, 6)])
@pytest.mark.parametrize("kind", [torch.bool, torch.float32])
def test_masks_of_heads_and_queries_are_torchs_to_take(shape: tuple[int, ...], kind: torch.dtype) -> None:
    q, k, v = heads_of(2, 4, 6, 2, 40, torch.float32)
    mask = torch.randn(shape, generator=random(3))
    mask = mask > -0.5 if kind == torch.bool else mask.masked_fill(mask > 1, torch.finfo(kind).min)
    torch.testing.assert_close(attention(q, k, v, 2, mask=mask), attention_reference(q, k, v, 2, mask), rtol=1e-5, atol=1e-5)
    assert "not the same for all heads and queries" in why_not_form(q, k, v, 2, mask)


def test_gradients_flow_by_torch() -> None:
    tensors = [t.requires_grad_() for t in heads_of(1, 4, 6, 2, 40, torch.float64)]
    assert torch.autograd.gradcheck(lambda *t: attention(*t, 2), tensors)


@pytest.mark.parametrize("shape", [(0, 4, 80), (1, 0, 80)])
def test_nothing_in_nothing_out(shape: tuple[int, ...]) -> None:
    q, k = torch.zeros(shape), torch.zeros(shape[0], 3, 80)
    assert attention(q, k, k, 2).shape == shape


X = torch.zeros(2, 6, 80)
REFUSED = [
    ((X, X, X, 3), r"to hold 3 heads, got \[2, 6, 80\]"),
    ((X, X, X, 0), "to hold 0 heads"),
    ((X, X[:1], X[:1], 2), "layout and batch"),
    ((X, X, X[:, :5], 2), "layout and batch"),
    ((X, X.view(2, 6, 2, 40), X.view(2, 6, 2, 40), 2), "layout and batch"),
    ((X, X[..., :70], X[..., :70], 2), "heads of 40 channels that divides 2"),
    ((X, X.half(), X, 2), r"one floating dtype, got torch\.float32, torch\.float16"),
    ((X.long(), X.long(), X.long(), 2), "one floating dtype"),
    ((X, X, X, 2, torch.ones(2, 5)), r"a mask \[2 or 1, 6\] over keys, .* got \[2, 5\]"),
    ((X, X, X, 2, torch.ones(2, 6, 6)), "over keys"),
    ((X, X, X, 2, torch.ones(2, 3, 6, 6)), r"fits \[2, 2, 6, 6\], got \[2, 3, 6, 6\]"),
    ((X, X, X, 2, torch.ones(2, 2, 6, 1)), "fits"),
    ((X, X, X, 2, torch.ones(2, 6, dtype=torch.long)), "booleans or floating"),
]


@pytest.mark.parametrize(("arguments", "sentence"), REFUSED)
def test_what_does_not_fit_is_refused_in_a_sentence(arguments: tuple, sentence: str) -> None:
    with pytest.raises(InvalidArguments, match=sentence):
        attention(*arguments[:4], mask=arguments[4] if len(arguments) > 4 else None)


def test_an_explicit_way_says_why_not() -> None:
    with pytest.raises(Declined, match="its tensors are on 'cpu', and it needs an NVIDIA GPU"):
        attention(X, X, X, 2, way="triton")
    assert "triton: declined: its tensors are on 'cpu'" in ATTENTION.explain(X, X, X, 2, None, None)


def test_what_the_kernels_cannot_take_has_reasons() -> None:
    half = torch.zeros(2, 6, 96).half()
    assert why_not_form(*[half[..., :80]] * 3, 2, None) is None
    assert "heads have 48 channels" in why_not_form(half, half, half, 2, None)
    assert "float64" in why_not_form(X.double(), X.double(), X.double(), 2, None)
    assert "multiple of 16 bytes" in why_not_form(half[..., 4:84], half[..., :80], half[..., :80], 2, None)
    assert "k does not start" in why_not_form(half[..., :80], torch.zeros(2, 6, 84).half()[..., :80], half[..., :80], 2, None)
    assert "next to each other" in why_not_form(*[torch.zeros(2, 80, 6).half().transpose(1, 2)] * 3, 2, None)
    assert "over 65535" in why_not_form(*[torch.zeros(1, 1, 40).half().expand(40000, 1, 80 // 2).repeat(1, 1, 2)] * 3, 2, None)


@pytest.mark.parametrize("width", SPLIT)
def test_each_head_size_is_split_into_powers_of_two(width: int) -> None:
    first, rest = SPLIT[width]
    assert width <= first + rest < width + 16
    assert all(part & (part - 1) == 0 for part in (first, rest))


@pytest.mark.parametrize("keys", [64, 65, 77, 80, 81, 154, 160, 161, 231])
def test_short_prompts_take_the_kernel_without_a_loop(keys: int) -> None:
    q, k, v = heads_of(1, 4, keys, 2, 40, torch.float16)
    _, (launch,) = prepare(q, k, v, 2, None, None, arch=0)
    assert launch.kernel == ("short" if 64 < keys <= 80 or 128 < keys <= 160 else "flash")


def test_finite_numbers_in_a_mask_stay_finite_in_powers_of_two() -> None:
    lowest = torch.finfo(torch.float32).min
    added = additive(torch.tensor([[lowest, -torch.inf, 0.5]]))
    assert added[0, 0] * 1.4426950408889634 > -torch.inf
    assert added[0, 1] == -torch.inf
    assert added[0, 2] == 0.5


@pytest.mark.parametrize("form", ["flat", "heads", "mask"])
def test_as_an_operator_of_torch(form: str) -> None:
    q, k, v, heads, mask, scale = attend(2, 5, 7, 2, 40, torch.float32, "bool" if form == "mask" else "")
    if form == "heads":
        q, k, v = (t.unflatten(-1, (2, 40)) for t in (q, k, v))
    utilities = ("test_schema", "test_faketensor", "test_aot_dispatch_static", "test_aot_dispatch_dynamic")
    torch.library.opcheck(OPERATOR, (q, k, v, heads, mask, scale), test_utils=utilities)


def test_it_compiles_in_one_graph() -> None:
    q, k, v = heads_of(2, 5, 7, 2, 40, torch.float32)
    compiled = torch.compile(lambda q: attention(q * 2, k, v, 2) + 1, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        torch.testing.assert_close(compiled(q), attention(q * 2, k, v, 2) + 1)
    learning = q.clone().requires_grad_()
    compiled(learning).sum().backward()
    assert learning.grad.abs().sum() > 0


def test_flops_are_counted() -> None:
    q, k, v = heads_of(2, 5, 7, 4, 40, torch.float32)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        OPERATOR(q, k, v, 4)
    assert counter.get_total_flops() == 4 * 2 * 4 * 5 * 7 * 40

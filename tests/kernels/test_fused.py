"""Group norm with SiLU, GEGLU, and layer norm of a sum: what they take, refuse and give, and as operators of torch."""

from collections.abc import Callable

import pytest
import torch
from hotpath.kernels.add_layer_norm import ADD_LAYER_NORM, add_layer_norm
from hotpath.kernels.add_layer_norm import api as sums
from hotpath.kernels.dispatch import Declined, InvalidArguments
from hotpath.kernels.geglu import GEGLU, geglu, geglu_linear
from hotpath.kernels.geglu import api as gated
from hotpath.kernels.geglu.plan import why_not_form as why_not_gated
from hotpath.kernels.group_norm_silu import GROUP_NORM_SILU, group_norm_silu
from hotpath.kernels.group_norm_silu import api as normed
from hotpath.kernels.group_norm_silu.plan import prepare
from hotpath.kernels.group_norm_silu.plan import why_not_form as why_not_maps
from hotpath.tests.kernels.cases import CASES, halves, maps, rows_of
from hotpath.tests.testing import random
from torch import Tensor

OPERATIONS = {"group_norm_silu": GROUP_NORM_SILU, "geglu": GEGLU, "add_layer_norm": ADD_LAYER_NORM}
TOLERANCE = {torch.float32: 2e-4, torch.float16: 0.03, torch.bfloat16: 0.3}


# Far from zero torch's own group norm is off by tenths; that is what our kernels are better at.
NEAR = [case for case in CASES if case.room in OPERATIONS and not case.far]


@pytest.mark.parametrize("case", NEAR, ids=lambda case: case.name)
@pytest.mark.parametrize("learning", [False, True])
def test_torch_is_the_reference(case, learning: bool) -> None:
    arguments = case.arguments()
    if learning:
        arguments[0].requires_grad_()
    exact = case.exact(*(t.detach().double() if isinstance(t, Tensor) else t for t in arguments))
    result = OPERATIONS[case.room](*arguments)
    for ours, truth in zip(*((t if isinstance(t, tuple) else (t,)) for t in (result, exact)), strict=True):
        assert (ours.shape, ours.dtype, ours.requires_grad) == (truth.shape, arguments[0].dtype, learning)
        scale = max(1.0, float(truth.abs().max()) / 10)
        torch.testing.assert_close(ours.detach().double(), truth, rtol=0, atol=TOLERANCE[ours.dtype] * scale)


def test_the_input_is_left_as_it_was() -> None:
    for operation, arguments in ((GROUP_NORM_SILU, maps((1, 8, 3, 3), 2, torch.float32)), (GEGLU, halves((2, 8), torch.float32))):
        before = arguments[0].clone()
        operation(*arguments)
        assert torch.equal(arguments[0], before)


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_maps_keep_their_layout(layout: torch.memory_format) -> None:
    x, groups, weight, bias, *_ = maps((2, 8, 5, 3), 2, torch.float32)
    assert group_norm_silu(x.contiguous(memory_format=layout), groups, weight, bias).is_contiguous(memory_format=layout)


def test_gradients_are_those_of_the_reference() -> None:
    x, groups, weight, bias, eps, silu, conv_bias, embedding = maps((2, 6, 3, 2), 2, torch.float64, added="be")
    given = [t.requires_grad_() for t in (x, weight, bias, conv_bias, embedding)]
    assert torch.autograd.gradcheck(
        lambda x, w, b, c, e: group_norm_silu(x, groups, w, b, eps, silu=silu, conv_bias=c, embedding=e), given
    )
    assert torch.autograd.gradcheck(geglu, [t.requires_grad_() for t in halves((3, 8), torch.float64)])
    assert torch.autograd.gradcheck(add_layer_norm, [t.requires_grad_() for t in rows_of((3, 8), torch.float64)[:4]])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("with_bias", [True, False])
def test_geglu_with_its_projection(dtype: torch.dtype, with_bias: bool) -> None:
    x, weight, bias = (torch.randn(*shape, generator=random(7)).to(dtype) for shape in ((2, 5, 6), (16, 6), (16,)))
    bias = bias if with_bias else None
    wanted = geglu(torch.nn.functional.linear(x.double(), weight.double(), None if bias is None else bias.double()))
    with torch.no_grad():
        torch.testing.assert_close(geglu_linear(x, weight, bias).double(), wanted, rtol=0, atol=TOLERANCE[dtype])
    weight.requires_grad_()
    learned = geglu_linear(x, weight, bias)
    torch.testing.assert_close(learned.double(), wanted, rtol=0, atol=TOLERANCE[dtype], check_dtype=False)
    learned.float().sum().backward()
    assert weight.grad.abs().sum() > 0


X, C = torch.zeros(2, 8, 3, 3), torch.zeros(8)
REFUSED: list[tuple[Callable, str]] = [
    (lambda: group_norm_silu(X, 3, C, C), r"a multiple of 3 groups, got \[2, 8, 3, 3\]"),
    (lambda: group_norm_silu(X[0], 2, C, C), r"maps \[B, C, H, W\]"),
    (lambda: group_norm_silu(X, 2, C[:4], C), r"weight \[8\] for maps .* got \[4\]"),
    (lambda: group_norm_silu(X, 2, C, C, conv_bias=C[:4]), r"conv_bias \[8\]"),
    (lambda: group_norm_silu(X, 2, C, C, embedding=C), r"an embedding \[2 or 1, 8\], got \[8\]"),
    (lambda: geglu(C[:7]), r"\[\.\.\., 2 C\], got \[7\]"),
    (lambda: geglu(C.long()), "floating numbers"),
    (lambda: add_layer_norm(X, X[:1], C[:3], C[:3]), "of one shape"),
    (lambda: add_layer_norm(X, X.half(), C[:3], C[:3]), "float16"),
    (lambda: add_layer_norm(X, X, C, C), r"weight and bias \[3\], got \[8\]"),
]


@pytest.mark.parametrize("number", range(len(REFUSED)))
def test_what_does_not_fit_is_refused_in_a_sentence(number: int) -> None:
    call, sentence = REFUSED[number]
    with pytest.raises(InvalidArguments, match=sentence):
        call()


def test_explicit_ways_say_why_not() -> None:
    for call in (
        lambda: group_norm_silu(X, 2, C, C, way="triton"),
        lambda: geglu(C, way="triton"),
        lambda: add_layer_norm(X, X, C[:3], C[:3], way="triton"),
    ):
        with pytest.raises(Declined, match="its tensors are on 'cpu', and it needs an NVIDIA GPU"):
            call()


def test_what_the_kernels_cannot_take_has_reasons() -> None:
    assert "not channels_last" in why_not_maps(X)
    assert "float64" in why_not_maps(X.double().contiguous(memory_format=torch.channels_last))
    assert "not contiguous" in why_not_gated(torch.zeros(4, 8)[:, :4])
    assert why_not_gated(torch.zeros(4, 8)) is None


@pytest.mark.parametrize("cells", [1, 5, 33, 4096, 65536])
def test_chunks_cover_all_cells_of_a_map(cells: int) -> None:
    x = torch.empty(1, 320, cells, 1, dtype=torch.float16).contiguous(memory_format=torch.channels_last)
    _, launches = prepare(x, 32, x[0, :, 0, 0], x[0, :, 0, 0], 1e-5, True, None, None, arch=0)
    if len(launches) > 1:
        chunk = launches[0].arguments[-1]
        chunks = launches[0].grid[0]
        assert (chunks - 1) * chunk < cells <= chunks * chunk
        assert launches[1].constants["CHUNKS"] >= chunks


@pytest.mark.parametrize("name", ["maps", "nchw", "halves", "rows"])
def test_as_operators_of_torch(name: str) -> None:
    x = maps((2, 8, 5, 3), 2, torch.float32, added="be")
    operator, arguments = {
        "maps": (normed.OPERATOR, x),
        "nchw": (normed.OPERATOR, (x[0].contiguous(), *x[1:])),
        "halves": (gated.OPERATOR, halves((2, 3, 8), torch.float32)),
        "rows": (sums.OPERATOR, rows_of((2, 8), torch.float32)),
    }[name]
    utilities = ("test_schema", "test_faketensor", "test_aot_dispatch_static", "test_aot_dispatch_dynamic")
    torch.library.opcheck(operator, arguments, test_utils=utilities)


def test_they_compile_in_one_graph() -> None:
    x, groups, weight, bias, *_ = maps((1, 8, 4, 4), 2, torch.float32)
    _, _, scale, shift, _ = rows_of((4, 4), torch.float32)

    def block(x: Tensor) -> Tensor:
        total, row = add_layer_norm(group_norm_silu(x, groups, weight, bias), x, scale, shift)
        return geglu(torch.cat([total, row], -1))

    compiled = torch.compile(block, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        torch.testing.assert_close(compiled(x), block(x))

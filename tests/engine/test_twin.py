"""The second copy of a network: what it follows, what it costs, when it is declined."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from hotpath.engine import packed
from hotpath.engine.accelerate import OnTwin, cast
from hotpath.engine.twin import Twin, twin_of, unfit
from torch import nn
from torch.nn import functional as F


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    layers = [nn.Conv2d(3, 8, 3, padding=1), nn.GroupNorm(2, 8), nn.SiLU(), nn.Conv2d(8, 8, 3, stride=2, bias=False)]
    return nn.Sequential(*layers, nn.Flatten(2), nn.Linear(25, 5)).eval().requires_grad_(False)


PICTURE = torch.randn(2, 3, 11, 11, generator=torch.Generator().manual_seed(1))


def off(module: nn.Module, wanted: nn.Module, dtype: torch.dtype = torch.bfloat16) -> float:
    found, exact = module(cast(PICTURE, dtype)).float(), wanted(PICTURE)
    return float((found - exact).norm() / exact.norm())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_a_twin_computes_the_same_and_leaves_its_source(dtype: torch.dtype) -> None:
    source = network()
    before = {name: p.clone() for name, p in source.named_parameters()}
    twin = Twin(dtype).follow(source)
    assert off(twin, source, dtype) < (0.02 if dtype == torch.bfloat16 else 1e-5)
    assert all(torch.equal(p, before[name]) and p.dtype == torch.float32 for name, p in source.named_parameters())
    assert not any("_conv_forward" in vars(module) for module in source.modules())


def test_other_sizes_after_the_first() -> None:
    source = network()
    twin = Twin(torch.bfloat16).follow(source)
    off(twin, source)
    x = torch.randn(1, 3, 12, 12)
    torch.testing.assert_close(twin(cast(x, torch.bfloat16)).float(), source(x), rtol=0.1, atol=0.05)


@pytest.mark.parametrize("how", ["replaced", "in place", "bias replaced", "behind torch's back"])
def test_a_changed_weight_is_followed_and_only_that(how: str) -> None:
    source, twin = network(), Twin(torch.bfloat16)
    off(twin.follow(source), source)
    copied = twin.copied
    with torch.no_grad():
        if how == "replaced":
            source[0].weight = nn.Parameter(-source[0].weight, requires_grad=False)
        elif how == "bias replaced":
            source[0].bias = nn.Parameter(source[0].bias + 3, requires_grad=False)
        elif how == "in place":
            source[0].weight.mul_(-1)
        else:
            source[0].weight.data.copy_(-source[0].weight)
            twin.doubt(["0.weight"])
    assert off(twin.follow(source), source) < 0.02
    assert twin.copied == copied + 1
    twin.follow(source)
    assert twin.copied == copied + 1


def test_a_weight_once_doubted_is_copied_when_it_is_restored() -> None:
    source, twin = network(), Twin(torch.bfloat16)
    before = source[0].weight.clone()
    twin.follow(source)
    source[0].weight.data.copy_(-before)
    twin.doubt(["0.weight"])
    twin.follow(source)
    source[0].weight.data.copy_(before)
    twin.doubt([])
    assert off(twin.follow(source), source) < 0.02


def test_another_module_means_another_twin() -> None:
    source, twin = network(), Twin(torch.bfloat16)
    first = twin.follow(source)
    source[3] = nn.Conv2d(8, 8, 3, stride=2).requires_grad_(False)
    assert twin.follow(source) is not first
    assert off(twin.module, source) < 0.02


def test_weights_made_in_inference_mode() -> None:
    with torch.inference_mode():
        source, twin = network(), Twin(torch.bfloat16)
        off(twin.follow(source), source)
    source[0].weight = nn.Parameter(-source[0].weight.clone(), requires_grad=False)
    assert off(twin.follow(source), source) < 0.02


def test_one_twin_for_all_who_ask_and_none_when_they_are_gone() -> None:
    source = network()
    one, two = twin_of(source, torch.bfloat16), twin_of(source, torch.bfloat16)
    assert one is two
    assert twin_of(source, torch.float16) is not one
    off(one.follow(source), source)
    held = weakref.ref(one.module)
    one.release()
    assert held() is None, "at once, without a search for circles"
    off(one.follow(source), source)
    held, gone = weakref.ref(one), weakref.ref(source)
    del one, two, source
    gc.collect()
    assert held() is None
    assert gone() is None


def test_arranged_weights_take_the_place_of_plain_ones() -> None:
    twin = Twin(torch.bfloat16).follow(network())
    if not packed.supported(torch.bfloat16):
        pytest.skip("this torch or processor has no arranged weights")
    twin(cast(PICTURE, torch.bfloat16))
    assert twin[0].weight.isnan().all()
    assert twin[0].weight.shape == (8, 3, 3, 3)
    assert twin[0].weight.untyped_storage().nbytes() == 2


def test_only_plain_convolutions_are_arranged() -> None:
    class Doubled(nn.Conv2d):
        def _conv_forward(self, x, weight, bias):
            return super()._conv_forward(x, weight * 2, bias)

    assert not packed.pack(Doubled(3, 3, 3).bfloat16())
    assert not packed.pack(nn.Conv2d(3, 3, 3, padding=1, padding_mode="reflect").bfloat16())
    assert not packed.pack(nn.Conv2d(3, 3, 3, padding="same").bfloat16())
    assert not packed.pack(nn.Conv2d(3, 3, 3))
    assert not packed.pack(nn.Conv2d(3, 3, 1).bfloat16())
    assert not packed.pack(nn.Linear(3, 3).bfloat16())


ODD = (2, 5, 21, 22)


class Upsample(nn.Module):
    """As ComfyUI's U-Net has it, but for what it does not need here."""

    def __init__(self, bias: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 5, 3, padding=1, bias=bias)

    def forward(self, x, output_shape=None):
        size = output_shape[2:] if output_shape is not None else [2 * side for side in x.shape[2:]]
        return self.conv(F.interpolate(x, size=size, mode="nearest"))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [None, (2, 5, 22, 22), ODD], ids=["double", "double, asked for", "an odd side"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_an_upsampling_layer_computes_the_same_before_and_after_its_weights_change(bias, shape, dtype) -> None:
    torch.manual_seed(0)
    source, twin = Upsample(bias).requires_grad_(False), Twin(dtype)
    for change in (lambda conv: None, lambda conv: setattr(conv, "weight", nn.Parameter(-conv.weight, requires_grad=False))):
        change(source.conv)
        copy, wanted, plain = twin.follow(source), source(PICTURE, shape), []
        hook = copy.conv.register_forward_hook(lambda *_, plain=plain: plain.append(True))
        found = copy(cast(PICTURE, dtype), shape)
        hook.remove()
        assert float((found.float() - wanted).norm() / wanted.norm()) < (0.02 if dtype == torch.bfloat16 else 1e-6)
        assert bool(plain) == (shape == ODD), "only an odd side is left to the layer's own convolution"


def test_what_cannot_have_a_twin() -> None:
    assert unfit(network()) is None
    quantised = network()
    quantised[0].weight = nn.Parameter(quantised[0].weight.to(torch.float8_e4m3fn), requires_grad=False)
    assert "quantised" in unfit(quantised)
    constant = network()
    constant.register_buffer("table", torch.ones(3))
    assert "constants" in unfit(constant)


def calls() -> tuple[nn.Module, OnTwin]:
    source = network()
    return source, OnTwin(Twin(torch.bfloat16), "The test")


def test_a_shape_is_compared_once() -> None:
    source, on = calls()
    compared = []
    compare = lambda twin: compared.append(1) or 0.01  # noqa: E731
    for key in ("a", "a", "b", "a"):
        assert on.run(source, key, compare, lambda twin: 7) == (True, 7)
    assert len(compared) == 2
    assert on.counts == {"taken": 4}


@pytest.mark.parametrize("distance", [0.06, float("nan"), float("inf")])
def test_what_is_too_far_away_runs_as_before_and_says_so_once(distance: float, caplog: pytest.LogCaptureFixture) -> None:
    source, on = calls()
    for _ in range(3):
        assert on.run(source, "a", lambda twin: distance, lambda twin: pytest.fail("not to be used")) == (False, None)
    assert len([r for r in caplog.records if "The test runs on ComfyUI's own path because it is" in r.message]) == 1


def test_errors_on_first_use_fall_back_and_later_ones_do_not() -> None:
    source, on = calls()

    def fail(twin: nn.Module) -> None:
        raise RuntimeError("expected BFloat16\nand pages of other things")

    assert on.run(source, "a", lambda twin: 0.0, fail) == (False, None)
    assert any("RuntimeError expected BFloat16" in reason and "pages" not in reason for reason in on.counts)
    assert on.run(source, "b", lambda twin: 0.0, lambda twin: 1) == (True, 1)
    with pytest.raises(RuntimeError):
        on.run(source, "b", lambda twin: 0.0, fail)
    with pytest.raises(KeyboardInterrupt):
        on.run(source, "c", lambda twin: 0.0, lambda twin: (_ for _ in ()).throw(KeyboardInterrupt))


def test_weights_changed_per_call_and_a_block_decline() -> None:
    source, on = calls()
    on.blocked = "of a reason"
    assert on.run(source, "a", lambda twin: 0.0, lambda twin: 1) == (False, None)
    on.blocked = None
    source[0].weight_function = [lambda weight: weight]
    assert on.run(source, "a", lambda twin: 0.0, lambda twin: 1) == (False, None)
    source[0].weight_function = []
    assert on.run(source, "a", lambda twin: 0.0, lambda twin: 1) == (True, 1)


def test_casts_reach_into_lists_and_leave_the_rest() -> None:
    whole = torch.tensor([1, 2])
    found = cast({"a": [torch.ones(1, 2, 3, 4), None], "b": whole, "c": "x"}, torch.bfloat16)
    assert found["a"][0].dtype == torch.bfloat16
    assert found["a"][0].is_contiguous(memory_format=torch.channels_last)
    assert found["a"][1] is None
    assert found["b"] is whole
    assert found["c"] == "x"

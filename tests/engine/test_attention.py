"""Attention by blocks, and the override that chooses a way and declines."""

from __future__ import annotations

import time
from collections import Counter
from functools import partial

import pytest
import torch
from hotpath.engine import attention, attention_override
from hotpath.engine.attention_override import overriding
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention


def tokens(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


@pytest.mark.parametrize("block", [1, 400, 3000, 10**7])
@pytest.mark.parametrize("scale", [None, 0.3])
def test_blocks_give_the_attention(block: int, scale: float | None) -> None:
    q, k, v = tokens(2, 3, 37, 8), tokens(2, 3, 21, 8, seed=1), tokens(2, 3, 21, 8, seed=2)
    wanted = scaled_dot_product_attention(q, k, v, scale=scale)
    torch.testing.assert_close(attention.blocked(q, k, v, scale, block), wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_attention_among_pixels(dtype: torch.dtype) -> None:
    q, k, v = (tokens(2, 16, 4, 6, seed=seed) for seed in range(3))
    flat = [t.flatten(2).transpose(1, 2) for t in (q, k, v)]
    wanted = scaled_dot_product_attention(*flat).transpose(1, 2).reshape(q.shape)
    found = attention.spatial(*(t.to(dtype).to(memory_format=torch.channels_last) for t in (q, k, v)))
    torch.testing.assert_close(found.float(), wanted, rtol=0.05, atol=0.02 if dtype == torch.bfloat16 else 1e-5)


class Host:
    """An attention of a host, written out; `spoil` makes it another one."""

    def __init__(self, spoil: float = 1.0) -> None:
        self.spoil, self.calls = spoil, 0

    def __call__(self, q, k, v, heads, mask=None, skip_reshape=False, skip_output_reshape=False, scale=None, **_) -> Tensor:
        self.calls += 1
        if not skip_reshape:
            q, k, v = (t.unflatten(-1, (heads, -1)).transpose(1, 2) for t in (q, k, v))
        k, v = (t.repeat_interleave(q.shape[1] // t.shape[1], dim=1) for t in (k, v))
        logits = q.float() @ k.float().transpose(-1, -2) * (scale or q.shape[-1] ** -0.5)
        if mask is not None:
            mask = mask.reshape(1 if mask.ndim == 2 else mask.shape[0], -1, *mask.shape[-2:])
            logits = logits + mask
        out = (logits.softmax(-1) @ v.float()).to(q.dtype) * self.spoil
        return out if skip_output_reshape else out.transpose(1, 2).flatten(2)


CASES = {
    "plain": {},
    "mask of rows": {"mask": tokens(24, 20, seed=5)},
    "mask per sample": {"mask": tokens(2, 24, 20, seed=5)},
    "mask per head": {"mask": tokens(2, 4, 24, 20, seed=5)},
    "scale": {"scale": 0.5},
    "exact": {"low_precision_attention": False},
    "others": {"transformer_options": {}, "_inside_attn_wrapper": True, "something_new": 1},
}


@pytest.fixture(params=[False, True], ids=["processor", "as on a GPU"])
def gpu(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """The choices made on a GPU, made here; only the kernels that then run are those of a processor."""
    monkeypatch.setattr(attention_override, "on_gpu", lambda q: request.param)
    if request.param:  # the host below is faster on so small an input, and would be kept
        monkeypatch.setattr(attention_override, "seconds", lambda run, tensors, repeats: float(isinstance(run, partial)))
    return request.param


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("split", [False, True])
def test_options_are_honoured(name: str, dtype: torch.dtype, split: bool, gpu: bool) -> None:
    shape = (2, 4, 24, 8) if split else (2, 24, 32)
    q, k, v = tokens(*shape, dtype=dtype), tokens(*shape, dtype=dtype, seed=1), tokens(*shape, dtype=dtype, seed=2)
    k, v = (t[:, :, :20] if split else t[:, :20] for t in (k, v))
    host, counts, options = Host(), Counter[str](), {**CASES[name], "skip_reshape": split, "skip_output_reshape": split}
    override = overriding(None, counts, {})
    first, again = override(host, q, k, v, 4, **options), override(host, q, k, v, 4, **options)
    assert host.calls == 1, "once, for the comparison"
    assert counts == {"taken": 2}
    tolerance = {"rtol": 1e-4, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 0.05, "atol": 0.03}
    wanted = Host()(q, k, v, 4, **options)
    for found in (first, again):
        assert found.shape == wanted.shape
        torch.testing.assert_close(found, wanted, **tolerance)


def test_fewer_heads_of_keys(gpu: bool) -> None:
    q, k, v = tokens(1, 4, 24, 8), tokens(1, 2, 24, 8, seed=1), tokens(1, 2, 24, 8, seed=2)
    counts: Counter[str] = Counter()
    found = overriding(None, counts, {})(Host(), q, k, v, 4, skip_reshape=True, enable_gqa=True)
    torch.testing.assert_close(found, Host()(q, k, v, 4, skip_reshape=True), rtol=1e-4, atol=1e-5)
    assert counts == {"taken": 1}


def test_a_mask_of_minus_infinity_and_of_the_smallest_number(gpu: bool) -> None:
    q, k, v = (tokens(1, 24, 32, dtype=torch.bfloat16, seed=seed) for seed in range(3))
    for low in (float("-inf"), torch.finfo(torch.float32).min):
        mask = torch.zeros(24, 24).masked_fill(torch.ones(24, 24).triu(1).bool(), low)
        found = overriding(None, Counter(), {})(Host(), q, k, v, 4, mask=mask)
        torch.testing.assert_close(found, Host()(q, k, v, 4, mask=mask), rtol=0.05, atol=0.03)


def test_exact_attention_is_never_by_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "blocked", lambda *_, **__: pytest.fail("blocks round the logits"))
    q, k, v = (tokens(1, 24, 32, dtype=torch.bfloat16, seed=seed) for seed in range(3))
    for options in ({"low_precision_attention": False}, {"attn_precision": torch.float32}):
        overriding(None, Counter(), {})(Host(), q, k, v, 4, **options)


def test_a_host_that_computes_something_else_is_kept(caplog: pytest.LogCaptureFixture, gpu: bool) -> None:
    q, k, v = (tokens(1, 24, 32, seed=seed) for seed in range(3))
    host, counts = Host(spoil=1.1), Counter[str]()
    override = overriding(None, counts, {})
    for _ in range(2):
        assert torch.equal(override(host, q, k, v, 4), Host(1.1)(q, k, v, 4))
    assert counts == {"a result unlike the host's on first use": 2}
    assert len([r for r in caplog.records if "left to ComfyUI" in r.message]) == 1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"mask": torch.ones(24, 24, dtype=torch.bool)}, "mask"),
        ({"dtype": torch.float64}, "number format"),
        ({"grad": True}, "gradients"),
        ({"shape": (1, 4, 24, 8)}, "layout"),
    ],
)
def test_declines_with_a_reason(change: dict, words: str) -> None:
    q, k, v = (tokens(*change.pop("shape", (1, 24, 32)), dtype=change.pop("dtype", torch.float32)) for _ in range(3))
    if change.pop("grad", False):
        q.requires_grad_()
    counts, seen = Counter[str](), []
    found = overriding(None, counts, {})(lambda *args, **options: seen.append((args, options)) or q, q, k, v, 4, **change)
    assert found is q
    assert seen == [((q, k, v, 4), change)]
    assert [words in reason for reason in counts] == [True]


def test_an_earlier_override_is_given_ours() -> None:
    q, k, v = (tokens(1, 24, 32, seed=seed) for seed in range(3))
    host, counts = Host(), Counter[str]()
    override = overriding(lambda func, q, k, v, heads, **options: func(q, k, v * 3, heads, **options), counts, {})
    torch.testing.assert_close(override(host, q, k, v, 4), Host()(q, k, v * 3, 4), rtol=1e-4, atol=1e-5)
    assert counts == {"taken": 1}


def test_running_out_of_memory_while_choosing_says_nothing_of_a_way(monkeypatch: pytest.MonkeyPatch) -> None:
    q, k, v = (tokens(1, 24, 32, seed=seed) for seed in range(3))
    counts: Counter[str] = Counter()
    override, whole = overriding(None, counts, {}), attention.whole

    def full(*_: object, **__: object) -> Tensor:
        raise torch.OutOfMemoryError("full")

    monkeypatch.setattr(attention, "whole", full)
    assert torch.equal(override(Host(), q, k, v, 4), Host()(q, k, v, 4))
    monkeypatch.setattr(attention, "whole", whole)
    override(Host(), q, k, v, 4)
    assert counts == {"memory ran out while choosing": 1, "taken": 1}


@pytest.mark.parametrize("error", [RuntimeError("no kernel"), ValueError("values of another width")])
def test_ours_failing_leaves_it_to_the_host(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    q, k, v = (tokens(1, 24, 32, seed=seed) for seed in range(3))

    def broken(*_: object, **__: object) -> Tensor:
        raise error

    monkeypatch.setattr(attention, "whole", broken)
    counts: Counter[str] = Counter()
    assert torch.equal(overriding(None, counts, {})(Host(), q, k, v, 4), Host()(q, k, v, 4))
    assert counts == {"an error on first use": 1}


@pytest.mark.parametrize("slow", [True, False])
def test_on_a_gpu_the_faster_one_is_taken(slow: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention_override, "on_gpu", lambda q: True)
    q, k, v = (tokens(1, 24, 32, seed=seed) for seed in range(3))
    known = Host()(q, k, v, 4)

    def host(*_: object, **__: object) -> Tensor:
        if slow:
            time.sleep(0.05)
        return known

    counts: Counter[str] = Counter()
    torch.testing.assert_close(overriding(None, counts, {})(host, q, k, v, 4), known, rtol=1e-4, atol=1e-5)
    assert counts == ({"taken": 1} if slow else {"the host's is faster": 1})


def test_nothing_is_measured_while_a_graph_records(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention_override, "capturing", lambda: True)
    q, k, v = (tokens(1, 24, 32, seed=seed) for seed in range(3))
    host, choices = Host(), {}
    overriding(None, Counter(), choices)(host, q, k, v, 4)
    assert host.calls == 1
    assert not choices


def test_a_compiler_gets_the_hosts() -> None:
    q, k, v = (tokens(1, 24, 32, seed=seed) for seed in range(3))
    doubling = overriding(lambda func, q, k, v, heads, **options: func(q, k, v * 2, heads, **options), Counter(), {})
    for override, wanted in ((overriding(None, Counter(), {}), v), (doubling, v * 2)):
        compiled = torch.compile(lambda q, k, v, o=override: o(Host(), q, k, v, 4), backend="eager", fullgraph=True)
        torch.testing.assert_close(compiled(q, k, v), Host()(q, k, wanted, 4))

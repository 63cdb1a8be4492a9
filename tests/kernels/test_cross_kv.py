"""Kept keys and values are those a fresh projection would give, whatever changes: the batch, the prompt, the weights."""

import pytest
import torch
from hotpath.kernels.cross_kv import CrossKV
from hotpath.kernels.cross_kv.reference import cross_kv_reference
from hotpath.kernels.dispatch import InvalidArguments
from hotpath.tests.testing import random
from torch import Tensor

PROMPTS = {name: torch.randn(5, 6, generator=random(i)) for i, name in enumerate(("dog", "cat", "nothing"))}


def weights(seed: int = 0) -> tuple[Tensor, Tensor]:
    return tuple(torch.randn(8, 6, generator=random(10 + seed + i)) for i in range(2))


def check(cache: CrossKV, names: list[str], pair: tuple[Tensor, Tensor], *, layer: str = "a", biases=(None, None)) -> None:
    """The result for a batch of prompts, whose tensor is new on each step, is that of a fresh projection."""
    context = torch.stack([PROMPTS[name.split("@")[0]] for name in names])
    for ours, wanted in zip(
        cache.projected(layer, context, names, pair, biases), cross_kv_reference(context, pair, biases), strict=True
    ):
        torch.testing.assert_close(ours, wanted)


def test_a_prompt_is_projected_once() -> None:
    cache, pair = CrossKV(), weights()
    for _ in range(3):
        check(cache, ["dog", "nothing"], pair)
    assert (cache.misses, cache.hits) == (2, 4)
    context = torch.stack([PROMPTS["dog"], PROMPTS["nothing"]])
    first, second = (cache.projected("a", context, ["dog", "nothing"], pair) for _ in range(2))
    assert first[0] is second[0], "a batch that comes again is not put together again"


def test_guidance_may_batch_prompts_in_any_way() -> None:
    cache, pair = CrossKV(), weights()
    for names in (["dog", "nothing"], ["nothing", "dog"], ["dog"], ["nothing"], ["dog", "dog", "cat"], ["cat", "nothing", "dog"]):
        check(cache, names, pair)
    assert cache.misses == 3


def test_a_prompt_changed_in_the_queue_is_not_mistaken_and_may_come_back() -> None:
    cache, pair = CrossKV(), weights()
    for names in (["dog"], ["cat"], ["dog"], ["cat", "nothing"], ["dog"]):
        check(cache, names, pair)
    assert cache.misses == 3


def test_layers_are_kept_apart() -> None:
    cache, pairs, biases = CrossKV(), [weights(2 * i) for i in range(3)], (torch.full((8,), 3.0), None)
    for _ in range(2):
        for layer, pair in zip("abc", pairs, strict=True):
            check(cache, ["dog", "cat"], pair, layer=layer, biases=biases)
    assert cache.misses == 6


def test_other_weights_are_seen() -> None:
    cache, pair = CrossKV(), weights()
    check(cache, ["dog"], pair)
    pair[1].mul_(2)
    check(cache, ["dog"], pair)
    check(cache, ["dog"], (pair[0], weights(3)[1]))
    assert cache.misses == 3


def test_a_weight_at_the_address_of_a_dead_one_is_another() -> None:
    cache, address, names = CrossKV(), set(), ["dog"]
    for seed in range(20):
        pair = weights(seed * 2)
        address.add((id(pair[0]), pair[0].data_ptr()))
        check(cache, names, pair)
        del pair
    assert cache.misses == 20


def test_a_new_version_forgets_what_torch_cannot_see() -> None:
    with torch.inference_mode():
        pair = tuple(weight.clone() for weight in weights())
        cache = CrossKV()
        cache.begin("plain")
        check(cache, ["dog"], pair)
        pair[0].mul_(2)  # not counted on an inference tensor
        cache.begin("with a LoRA")
        check(cache, ["dog"], pair)
        cache.begin("with a LoRA")
        check(cache, ["dog"], pair)
    assert (cache.misses, cache.hits) == (2, 1)


def test_longer_prompts_of_the_same_name_and_other_dtypes_are_apart() -> None:
    cache, pair = CrossKV(), weights()
    context = PROMPTS["dog"][None]
    for given in (context, torch.cat([context, context], 1)):
        assert cache.projected("a", given, ["dog"], pair)[0].shape == (1, given.shape[1], 8)
    half = tuple(weight.bfloat16() for weight in pair)
    assert cache.projected("a", context.bfloat16(), ["dog"], half)[0].dtype == torch.bfloat16


def test_memory_is_bounded_and_the_oldest_go_first() -> None:
    pair = weights()
    cache = CrossKV(limit=2 * 2 * 5 * 8 * 4)  # two prompts
    for names in (["dog"], ["cat"], ["dog"], ["nothing"]):
        check(cache, names, pair)
    assert cache.bytes <= cache.limit
    check(cache, ["dog"], pair)
    assert cache.misses == 3
    check(cache, ["cat"], pair)
    assert cache.misses == 4
    check(CrossKV(limit=0), ["dog", "cat"], pair)
    cache.clear()
    assert cache.bytes == 0


def test_what_was_kept_without_gradients_serves_where_they_flow() -> None:
    cache, pair = CrossKV(), weights()
    with torch.inference_mode():
        cache.projected("a", PROMPTS["dog"][None], ["dog"], pair)
    query = torch.ones(8, requires_grad=True)
    (cache.projected("a", PROMPTS["dog"][None], ["dog"], pair)[0] * query).sum().backward()
    assert cache.hits == 1
    assert query.grad.abs().sum() > 0


def test_training_is_left_alone() -> None:
    cache, pair = CrossKV(), weights()
    pair[0].requires_grad_()
    keys, _ = cache.projected("a", PROMPTS["dog"][None], ["dog"], pair)
    keys.sum().backward()
    assert pair[0].grad is not None
    assert cache.misses == cache.hits == 0


def test_each_entry_needs_a_name() -> None:
    with pytest.raises(InvalidArguments, match="a name for each of 1 entries of the batch, got 2"):
        CrossKV().projected("a", PROMPTS["dog"][None], ["dog", "cat"], weights())

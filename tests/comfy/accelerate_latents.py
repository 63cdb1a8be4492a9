"""Cases of the Accelerate node: latents are those of the model, whatever else acts on it."""

from __future__ import annotations

import comfy.hooks
import comfy.model_management as mm
import torch
from comfy.patcher_extension import WrappersMP
from hotpath.engine import attention, attention_override
from hotpath.tests.comfy.accelerate_world import (
    BITS,
    LATENT,
    MODEL,
    OPTION,
    PLAIN,
    TINY,
    Spied,
    bits,
    case,
    lora,
    run,
    twin,
    with_lora,
)
from hotpath.tests.comfy.inside import accelerated, off, random_model, sample


@case
def same_latents():
    fast, vae, report = accelerated(MODEL)
    first = run(fast)
    copied = twin(fast).copied
    module = twin(fast).module
    return {
        "off": off(first, PLAIN),
        "again": torch.equal(run(fast), first),
        "copied again": twin(fast).copied - copied,
        "batch": off(sample(fast, LATENT.repeat(2, 1, 1, 1), 2), sample(MODEL, LATENT.repeat(2, 1, 1, 1), 2)),
        "guided": off(run(fast, cfg=2.0), run(MODEL, cfg=2.0)),
        "dtypes": sorted({str(p.dtype) for p in module.parameters()}),
        "kernel": module.input_blocks[1][0].in_layers[2].weight.untyped_storage().nbytes(),
        "source": bits(MODEL) == BITS,
        "source runs": torch.equal(run(MODEL), PLAIN),
        "source options": OPTION in MODEL.model_options["transformer_options"] or bool(MODEL.wrappers) or bool(MODEL.callbacks),
        "vae": vae is None,
        "report": report,
    }


@case
def loras():
    wanted = run(with_lora(MODEL))
    fast, _, _ = accelerated(MODEL)
    before, after = accelerated(with_lora(MODEL))[0], with_lora(fast)
    shared = twin(fast) is twin(before) is twin(after)
    return {
        "changes": off(wanted, PLAIN),
        "before": off(run(before), wanted),
        "after": off(run(after), wanted),
        "without again": off(run(fast), PLAIN),
        "other": off(run(with_lora(fast, -1.0)), run(with_lora(MODEL, -1.0))),
        "shared": shared,
        "copied by a switch": [run(fast), twin(fast).copied, run(after), twin(fast).copied][1::2],
        "source": torch.equal(run(MODEL), PLAIN) and bits(MODEL) == BITS,
    }


@case
def written_in_place():
    with torch.inference_mode(False):
        model = random_model(seed=9, **TINY)
    fast, _, _ = accelerated(model)
    run(fast)
    with torch.inference_mode(False), torch.no_grad():
        model.model.diffusion_model.out[2].weight.mul_(-1)
    turned = off(run(fast), run(model))
    patched = model.clone()
    patched.weight_inplace_update = True
    patched.add_patches(lora())
    after = accelerated(patched)[0]
    return {"turned": turned, "in place": off(run(after), run(patched)), "restored": off(run(fast), run(model))}


@case
def hooks():
    group = comfy.hooks.create_hook_lora({}, 1.0, 1.0)
    hook = group.hooks[0]
    hook.weights, hook.need_weight_init = lora(), False
    context = torch.randn(1, 77, 64, generator=torch.Generator().manual_seed(3))
    plain, hooked = [[context, {}]], [[context, {"hooks": group}]]
    fast, _, _ = accelerated(MODEL)
    without = run(fast, positive=plain)
    other = random_model(seed=7, **TINY)
    fresh = accelerated(other)[0]
    return {
        "changes": off(run(MODEL, positive=hooked), run(MODEL, positive=plain)),
        "hooked": off(run(fast, positive=hooked), run(MODEL, positive=hooked)),
        "one of two": off(
            run(fast, positive=hooked, negative=plain, cfg=2.0), run(MODEL, positive=hooked, negative=plain, cfg=2.0)
        ),
        "restored": torch.equal(run(fast, positive=plain), without),
        "hooked first": off(run(fresh, positive=hooked), run(other, positive=hooked)),
        "restored after that": off(run(fresh, positive=plain), run(other, positive=plain)),
    }


@case
def wrappers_patches_and_control():
    seen = []

    def inner(executor, *args, **kwargs):
        seen.append(str(args[0].dtype))
        return executor(*args, **kwargs) * 0.5

    def brighter(q, k, v, options):
        return q, k, v * 1.5

    def patched(model):
        model = model.clone()
        model.set_model_attn1_patch(brighter)
        model.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "inner", inner)
        return model

    fast = accelerated(MODEL)[0]
    x, t, c = torch.randn(1, 4, 16, 16), torch.tensor([9.0]), torch.randn(1, 77, 64)
    control = lambda: {"middle": [torch.full((1, 128, 2, 2), 3.0)], "output": [torch.ones(1, 128, 2, 2), None]}  # noqa: E731

    def call(model, **control):
        mm.load_models_gpu([model])
        options = {**model.model_options["transformer_options"], "wrappers": model.wrappers}
        return model.model.apply_model(x, t, c_crossattn=c, transformer_options=options, **control)

    return {
        "patched": off(run(patched(fast)), run(patched(MODEL))),
        "changes": off(run(patched(MODEL)), PLAIN),
        "seen": sorted(set(seen)),
        "control": off(call(fast, control=control()), call(MODEL, control=control())),
        "control changes": off(call(MODEL, control=control()), call(MODEL)),
    }


@case
def earlier_override():
    model, calls = MODEL.clone(), []

    def theirs(func, q, k, v, heads, **options):
        calls.append(getattr(func, "__name__", "?"))
        return func(q, k, v * 2, heads, **options)

    model.model_options["transformer_options"][OPTION] = theirs
    wanted, shipped = run(model), set(calls)
    calls.clear()
    with Spied(attention, "whole") as whole, Spied(attention, "blocked") as blocked:
        attention_override.CHOICES.clear()
        fast, _, report = accelerated(model)
        twice = accelerated(fast)[0]
        got = run(fast)
    attention_override.CHOICES.clear()
    return {
        "off": off(got, wanted),
        "changes": off(wanted, PLAIN),
        "theirs": len(calls),
        "ours": whole.calls + blocked.calls,
        "names": shipped == set(calls),
        "report": report,
        "twice": torch.equal(run(twice), run(fast)),
        "theirs once": [calls.clear(), run(twice, 1), len(calls)][2],
    }


@case
def side_by_side():
    fast = accelerated(MODEL)[0]
    other = with_lora(accelerated(MODEL)[0])
    one = [run(fast), run(other), run(MODEL)]
    two = [run(fast), run(other), run(MODEL)]
    return [torch.equal(a, b) for a, b in zip(one, two, strict=True)]

"""Runs fused U-Nets inside ComfyUI on tiny models next to the same without, and prints what came of each case; test_wiring.py judges."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from hotpath.tests.comfy.inside import off, start_comfyui
from hotpath.tests.testing import digest
from torch import nn

start_comfyui(Path(sys.argv[1]), Path(sys.argv[2]))

import comfy.hooks  # noqa: E402
import comfy.model_management as mm  # noqa: E402
from hotpath.engine import unet_parts, wiring  # noqa: E402
from hotpath.tests.comfy.wiring_world import (  # noqa: E402
    CROSS,
    LOG,
    MODEL,
    PLAIN,
    RESULTS,
    SD15,
    TOUCHED,
    XL,
    case,
    changed,
    fast,
    left_over,
    run,
    telling,
)


@case
def equal():
    found = {}
    for name, model in {"sd15": MODEL, "sdxl": XL}.items():
        before = digest(dict(model.model.named_parameters()))
        wanted = {"one": run(model), "guided": run(model, cfg=2.0), "other prompt": run(model, seed=2, cfg=2.0)}
        for dtype in (torch.float32, torch.bfloat16):
            wired = fast(model, dtype)
            runs = {"one": run(wired), "guided": run(wired, cfg=2.0), "other prompt": run(wired, seed=2, cfg=2.0)}
            found[f"{name} {dtype}"] = {key: off(runs[key], wanted[key]) for key in runs}
            found[f"{name} {dtype} said"] = LOG.fused()
        found[f"{name} left"] = left_over(model)
        found[f"{name} same"] = torch.equal(run(model), wanted["one"])
        found[f"{name} weights"] = digest(dict(model.model.named_parameters())) == before
    return found


@case
def loras():
    found = {}
    for dtype in (torch.float32, torch.bfloat16):
        wired = fast(MODEL, dtype)
        run(wired, cfg=2.0)
        for key in (*TOUCHED[:2], None):
            keys = TOUCHED if key is None else [key]
            plain, after, before = MODEL.clone(), wired.clone(), MODEL.clone()
            for model in (plain, after, before):
                model.add_patches(changed(MODEL, *keys))
            wanted, late, early = run(plain, cfg=2.0), run(after, cfg=2.0), run(fast(before, dtype), cfg=2.0)
            name = f"{dtype} {key}"
            found[name] = {"after": off(late, wanted), "before": off(early, wanted), "agree": torch.equal(late, early)}
            found[name] |= {"changes": off(wanted, PLAIN), "without": off(run(wired, cfg=2.0), PLAIN)}
    return found


@case
def hooks():
    """Weights written in place between the two halves of guidance."""
    group = comfy.hooks.create_hook_lora({}, 1.0, 1.0)
    group.hooks[0].weights, group.hooks[0].need_weight_init = changed(MODEL, *TOUCHED), False
    context = torch.randn(1, 77, 64, generator=torch.Generator().manual_seed(3))
    positive, negative = [[context, {"hooks": group}]], [[context, {}]]
    wired = fast(MODEL)
    both = {"positive": positive, "negative": negative, "cfg": 2.0}
    wanted = run(MODEL, **both)
    return {
        "hooked": off(run(wired, **both), wanted),
        "changes": off(wanted, run(MODEL, positive=negative, negative=negative, cfg=2.0)),
        "again": off(run(wired, **both), wanted),
        "restored": off(run(wired, cfg=2.0), PLAIN),
    }


def calls(model, contexts: dict[str, torch.Tensor], control: Callable = lambda: None) -> dict[str, torch.Tensor]:
    """The network through everything that is wrapped around it, once for each context, with one and the same label of prompts."""
    mm.load_models_gpu([model])
    found = {}
    for name, context in contexts.items():
        random = torch.Generator().manual_seed(8)
        x, t = torch.randn(len(context), 4, 16, 16, generator=random), torch.tensor([9.0]).repeat(len(context))
        options = {**model.model_options["transformer_options"], "wrappers": model.wrappers, "uuids": ["a"]}
        found[name] = model.model.apply_model(x, t, c_crossattn=context, control=control(), transformer_options=options)
        if name == "to be written":
            context.mul_(-1)
    return found


@case
def contexts():
    """What cross-attention reads changes though its label does not: windows over frames, patched conditionings."""
    random = torch.Generator().manual_seed(4)
    one, two = torch.randn(2, 2, 77, 64, generator=random)
    twice = torch.randn(2, 154, 64, generator=random)
    given = {"one": one, "two": two, "one again": one.clone(), "turned": one.flip(0), "longer": twice, "a row": two[1:]}
    plain, wired = (calls(model, {**given, "to be written": (w := two.clone()), "written": w}) for model in (MODEL, fast(MODEL)))
    found = {name: off(wired[name], plain[name]) for name in plain}
    return {**found, "changes": off(plain["two"], plain["one"]), "written changes": off(plain["written"], plain["to be written"])}


@case
def kept():
    """Each prompt and each time is projected once, whatever the batch."""
    network, random = MODEL.model.diffusion_model, torch.Generator().manual_seed(4)
    held, undo = wiring.wire(network)
    a, b = torch.randn(2, 1, 77, 64, generator=random)
    x = torch.randn(2, 4, 16, 16, generator=random)
    seen = []
    for context, time in ((torch.cat([a, b]), 9.0), (torch.cat([b, a]), 9.0), (torch.cat([a, a]), 5.0), (torch.cat([a, b]), 5.0)):
        network(x, torch.full((2,), time), context, None, None, {})
        seen.append([held._crossed.misses, len(held._projected)])
    undo()
    return {"seen": seen, "layers": sum(unet_parts.crossing_fits(m) for m in network.modules()), "left": left_over(MODEL)}


@case
def control():
    context = {"x": torch.randn(1, 77, 64, generator=torch.Generator().manual_seed(4))}
    tensors = lambda: {"middle": [torch.full((1, 128, 2, 2), 3.0)], "output": [torch.ones(1, 128, 2, 2), None]}  # noqa: E731
    without, wanted, found = (
        calls(MODEL, context)["x"],
        calls(MODEL, context, tensors)["x"],
        calls(fast(MODEL), context, tensors)["x"],
    )
    return {"off": off(found, wanted), "changes": off(wanted, without)}


@case
def patches():
    """Whatever other nodes ask of transformer blocks and of what is around them."""

    def doubled(n, context, value, options):
        if options["block"] != ("input", 1):  # in place, from the second layer on, and another way in the second step
            context.mul_(0.9 if options["sigmas"][0] > 2 else 1.2)
        return n, context, value

    setters = {
        "attn1": lambda m: m.set_model_attn1_patch(lambda q, k, v, options: (q, k, v * 1.5)),
        "attn2 in place": lambda m: m.set_model_attn2_patch(doubled),
        "attn1 output": lambda m: m.set_model_attn1_output_patch(lambda n, options: n * options["n_heads"] / 4),
        "attn2 output": lambda m: m.set_model_attn2_output_patch(lambda n, options: n * -1),
        "between": lambda m: m.set_model_patch(lambda x, options: x * 1.5, "middle_patch"),
        "attn2 of one block": lambda m: m.set_model_attn2_replace(lambda q, k, v, options: q * 2 + v.mean(1, True), "middle", 0),
        "attn1 of one block": lambda m: m.set_model_attn1_replace(lambda q, k, v, options: v * 2, "output", 4, 0),
        "after a block": lambda m: m.set_model_output_block_patch(lambda h, skip, options: (h * 1.4, skip * 0.8)),
        "time": lambda m: m.set_model_emb_patch(lambda emb, channels, options: emb * 1.5),
        "a norm": lambda m: m.add_object_patch("diffusion_model.input_blocks.1.1.transformer_blocks.0.norm2", nn.Identity()),
        "keys": lambda m: m.add_object_patch(CROSS.format("k").removesuffix(".weight") + ".forward", lambda c: c @ KEYS_OTHER.T),
        "weights on each call": lambda m: m.add_weight_wrapper(CROSS.format("v"), lambda w: w * 2),
    }
    KEYS_OTHER = torch.randn(128, 64, generator=torch.Generator().manual_seed(4))  # noqa: N806
    found = {}
    for name, setter in setters.items():
        plain, wired = MODEL.clone(), fast(MODEL)
        if name == "a norm":  # also where the model has run before it came
            run(wired)
            wired = wired.clone()
        setter(plain)
        setter(wired)
        wanted = run(plain, cfg=2.0)
        found[name] = {"after": off(run(wired, cfg=2.0), wanted), "said": LOG.fused()}
        found[name] |= {"before": off(run(fast(plain), cfg=2.0), wanted), "changes": off(wanted, PLAIN)}
    found["plain again"] = torch.equal(run(MODEL, cfg=2.0), PLAIN)
    return found


@case
def hooked():
    """Forward hooks on layers that are passed over."""
    network, found = MODEL.model.diffusion_model, {}
    block = network.middle_block[1].transformer_blocks[0]
    layers = {
        "norm": block.norm3,
        "group norm": network.middle_block[0].out_layers[0],
        "silu": network.out[1],
        "gate": block.ff.net[0].proj,
    }
    layers |= {"time": network.middle_block[2].emb_layers[1], "values": block.attn2.to_v}
    for name, layer in layers.items():
        handle = layer.register_forward_hook(lambda module, given, result: result * 1.5)
        wanted = run(MODEL, cfg=2.0)
        found[name] = {"off": off(run(fast(MODEL), cfg=2.0), wanted), "changes": off(wanted, PLAIN), "said": LOG.fused()}
        handle.remove()
    return found


@case
def wrong_parts():
    """A network that looks like one of ours and is not is found out on first use, and left alone."""
    model = telling(**SD15, seed=2)
    block = model.model.diffusion_model.middle_block[0]

    class Other(type(block)):
        def _forward(self, x, emb):
            return super()._forward(x, emb) * 1.5

    block.__class__ = Other
    wanted = run(model)
    return {
        "off": off(run(fast(model)), wanted),
        "said": LOG.fused(),
        "warned": [line for line in LOG.lines if "fused, it is" in line],
    }


@case
def bare_network():
    network = telling(**SD15, seed=2).model.diffusion_model
    random = torch.Generator().manual_seed(1)
    given = torch.randn(2, 4, 16, 16, generator=random), torch.tensor([9.0, 500.0]), torch.randn(2, 77, 64, generator=random)
    wanted = network(*given, transformer_options={})
    found = {}
    for keep in (True, False):
        held, undo = wiring.wire(network, keep, channels_last=not keep)
        found[f"off {keep}"] = off(network(*given, transformer_options={}), wanted)
        found[f"counts {keep}"] = dict(held.counts)
        undo()
    try:
        held, undo = wiring.wire(network)
        network(given[0], given[1], given[2][:, :, :3], transformer_options={})
    except RuntimeError:
        undo()
    found["after an error"] = sum("forward" in vars(module) for module in network.modules())
    found["undone"] = torch.equal(network(*given, transformer_options={}), wanted)
    found["parts"] = sum(1 for _ in unet_parts.parts_of(network))
    return found


from hotpath.tests.comfy import wiring_loaded  # noqa: E402, F401  more cases, which run as they are imported

sys.stdout.write("RESULTS" + json.dumps(RESULTS))

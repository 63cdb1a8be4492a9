"""Cases of what stays while a model is loaded: weights laid out for a GPU, recorded calls, memory of the copy."""

from __future__ import annotations

import gc
import weakref

import comfy.model_management as mm
import torch
from hotpath.engine import accelerate, graphs, layout
from hotpath.nodes import accelerate as node
from hotpath.tests.comfy.inside import off
from hotpath.tests.comfy.wiring_world import CROSS, MODEL, PLAIN, TOUCHED, case, changed, fast, parts_of, run
from torch import nn


@case
def channels_last():
    """As on a GPU: weights laid out where they lie, for as long as the model is loaded."""

    def strides(model) -> list[bool]:
        convolutions = [m for m in model.model.modules() if isinstance(m, nn.Conv2d) and m.kernel_size != (1, 1)]
        return [m.weight.is_contiguous() for m in convolutions]

    wired = fast(MODEL)
    parts_of(wired).layout = layout.ChannelsLast()
    seen = []

    def look(executor, x, *args):
        seen.append(x.is_contiguous(memory_format=torch.channels_last) and x.shape[1] > 1)
        return executor(x, *args)

    wired.add_wrapper_with_key(node.WrappersMP.DIFFUSION_MODEL, "look", look)
    touched = wired.clone()
    touched.add_patches(changed(MODEL, *TOUCHED, "diffusion_model.input_blocks.1.0.in_layers.2.weight"))
    plain = MODEL.clone()
    plain.add_patches(changed(MODEL, *TOUCHED, "diffusion_model.input_blocks.1.0.in_layers.2.weight"))
    found = {
        "before": all(strides(MODEL)),
        "off": off(run(wired, cfg=2.0), PLAIN),
        "during": any(strides(MODEL)),
        "seen": all(seen),
    }
    found["lora"] = off(run(touched, cfg=2.0), run(plain, cfg=2.0))
    found["without"] = off(run(wired, cfg=2.0), PLAIN)
    found["same"] = torch.equal(run(MODEL, cfg=2.0), PLAIN)
    found["after"] = all(strides(MODEL))
    run(wired)
    mm.unload_all_models()
    found["unloaded"] = all(strides(MODEL))
    return found


@case
def replayed():
    """As on a GPU, with a recorder that repeats calls: who else takes part is never left out."""
    recorded = []

    def record(again):
        recorded.append(again)
        result = again().clone()
        return lambda: result.copy_(again()), result

    def setup(model):
        wired = fast(model)
        parts_of(wired).graphs, parts_of(wired).layout = graphs.Graphs(record), layout.ChannelsLast()
        return wired, parts_of(wired).graphs

    wired, replays = setup(MODEL)
    found = {"off": off(run(wired, cfg=2.0), PLAIN), "counts": dict(replays.counts), "recorded": len(recorded)}
    run(wired, seed=2, cfg=2.0)
    found["recorded for another prompt and noise"] = len(recorded)
    key = "diffusion_model.input_blocks.1.0.in_layers.2.weight"
    plain, touched = MODEL.clone(), wired.clone()
    for model in (plain, touched):
        model.add_patches(changed(MODEL, key))
    found["lora"] = off(run(touched, cfg=2.0), run(plain, cfg=2.0))
    found["without"] = off(run(wired, cfg=2.0), PLAIN)
    setters = {
        "patch": lambda m: m.set_model_attn1_patch(lambda q, k, v, options: (q, k, v * 1.5)),
        "inner wrapper": lambda m: m.add_wrapper_with_key(
            node.WrappersMP.DIFFUSION_MODEL, "inner", lambda executor, x, *args: executor(x * 1.5, *args)
        ),
        "keys": lambda m: m.add_object_patch(CROSS.format("k").removesuffix(".weight") + ".forward", lambda c: c @ KEYS.T),
    }
    KEYS = torch.randn(128, 64, generator=torch.Generator().manual_seed(4))  # noqa: N806
    for name, setter in setters.items():
        plain, changed_one = MODEL.clone(), wired.clone()
        setter(plain)
        setter(changed_one)
        wanted, before = run(plain, cfg=2.0), replays.counts["taken"]
        found[name] = {"off": off(run(changed_one, cfg=2.0), wanted), "changes": off(wanted, PLAIN)}
        found[name]["taken"] = replays.counts["taken"] - before
    held = len(replays._graphs)
    mm.unload_all_models()
    found["held"] = [held, len(replays._graphs)]
    return found


@case
def memory():
    """Nothing that fuses layers of a copy holds it alive, and no circle does."""
    wired = fast(MODEL, torch.bfloat16)
    run(wired)
    (wrapper,) = wired.wrappers[node.WrappersMP.DIFFUSION_MODEL][node.KEY]
    calls = next(cell.cell_contents for cell in wrapper.__closure__ if isinstance(cell.cell_contents, accelerate.OnTwin))
    copy = weakref.ref(calls.twin.module)
    found = {"held": copy() is not None and calls.wiring._crossed.bytes > 0}
    gc.disable()
    mm.unload_all_models()
    found["gone"] = copy() is None and not calls.wiring._crossed.bytes
    gc.enable()
    return found

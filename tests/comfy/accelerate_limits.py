"""Cases of the Accelerate node: memory, what is left alone and why, a copy that is wrong, and Cancel."""

from __future__ import annotations

import functools

import comfy.model_management as mm
import torch
from comfy.patcher_extension import PatcherInjection
from hotpath.engine import precision
from hotpath.nodes import accelerate as node
from hotpath.tests.comfy.accelerate_world import MODEL, PLAIN, TINY, VAE, Spied, case, run, twin
from hotpath.tests.comfy.inside import accelerated, off, random_model


@case
def memory():
    fast = accelerated(random_model(seed=4, **TINY))[0]
    untouched = twin(fast).module is None
    run(fast)
    held = twin(fast).module is not None
    mm.unload_all_models()
    return {"lazy": untouched, "held": held, "released": twin(fast).module is None, "again": bool(run(fast).isfinite().all())}


@case
def declines():
    reports, chosen = {}, node.choose
    node.choose = lambda device, wanted="auto": precision.Precision(torch.float32, "float32 because this processor has none")
    fast, vae, reports["fp32"] = accelerated(MODEL, VAE)
    exact = off(run(fast), PLAIN)
    node.choose = chosen
    injected = MODEL.clone()
    injected.set_injections("x", [PatcherInjection(lambda p: None, lambda p: None)])
    reports["injected"] = accelerated(injected)[2]
    late = accelerated(MODEL)[0].clone()
    late.set_injections("x", [PatcherInjection(lambda p: None, lambda p: None)])
    reports["late"] = off(run(late), PLAIN)
    other = MODEL.clone()
    other.model = type("Flux", (torch.nn.Module,), {})()
    other.model.diffusion_model, other.model.model_config = torch.nn.Linear(2, 2), MODEL.model.model_config
    other.model.device = torch.device("cpu")
    reports["flux"] = accelerated(other)[2]
    other = MODEL.clone()
    other.load_device = torch.device("mps")
    same, _, reports["elsewhere"] = accelerated(other)
    other.load_device = torch.device("cuda")
    reports["cuda"] = accelerated(other)[2]
    torch.version.hip, kept = "6.4", torch.version.hip
    reports["amd"] = accelerated(other)[2]
    torch.version.hip = kept
    theirs = accelerated(MODEL)[0]
    network = theirs.model.diffusion_model
    network._forward = functools.partial(network._forward)  # as other nodes put one in its place
    try:
        reports["their forward"] = off(run(theirs), PLAIN)
    finally:
        del network._forward
    with Spied(mm, "get_free_memory", lambda *_: 1024):
        reports["memory"] = accelerated(MODEL)[2]
    return {**reports, "exact": exact, "vae kept": vae is VAE, "elsewhere same": same is other}


@case
def a_twin_that_is_wrong():
    model = random_model(seed=6, **TINY)
    fast = accelerated(model)[0]

    def broken(module):
        with torch.no_grad():
            module.out[2].weight.mul_(1.2)

    twin(fast).finish = broken
    spoilt = run(fast)
    failing = accelerated(random_model(seed=6, **TINY))[0]

    def raising(module):
        module.out[2] = torch.nn.Linear(3, 3)

    twin(failing).finish = raising
    return {"off": off(spoilt, run(model)), "failing": off(run(failing), run(model))}


@case
def interrupted():
    fast = accelerated(MODEL)[0]
    mm.interrupt_current_processing(True)
    try:
        run(fast)
    except mm.InterruptProcessingException:
        return "interrupted"
    finally:
        mm.interrupt_current_processing(False)

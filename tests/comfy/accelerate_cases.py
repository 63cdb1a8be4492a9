"""Runs the Accelerate node inside ComfyUI on tiny models and prints what came of each case; test_accelerate.py judges."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from hotpath.tests.comfy.inside import accelerated, cases_in, off, random_model, random_vae, sample, start_comfyui
from hotpath.tests.testing import digest

start_comfyui(Path(sys.argv[1]), Path(sys.argv[2]))

import comfy.hooks  # noqa: E402
import comfy.model_management as mm  # noqa: E402
import comfy.samplers  # noqa: E402
import comfy.sd  # noqa: E402
from comfy.patcher_extension import PatcherInjection, WrappersMP  # noqa: E402
from comfy.taesd.taesd import TAESD  # noqa: E402
from hotpath.engine import accelerate, attention, attention_override, precision  # noqa: E402
from hotpath.nodes import accelerate as node  # noqa: E402

TINY = {"model_channels": 32, "context_dim": 64}
LATENT = torch.zeros(1, 4, 16, 16)
KEY = "diffusion_model.input_blocks.1.0.in_layers.2.weight"
RESULTS: dict[str, object] = {}
case = cases_in(RESULTS)
OPTION = "optimized_attention_override"
precision.choose = node.choose = lambda device, wanted="auto": precision.Precision(
    torch.bfloat16, "bfloat16 because the test says so"
)


def run(model, steps: int = 2, **options) -> torch.Tensor:
    return sample(model, LATENT, steps, **options)


def lora(strength: float = 1.0) -> dict:
    weight = torch.randn(32, 32, 3, 3, generator=torch.Generator().manual_seed(5))
    return {KEY: ("diff", (weight * strength,))}


def with_lora(model, strength: float = 1.0):
    model = model.clone()
    assert model.add_patches(lora(strength))
    return model


def twin(model):
    """The twin a fast model runs on."""
    wrapper = model.wrappers[WrappersMP.DIFFUSION_MODEL][node.KEY][0]
    return next(cell.cell_contents for cell in wrapper.__closure__ if isinstance(cell.cell_contents, accelerate.OnTwin)).twin


def vae_twin(vae):
    return next(c.cell_contents for c in vae.decode.__closure__ if isinstance(c.cell_contents, accelerate.OnTwin)).twin


def bits(model) -> str:
    return digest(dict(model.model.diffusion_model.named_parameters()))


def random_config() -> dict:
    from hotpath.tests.comfy.inside import VAE as CONFIG

    return {**CONFIG, "ch": 32}


def psnr(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(-10 * torch.log10((a - b).square().mean()))


class Spied:
    """Counts the calls of one of our two ways of attention, or of a network's twin."""

    def __init__(self, owner: object, name: str, instead: Callable | None = None) -> None:
        self.owner, self.name, self.calls, self.kept = owner, name, 0, getattr(owner, name)
        self.instead = instead or self.kept

    def __enter__(self):
        def spy(*args, **kwargs):
            self.calls += 1
            return self.instead(*args, **kwargs)

        setattr(self.owner, self.name, spy)
        return self

    def __exit__(self, *_):
        setattr(self.owner, self.name, self.kept)


with torch.inference_mode():
    MODEL = random_model(**TINY)  # as in a server, where weights are inference tensors that count no changes
    BITS = bits(MODEL)
    PLAIN = run(MODEL)
VAE = random_vae(ch=32)


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
    import hotpath.nodes.accelerate as door

    reports, chosen = {}, door.choose
    door.choose = lambda device, wanted="auto": precision.Precision(torch.float32, "float32 because this processor has none")
    fast, vae, reports["fp32"] = accelerated(MODEL, VAE)
    exact = off(run(fast), PLAIN)
    door.choose = chosen
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


@case
def vae():
    latent = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(2))
    image = torch.rand(1, 64, 64, 3, generator=torch.Generator().manual_seed(2))
    before, plain = digest(VAE.get_sd()), VAE.decode(latent)
    _, fast, report = accelerated(MODEL, VAE)
    own = dict(vars(VAE))
    with Spied(attention, "blocked") as blocked:
        got = fast.decode(latent)
    tiled = fast.decode_tiled(latent, tile_x=8, tile_y=8, overlap=2)
    taesd = TAESD()
    for i, parameter in enumerate(taesd.parameters()):
        if parameter.ndim:
            parameter.data.normal_(0, (2 / max(1, parameter[0].numel())) ** 0.5, generator=torch.Generator().manual_seed(i))
    taesd = comfy.sd.VAE(sd=taesd.state_dict())
    video = comfy.sd.VAE(sd=VAE.get_sd(), config={"params": {"ddconfig": random_config(), "embed_dim": 4}})
    video.latent_dim = 3
    kept, says = accelerated(MODEL, video)[1:]
    result = {
        "psnr": psnr(got, plain),
        "tiled": psnr(tiled, VAE.decode_tiled(latent, tile_x=8, tile_y=8, overlap=2)),
        "encode": torch.equal(fast.encode(image), VAE.encode(image)),
        "taesd": psnr(accelerated(MODEL, taesd)[1].decode(latent), taesd.decode(latent)),
        "source": digest(VAE.get_sd()) == before
        and all(vars(VAE)[k] is v for k, v in own.items())
        and torch.equal(VAE.decode(latent), plain),
        "dtype": str(got.dtype),
        "differs": not torch.equal(got, plain),
        "blocked": blocked.calls,
        "report": report,
        "video": [kept is video, says],
    }
    with torch.inference_mode(False), torch.no_grad():
        VAE.first_stage_model.decoder.conv_out.bias.add_(0.5)
    result["weights followed"] = psnr(fast.decode(latent), VAE.decode(latent))
    fast.decode(latent)
    mm.unload_all_models()
    result["released"] = vae_twin(fast).module is None
    result["after unloading"] = psnr(fast.decode(latent), VAE.decode(latent))
    return result


sys.stdout.write("RESULTS" + json.dumps(RESULTS))

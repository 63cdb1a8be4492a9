"""The probe around a model: ComfyUI's own wrappers on a clone, nothing patched, nothing waited for."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from comfy.patcher_extension import WrappersMP
from torch import nn

from ..engine.probe.recording import Recording
from ..engine.probe.run import Run
from . import probe_host as host

KEY = "hotpath_probe"
CONTAINERS = {"transformer_options", "patches", "patches_replace", "wrappers", "callbacks"}


def probed(model: Any, recording: Recording, *, blocks: bool) -> Any:
    """A clone of a MODEL whose runs are recorded."""
    clone = model.clone()
    for kind, wrapper in (
        (WrappersMP.OUTER_SAMPLE, _outer_sample(recording)),
        (WrappersMP.PREPARE_SAMPLING, _span(recording, "load", always=True)),
        (WrappersMP.SAMPLER_SAMPLE, _sampler_sample(recording)),
        (WrappersMP.PREDICT_NOISE, _span(recording, "prediction", always=True)),
        (WrappersMP.APPLY_MODEL, _apply_model(recording)),
        (WrappersMP.DIFFUSION_MODEL, _network(recording, blocks)),
    ):
        clone.add_wrapper_with_key(kind, KEY, wrapper)
    # Around the wrappers that are there, since Accelerate records a graph only of calls with nothing further in.
    networks = clone.wrappers[WrappersMP.DIFFUSION_MODEL]
    clone.wrappers[WrappersMP.DIFFUSION_MODEL] = {KEY: networks.pop(KEY), **networks}
    return clone


def _outer_sample(recording: Recording) -> Callable:
    def wrapper(executor: Any, noise: Any, latent_image: Any, sampler: Any, sigmas: Any, *args: Any, **kwargs: Any) -> Any:
        call, patches = called(executor.class_obj, sampler)
        with recording.run(max(0, sigmas.shape[-1] - 1), noise.shape, call, patches, host.prompt_id()):
            return executor(noise, latent_image, sampler, sigmas, *args, **kwargs)

    return wrapper


def called(guider: Any, sampler: Any) -> tuple[dict[str, object], str]:
    """What a run's work depends on beside steps and size: sampler, guider and CFG, what was put around the model; and its patches."""
    function = getattr(sampler, "sampler_function", type(sampler))
    model = getattr(guider, "model_patcher", None)
    options = getattr(model, "model_options", {})
    inner = options.get("transformer_options", {})
    patched = {
        *getattr(model, "object_patches", ()),
        *options,
        *inner,
        *inner.get("patches", ()),
        *inner.get("patches_replace", ()),
    }
    around = {f"{name} patched" for name in patched - CONTAINERS}
    around |= {f"{kind} by {key}" for kind, keyed in getattr(model, "wrappers", {}).items() for key in keyed if key != KEY}
    found = {
        "sampler": getattr(function, "__name__", type(function).__name__).removeprefix("sample_"),
        "guider": type(guider).__name__,
        **{name: value for name, value in vars(guider).items() if name.startswith("cfg") and isinstance(value, int | float)},
        **({"around the model": ", ".join(sorted(around))} if around else {}),
    }
    return found, str(getattr(model, "patches_uuid", ""))


def _span(recording: Recording, name: str, *, always: bool = False) -> Callable:
    def wrapper(executor: Any, *args: Any, **kwargs: Any) -> Any:
        run = recording.active[-1] if recording.active else None
        if run is None or not (always or run.detailed):
            return executor(*args, **kwargs)
        begin = run.clock.mark()
        result = executor(*args, **kwargs)
        run.end(name, begin)
        return result

    return wrapper


def _sampler_sample(recording: Recording) -> Callable:
    """Sampling itself. Steps are told apart by the callback that every sampler calls once a step."""

    def wrapper(
        executor: Any, guider: Any, sigmas: Any, extra_args: Any, callback: Callable | None, *args: Any, **kwargs: Any
    ) -> Any:
        if not recording.active:
            return executor(guider, sigmas, extra_args, callback, *args, **kwargs)
        run = recording.active[-1]
        last = run.clock.mark()

        def step(*values: Any, **more: Any) -> Any:
            nonlocal last
            result = callback(*values, **more) if callback is not None else None
            last = recording.step_done(run, last)
            return result

        return executor(guider, sigmas, extra_args, step, *args, **kwargs)

    return wrapper


def _apply_model(recording: Recording) -> Callable:
    span = _span(recording, "model call")

    def wrapper(executor: Any, *args: Any, **kwargs: Any) -> Any:
        run = recording.active[-1] if recording.active else None
        if run is not None and run.detailed:
            options = kwargs.get("transformer_options") or next((value for value in args[5:6] if isinstance(value, dict)), {})
            run.passes += len(options.get("cond_or_uncond", (0,)))
        return span(executor, *args, **kwargs)

    return wrapper


def _network(recording: Recording, blocks: bool) -> Callable:
    span = _span(recording, "network")

    def wrapper(executor: Any, *args: Any, **kwargs: Any) -> Any:
        run = recording.active[-1] if recording.active else None
        if run is None or not run.detailed or not blocks or not isinstance(executor.class_obj, nn.Module):
            return span(executor, *args, **kwargs)
        with block_marks(executor.class_obj, run):
            return span(executor, *args, **kwargs)

    return wrapper


def block_parts(network: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The modules of each block of a network: elements of its lists, or what those hold where the network calls that one by one."""
    for name, child in network.named_children():
        elements = child.named_children() if isinstance(child, nn.ModuleList) else [("", child)] if "middle" in name else ()
        for index, element in elements:
            block = f"block {name}.{index}".rstrip(".")
            yield from ((block, part) for part in (element if isinstance(element, nn.Sequential) else (element,)))


@contextmanager
def block_marks(network: nn.Module, run: Run) -> Iterator[None]:
    """Marks around each block for the length of one call; the hooks are gone after it, whatever happens."""
    open_marks: list = []

    def before(*_: Any) -> None:
        open_marks.append(run.clock.mark())

    with ExitStack() as stack:
        for name, part in block_parts(network):

            def after(*_: Any, name: str = name) -> None:
                run.end(name, open_marks.pop())

            stack.callback(part.register_forward_pre_hook(before).remove)
            stack.callback(part.register_forward_hook(after).remove)
        yield

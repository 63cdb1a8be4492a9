"""Cases of Probe Model: one run that is watched, beside the same without, and what the probe says of it."""

import time

import torch
from comfy.patcher_extension import WrappersMP
from hotpath.tests.comfy.probe_world import MODEL, case, clock, counts, fresh, hooks, probed, sample, table
from torch.utils._python_dispatch import TorchDispatchMode

# ---- it changes nothing


def same_picture():
    plain = sample(MODEL)
    return [*(torch.equal(plain, sample(fresh(blocks=blocks)[0])) for blocks in (False, True)), MODEL.wrappers, hooks()]


def off():
    model, report = probed(enabled=False)
    return [model is MODEL, report.notes[0]]


def order():
    # Accelerate records a graph only of calls with nothing further in.
    model = MODEL.clone()
    model.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "accelerate", lambda executor, *args, **more: executor(*args, **more))
    return list(fresh(model=model, blocks=False)[0].wrappers[WrappersMP.DIFFUSION_MODEL])


class Operations(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        self.seen.append(str(function))
        return function(*arguments, **(keywords or {}))


def operations():
    found, progress = [], lambda *values: None  # as every sampler node has it
    sample(MODEL, callback=progress)
    for model in (MODEL, fresh(blocks=True, compare_overhead=False)[0]):
        with Operations() as watch:
            sample(model, callback=progress)
        found.append(watch.seen)
    return [found[0] == found[1], sum("_local_scalar_dense" in name for name in found[0]), len(found[0])]


def waits():
    class Event:
        made, waited = 0, 0

        def __init__(self, enable_timing):
            Event.made += 1

        def record(self):
            self.at = time.perf_counter()

        def synchronize(self):
            Event.waited += 1

        def elapsed_time(self, end):
            return 1e3 * (end.at - self.at)

    real, clock._event_class = clock._event_class, lambda device: Event
    try:
        model, recording = fresh(blocks=True)
        sample(model)
        during = Event.waited
        recording.current()
        return [Event.made, during, Event.waited]
    finally:
        clock._event_class = real


case("same picture", same_picture)
case("off", off)
case("order", order)
case("operations", operations)
case("waits", waits)

# ---- it tells the truth


def stages(**settings):
    model, recording = fresh(blocks=True, compare_overhead=False)
    sample(model, **settings)
    report = recording.current()
    return [counts(report), report.extras["CFG"], report.extras["steps"], table.text_table(report)]


def truth():
    """The whole against an outside clock, and the steps against the whole."""
    sample(fresh()[0])
    model, recording = fresh()
    begin = time.perf_counter()
    sample(model, steps=12)
    outside = 1e3 * (time.perf_counter() - begin)
    report = recording.current()
    found = {entry.name: sum((*entry.samples_ms, *entry.warmup_ms)) for entry in report.measurements}
    return [outside, found["sampling"], found["step"], found["prediction"]]


def shows_steps():
    seen = []
    sample(fresh()[0], callback=lambda *values: seen.append(values[0]))
    return seen


case("euler", stages)
case("heun", lambda: stages(sampler="heun"))
case("no CFG", lambda: stages(cfg=1.0))
case("truth", truth)
case("callback", shows_steps)

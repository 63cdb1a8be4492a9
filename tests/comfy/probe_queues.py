"""Cases of Probe Model over several queues: what is gathered, what is told apart, and what the reports say of runs that did not come."""

from contextlib import suppress

import comfy.model_management as mm
from comfy_execution.utils import CurrentNodeContext
from hotpath.tests.comfy.probe_world import call, case, counts, fresh, hooks, host, probed, sample, table

# ---- what is gathered and what is told apart


def accumulates():
    fresh()
    for _ in range(3):
        model, recording = probed()
        sample(model, steps=8)
    report = recording.current()
    return [counts(report)["step"], report.extras["overhead"], report.extras["steps"]["runs"]]


def another_sampler():
    model, recording = fresh(compare_overhead=False)
    sample(model, steps=8)
    model, again = probed(compare_overhead=False)
    sample(model, steps=8, sampler="heun")
    heun = again.current()
    sample(model, steps=8, cfg=1.0)
    sample(call("Accelerate", model=model, precision="auto")[0], steps=8)
    around = again.current()
    left = [next(note for note in report.notes if note.startswith("Left out")) for report in (heun, around)]
    return [again is recording, counts(heun)["step"], heun.workload, counts(around)["step"], left]


def graph(seed=1, steps=20, precision="auto"):
    return {
        "1": {"class_type": "Loader", "inputs": {}},
        "2": {"class_type": "Accelerate", "inputs": {"model": ["1", 0], "precision": precision}},
        "3": {"class_type": "Probe", "inputs": {"model": ["2", 0]}},
        "4": {"class_type": "PrimitiveInt", "inputs": {"value": seed}},
        "5": {"class_type": "RandomNoise", "inputs": {"noise_seed": seed}},
        "6": {"class_type": "KSampler", "inputs": {"model": ["3", 0], "seed": ["4", 0], "noise": ["5", 0], "steps": steps}},
        "7": {"class_type": "Stop", "inputs": {"anything": ["6", 0]}},
    }


def graphs():
    first = host.settings(graph(), "7", "1")
    return [
        first == host.settings(graph(seed=2), "7", "1"),
        first == host.settings(graph(steps=8), "7", "1"),
        host.settings(graph(), "3") == host.settings(graph(steps=8), "3"),
        host.settings(graph(), "3") == host.settings(graph(precision="float32"), "3"),
    ]


case("accumulates", accumulates)
case("another sampler", another_sampler)
case("graphs", graphs)

# ---- runs that were cut short, never came, or came from the cache


def interrupted():
    model, recording = fresh()

    def stop(step, *_):
        if step == 2:
            mm.interrupt_current_processing(True)
            mm.throw_exception_if_processing_interrupted()

    with suppress(mm.InterruptProcessingException):
        sample(model, callback=stop)
    report = recording.current()
    left = [len(recording.active), hooks()]
    sample(model)
    statuses = [(entry.name, entry.status) for entry in report.measurements]
    return [statuses, list(report.notes), left, counts(recording.current())["step"]]


def nothing():
    model, recording = fresh()
    before = recording.current()
    sample(model, steps=0)
    after = recording.current()
    return [list(before.notes), [entry.status for entry in after.measurements], list(after.notes), table.text_table(after)]


def cached():
    """The probe and the sampler came from the cache of the first run of the graph: neither is executed in the second."""
    with CurrentNodeContext("first", "3"):
        model, recording = fresh()
        sample(model)
        before = recording.current(host.prompt_id())
    with CurrentNodeContext("second", "4"):
        after = recording.current(host.prompt_id())
        _, text, _ = call("ProbeReport", report=recording, name="", theme="light", history=True)
    statuses = [sorted({entry.status for entry in report.measurements}) for report in (before, after)]
    return [statuses, text, host.history_file().is_file()]


def rerun():
    inputs = ((True, True), (False, True), (True, False))
    states = [call("ProbeModel", "fingerprint_inputs", rerun=rerun, enabled=enabled) for rerun, enabled in inputs]
    return [state != state for state in states]


def compared():
    """Two models' reports before either has sampled, after one has, and after both have."""
    with CurrentNodeContext("one", "9"):
        (first, before), (second, after) = fresh(compare_overhead=False), fresh(compare_overhead=False)
        wired = {"second": after, "first": before, "first_file": "on the wire", "theme": "light", "after": "made"}
        texts = [call("CompareReports", **wired)[1]]
        for model in (first, second):
            sample(model, steps=8)
            texts.append(call("CompareReports", **wired)[1])
    return texts


case("interrupted", interrupted)
case("nothing", nothing)
case("cached", cached)
case("rerun", rerun)
case("compared", compared)

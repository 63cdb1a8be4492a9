"""Probe nodes: around a model, and around any stretch of a graph."""

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from comfy_api.latest import io

from ..engine.probe.recording import Recording
from ..engine.probe.report import Report
from ..engine.probe.span import Span, Spans
from . import probe_host as host
from . import wires
from .concept_host import tell
from .host import log
from .probe_wrappers import probed

CATEGORY = "hotpath/probe"
EARLIER_CUT = "The run before this one never came from Probe Start to Probe Stop (interrupted, or an error); it is not counted."
# Kept per node while ComfyUI runs, since a span begins in one node and ends in another, and its samples come one a queue.
_STARTED: OrderedDict[str, "Started"] = OrderedDict()
_SPANS: OrderedDict[tuple, Spans] = OrderedDict()
_RECORDINGS: OrderedDict[tuple, Recording] = OrderedDict()
KEPT = 64


@dataclass(frozen=True)
class Started:
    """A Probe Start that has run: in which prompt, what it watches since, and whether its run before was left without an end."""

    prompt_id: str
    span: Span
    earlier_cut: bool


def _keep(registry: OrderedDict, key: Any, value: Any) -> Any:
    registry[key] = value
    registry.move_to_end(key)
    while len(registry) > KEPT:
        registry.popitem(last=False)
    return value


def _rerun() -> io.Boolean.Input:
    return io.Boolean.Input(
        "rerun", default=True, tooltip="On: what comes after runs again in every queue. Off: ComfyUI may answer it from its cache, and the report says so."
    )  # fmt: skip


def _anything() -> io.AnyType.Input:
    return io.AnyType.Input("anything", tooltip="Any wire; it is handed on as it came.")


def _passed() -> io.AnyType.Output:
    return io.AnyType.Output("passed", display_name="anything", tooltip="What came in.")


class ProbeModel(io.ComfyNode):
    """MODEL to MODEL, watched."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Hotpath_ProbeModel",
            display_name="Probe Model",
            category=CATEGORY,
            description="Measures a model inside any sampler: steps, model calls, CFG, sampler overhead, blocks, and the nodes beside it.",
            hidden=[io.Hidden.unique_id, io.Hidden.prompt],
            inputs=[
                io.Model.Input("model", tooltip="The model that goes into a sampler. It is cloned, not changed."),
                io.Boolean.Input("enabled", default=True, tooltip="Off: the model goes through untouched and nothing is measured."),
                io.Boolean.Input("blocks", default=False, tooltip="Time of each block of the network as well; costs two marks a block."),
                io.Boolean.Input(
                    "compare_overhead", default=True, tooltip="Mark every other step without detail, and report what the detail costs (A/B)."
                ),
                _rerun(),
            ],
            outputs=[
                io.Model.Output("probed", display_name="MODEL", tooltip="The watched model, for the sampler."),
                wires.REPORT.Output("report", display_name="report", tooltip="For Probe Report, which must run after the sampler."),
            ],
        )  # fmt: skip

    @classmethod
    def fingerprint_inputs(cls, rerun: bool, enabled: bool, **_: object) -> float | str:
        return float("nan") if rerun and enabled else "as it is"

    @classmethod
    def execute(cls, model: Any, enabled: bool, blocks: bool, compare_overhead: bool, rerun: bool) -> io.NodeOutput:
        if not enabled:
            return io.NodeOutput(
                model, Report("model", "Probe is off", (), notes=("The probe is off: turn 'enabled' on to measure.",))
            )
        name = type(model.model).__name__
        parameters = sum(parameter.numel() for parameter in model.model.parameters())
        workload = {
            "model": name,
            "parameters_m": round(parameters / 1e6, 2),
            "dtype": str(model.model_dtype()).removeprefix("torch."),
            "graph": host.settings(cls.hidden.prompt or {}, str(cls.hidden.unique_id)),
        }
        key = (str(cls.hidden.unique_id), id(model.model), workload["graph"], blocks, compare_overhead)
        recording = _RECORDINGS.get(key)
        if recording is None:
            recording = Recording(
                f"{name} in the sampler", model.load_device, ab=compare_overhead, workload=workload, cell=host.cell(model),
                comfyui=host.version(),
            )  # fmt: skip
            _keep(_RECORDINGS, key, recording)
        cls._beside(recording)
        return io.NodeOutput(probed(model, recording, blocks=blocks), recording)

    @classmethod
    def _beside(cls, recording: Recording) -> None:
        """Records the other nodes of the prompt from here on."""
        prompt, now, own = cls.hidden.prompt or {}, host.prompt_id(), str(cls.hidden.unique_id)

        def done(number: str, begin: Any, end: Any) -> None:
            if number != own:
                recording.beside(host.title(prompt, number), begin, end, now)

        def cached(number: str) -> None:
            recording.cached[host.title(prompt, number)] = now

        host.Events(f"hotpath probe {own}", recording.clock, done, cached).listen()


class ProbeStart(io.ComfyNode):
    """Any wire, handed on; the clock starts."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Hotpath_ProbeStart",
            display_name="Probe Start",
            category=CATEGORY,
            description="Begins a measured stretch of the graph. What depends on this wire, up to Probe Stop, is measured.",
            hidden=[io.Hidden.unique_id, io.Hidden.prompt],
            inputs=[
                _anything(),
                io.String.Input("name", default="span", tooltip="Name of the stretch; the Probe Stop of the same name ends it."),
                _rerun(),
            ],
            outputs=[_passed()],
        )

    @classmethod
    def fingerprint_inputs(cls, rerun: bool, **_: object) -> float | str:
        return float("nan") if rerun else "as it is"

    @classmethod
    def execute(cls, anything: Any, name: str, rerun: bool) -> io.NodeOutput:
        number, span = str(cls.hidden.unique_id), Span(host.device())
        prompt = cls.hidden.prompt or {}

        def done(other: str, begin: Any, end: Any) -> None:
            if other != number:
                span.nodes[other] = (begin, end)

        host.Events(f"hotpath span {number}", span.clock, done, span.cached.add).listen()
        earlier = _STARTED.get(number)
        _keep(_STARTED, number, Started(host.prompt_id(), span, earlier is not None and not earlier.span.stopped))
        span.titles = {other: host.title(prompt, other) for other in prompt}
        span.start()
        return io.NodeOutput(anything)


class ProbeStop(io.ComfyNode):
    """Any wire, handed on; the clock stops."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Hotpath_ProbeStop",
            display_name="Probe Stop",
            category=CATEGORY,
            description="Ends a stretch begun by Probe Start and reports its speed; each queue adds a sample.",
            hidden=[io.Hidden.unique_id, io.Hidden.prompt],
            inputs=[
                _anything(),
                io.String.Input("name", default="span", tooltip="The name given in Probe Start."),
            ],
            outputs=[
                _passed(),
                wires.REPORT.Output("report", display_name="report", tooltip="Time of the stretch and of each node in it."),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, **_: object) -> float:
        return float("nan")

    @classmethod
    def execute(cls, anything: Any, name: str) -> io.NodeOutput:
        number, prompt = str(cls.hidden.unique_id), cls.hidden.prompt or {}
        start, notes = cls._start(prompt, number, name)
        started = _STARTED.get(start) if start else None
        if started is None or started.prompt_id != host.prompt_id():
            if start and not notes:
                notes = [f"Cached: ComfyUI answered {host.title(prompt, start)} from its cache, so this run has no beginning to measure from; turn 'rerun' on in Probe Start to measure."]  # fmt: skip
            report = Report("span", f"{name}: cached" if started else f"{name}: not measured", (), notes=tuple(notes))
        else:
            started.span.stop()
            notes += [EARLIER_CUT] if started.earlier_cut else []
            inside = host.between(prompt, start, number)
            settings = host.settings(prompt, number, start)
            key = (number, name, settings)
            spans = _SPANS.get(key) or _keep(_SPANS, key, Spans(name, started.span.clock.device, settings))
            report = spans.add(started.span, inside, made_of(anything)).with_notes(*notes)
        for note in report.notes:
            log.info("Probe %s: %s", name, note)
        tell(cls, "\n".join(report.notes) or report.title)
        return io.NodeOutput(anything, report)

    @classmethod
    def _start(cls, prompt: Mapping[str, Any], number: str, name: str) -> tuple[str, list[str]]:
        """The Probe Start that this one ends, and what is wrong."""
        starts = [
            other for other in sorted(host.ancestors(prompt, number)) if prompt[other].get("class_type") == "Hotpath_ProbeStart"
        ]
        same = [other for other in starts if prompt[other]["inputs"].get("name", "span") == name]
        if not same:
            others = ", ".join(str(prompt[other]["inputs"].get("name")) for other in starts) or "none"
            return "", [f"Expected a Probe Start named '{name}' before this Probe Stop on its wire, found {others}: add one, or give both the same name."]  # fmt: skip
        if len(same) > 1:
            last = max(same, key=lambda other: _STARTED[other].span.began_s if other in _STARTED else 0.0)
            return last, [f"Expected one Probe Start named '{name}' before this Probe Stop, found {len(same)}: measured from the one that began last (#{last}); give them different names."]  # fmt: skip
        return same[0], []


def made_of(value: Any) -> tuple[int, int]:
    """(pictures, px of each) in what passes a wire, as far as it shows: IMAGE and MASK batches; latents as pictures of unknown size."""
    if isinstance(value, torch.Tensor) and value.ndim == 4:
        return value.shape[0], value.shape[1] * value.shape[2]
    if isinstance(value, Mapping) and isinstance(value.get("samples"), torch.Tensor):
        return value["samples"].shape[0], 0
    return 0, 0


NODES = [ProbeModel, ProbeStart, ProbeStop]

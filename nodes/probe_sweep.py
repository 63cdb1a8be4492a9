"""Node that measures throughput over workloads, sizes, batches, devices and precisions."""

import re
import uuid
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import comfy.sample
import comfy.samplers
import comfy.utils
import torch
from comfy_api.latest import io

from ..engine.e2gan.checkpoint import load_base
from ..engine.e2gan.network import E2GAN, Network
from ..engine.errors import InvalidInput
from ..engine.precision import CHOICES, choose
from ..engine.probe.energy import Energy
from ..engine.probe.environment import environment, missing_device
from ..engine.probe.report import Measurement, Report, write_text
from ..engine.probe.sweep import Plan, overhead_of, points, sweep
from ..engine.probe.workloads.known import KNOWN
from ..engine.probe.workloads.workload import Point, TooLarge, Workload, fits, inferring
from . import host, probe_host, wires
from .concept_host import tell
from .probe import CATEGORY

E2GAN_NAME, MODEL_NAME = "e2gan", "model"
WORKLOADS = (E2GAN_NAME, *KNOWN, MODEL_NAME)
BUNDLED_BASE = "e2gan_base.safetensors"
LARGEST_SIDE, LARGEST_BATCH, MOST_POINTS = 16384, 64, 200
MODEL_SIGMA = 1.0


def names(text: str, allowed: tuple[str, ...], what: str) -> list[str]:
    """Names out of a list such as "vgg19, nin"."""
    found = list(dict.fromkeys(filter(None, re.split(r"[\s,;]+", text.strip().lower()))))
    if not found or (wrong := [name for name in found if name not in allowed]):
        got = ", ".join(wrong) if found else "nothing"
        raise InvalidInput(f"Expected {what} out of {', '.join(allowed)}, got {got}: list one or more, separated by commas.")
    return found


def numbers(text: str, low: int, high: int, what: str) -> list[int]:
    """Whole numbers out of a list such as "64, 128, 256"."""
    found = list(dict.fromkeys(filter(None, re.split(r"[\s,;]+", text.strip()))))
    if not found or any(not part.isdecimal() or not low <= int(part) <= high for part in found):
        raise InvalidInput(f"Expected {what} as whole numbers from {low} to {high}, got '{text}': write them like 64, 128, 256.")
    return [int(part) for part in found]


def parse_devices(text: str) -> list[str]:
    """Devices by name; "auto" is ComfyUI's own. Whether this machine has them is asked when they are used."""
    found = list(dict.fromkeys(filter(None, re.split(r"[\s,;]+", text.strip().lower()))))
    if not found or any(not re.fullmatch(r"auto|(cpu|cuda|xpu|mps)(:\d+)?", name) for name in found):
        raise InvalidInput(f"Expected devices such as auto, cpu, cuda or cuda:1, got '{text}': list one or more.")
    return list(dict.fromkeys(str(probe_host.device()) if name == "auto" else name for name in found))


def e2gan_workload(e2gan: E2GAN | None) -> Callable[[Point, int], Workload]:
    """Pictures through an E2GAN, the bundled base if none is wired."""

    def make(point: Point, free: int) -> Workload:
        device = torch.device(point.device)
        dtype = choose(device, point.precision).dtype
        needed = point.batch * point.side**2 * host.NUMBERS_PER_PIXEL * dtype.itemsize
        if not fits(needed, free):
            raise TooLarge(needed, free, f"e2gan at {point.side} px")
        used = e2gan or E2GAN(load_base(host.file_path(host.BASES, BUNDLED_BASE)))
        network = Network(used.base, dtype)
        network.module.to(device)
        image = torch.rand(point.batch, 3, point.side, point.side, generator=torch.Generator().manual_seed(0)).to(device) * 2 - 1
        return Workload(lambda: network(image, used.blend), point.batch, point.side**2, dtype, within=inferring)

    return make


def model_workload(model: Any, positive: Any) -> Callable[[Point, int], Workload]:
    """One evaluation of a MODEL, in its own precision, inside ComfyUI's sampling, so that every architecture gets what it needs."""

    def make(point: Point, free: int) -> Workload:
        if model is None or positive is None:
            raise InvalidInput(
                "Expected a model and a conditioning on the wires for the workload 'model', got none: wire both, or leave it out."
            )
        if point.device != str(model.load_device):
            raise InvalidInput(
                f"Expected the device that ComfyUI runs this model on ({model.load_device}), got {point.device}: choose auto."
            )
        cell = probe_host.cell(model)
        if not cell:
            raise InvalidInput(
                f"Expected a model whose latent's size in px is known, got one of the format {probe_host.latent_format(model)}: "
                "measure it by Probe Model in its own graph."
            )
        side = max(8, point.side // cell)
        latent = comfy.sample.fix_empty_latent_channels(model, torch.zeros(point.batch, 4, side, side))
        needed = int(model.memory_required(list(latent.shape)))
        if not fits(needed, free):
            raise TooLarge(needed, free, f"the model at {point.side} px")
        inside: list[Callable[[], object]] = []

        def within(body: Callable[[], Any]) -> Any:
            result: list = []

            def sampler(
                denoiser: Any, x: torch.Tensor, sigmas: torch.Tensor, extra_args: dict | None = None, **_: Any
            ) -> torch.Tensor:
                sigma = sigmas[0] * x.new_ones([x.shape[0]])
                inside[:] = [lambda: denoiser(x, sigma, **(extra_args or {}))]
                result.append(body())
                return x

            sigmas = torch.tensor([MODEL_SIGMA, 0.0])
            noise = torch.randn(latent.shape, generator=torch.Generator().manual_seed(0))
            comfy.sample.sample_custom(
                model, noise, 1.0, comfy.samplers.KSAMPLER(sampler), sigmas, positive, positive, latent, disable_pbar=True
            )
            return result[0]

        note = f"one evaluation, CFG off, of a latent {list(latent.shape)}"
        return Workload(lambda: inside[0](), point.batch, (side * cell) ** 2, model.model_dtype(), note, within)

    return make


class ThroughputSweep(io.ComfyNode):
    """Lists of settings to a report."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Hotpath_ThroughputSweep",
            display_name="Throughput Sweep",
            category=CATEGORY,
            description="Iterations per minute by workload, picture size, batch, device and precision. What does not fit into memory is marked.",
            is_output_node=True,
            hidden=[io.Hidden.unique_id],
            inputs=[
                io.String.Input("workloads", default="nin, vgg19", tooltip=f"Any of {', '.join(WORKLOADS)}. vgg19 and nin optimise a picture (style transfer)."),
                io.String.Input("sides", default="64, 128, 256", tooltip="Sides of the square picture in px, such as 64, 128, 256, 512."),
                io.String.Input("batches", default="1", tooltip="Pictures at once, such as 1, 4."),
                io.String.Input("devices", default="auto", tooltip="auto is ComfyUI's device; or cpu, cuda, cuda:1, xpu, mps, several of them."),
                io.String.Input("precisions", default="auto", tooltip=f"Any of {', '.join(CHOICES)}. auto is what a workload is fast in here."),
                io.Float.Input("seconds", default=1.5, min=0.1, max=600.0, step=0.5, tooltip="Time to measure each point for, warm-up not counted."),
                io.Int.Input("samples", default=100, min=1, max=10000, tooltip="Samples of each point at most."),
                io.Boolean.Input("rerun", default=True, tooltip="On: measure in every queue. Off: keep the report until an input changes."),
                wires.E2GAN.Input("e2gan", display_name="E²GAN", optional=True, tooltip="For the workload e2gan; without it the bundled base runs."),
                io.Model.Input("model", optional=True, tooltip="For the workload model."),
                io.Conditioning.Input("positive", optional=True, tooltip="For the workload model: what the model is asked for."),
            ],
            outputs=[wires.REPORT.Output("report", display_name="report", tooltip="For Probe Report and Compare Reports.")],
        )  # fmt: skip

    @classmethod
    def fingerprint_inputs(cls, rerun: bool, **_: object) -> float | str:
        return float("nan") if rerun else "as it is"

    @classmethod
    def execute(
        cls, workloads: str, sides: str, batches: str, devices: str, precisions: str, seconds: float, samples: int, rerun: bool,
        e2gan: E2GAN | None = None, model: Any = None, positive: Any = None,
    ) -> io.NodeOutput:  # fmt: skip
        wanted = points(
            names(workloads, WORKLOADS, "workloads"), numbers(sides, 8, LARGEST_SIDE, "sides"),
            numbers(batches, 1, LARGEST_BATCH, "batches"), parse_devices(devices), names(precisions, CHOICES, "precisions"),
        )  # fmt: skip
        if len(wanted) > MOST_POINTS:
            raise InvalidInput(
                f"Expected at most {MOST_POINTS} points, got {len(wanted)}: leave out sizes, batches or workloads."
            )
        make = {**KNOWN, E2GAN_NAME: e2gan_workload(e2gan), MODEL_NAME: model_workload(model, positive)}
        report = cls._sweep(wanted, make, Plan(seconds, samples))
        return io.NodeOutput(report)

    @classmethod
    def _sweep(cls, wanted: list[Point], make: dict, plan: Plan) -> Report:
        """All points with progress. A Cancel keeps what was measured in a file and goes on up."""
        bar, found = comfy.utils.ProgressBar(len(wanted)), []
        present = [point.device for point in wanted if missing_device(point.device) is None]
        device = torch.device(present[0]) if present else probe_host.device()
        energy, session, same = Energy(device), uuid.uuid4().hex[:12], None

        def report(*notes: str) -> Report:
            return Report(
                "sweep", "Throughput sweep", tuple(found), environment(device, session=session, comfyui=probe_host.version()),
                {"seconds": plan.seconds}, {"energy": energy.report()}, tuple(filter(None, notes)),
            )  # fmt: skip

        try:
            for measurement in sweep(wanted, make, plan, probe_host.obey_cancel):
                found.append(measurement)
                bar.update_absolute(len(found), len(wanted))
                tell(cls, said(found[-1], len(found), len(wanted)))
            same = len(wanted) - len(found)
            cost = overhead_of(found, make, probe_host.obey_cancel)
        except BaseException:
            cut = (
                "the points after the last one were not measured"
                if same is None
                else "what the probe itself takes was not measured"
            )
            cls._keep_part(report(f"Interrupted: {cut}."))
            raise
        whole = report(f"Points that come to the same as another were left out: {same}." if same else "")
        return replace(whole, extras={**whole.extras, "overhead": cost}) if cost else whole

    @classmethod
    def _keep_part(cls, report: Report) -> None:
        path = probe_host.reports_folder() / "interrupted_sweep.json"
        try:
            write_text(path, report.to_json())
            host.log.info("The sweep was interrupted; its %d points are kept in %s.", len(report.measurements), path)
        except Exception as error:  # the interruption itself must go on up
            host.log.warning("The interrupted sweep could not be kept: %s", error)


def said(entry: Measurement, done: int, total: int) -> str:
    """What the node shows after a point."""
    rate = f"{entry.statistics()['per_minute']:.4g} iterations per minute" if entry.samples_ms else entry.note
    return f"{done} of {total}: {entry.name} {entry.facts.get('side_px')} px, {rate}"


NODES = [ThroughputSweep]

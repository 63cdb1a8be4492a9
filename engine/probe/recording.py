"""The runs of one probed model as they happen, and the report made of them when asked."""

import uuid
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch

from .clock import Clock, Mark
from .energy import Energy
from .environment import environment
from .memory import Watch
from .report import MEASURED, Measurement, Report
from .run import Beside, Run
from .stages import around, extras, stages

KEPT_RUNS = 16
NOTHING = (
    "Nothing was sampled while the probe looked: wire the probed model into a sampler with at least one step, "
    "and what comes out of it into 'after' of Probe Report."
)


class Recording:
    """The runs of one probed model. Only the newest are kept. With `ab`, every other step goes without detail, to see what detail costs.

    `cell` is the px of a picture to one of its latent, along a side; 0 if unknown.
    """

    def __init__(
        self, title: str, device: torch.device, *, ab: bool = True, workload: Mapping[str, object] | None = None, cell: int = 0,
        **versions: str,
    ) -> None:  # fmt: skip
        self.title, self.device, self.ab, self.cell = title, device, ab, cell
        self.session = uuid.uuid4().hex[:12]
        self.workload, self.versions = dict(workload or {}), versions
        self.clock = Clock(device)
        self.runs: list[Run] = []
        self.active: list[Run] = []
        # What ran beside the model, by name, each with its run of the graph; and in which one a node was last cached.
        self.nodes: dict[str, list[Beside]] = {}
        self.cached: dict[str, str] = {}

    def beside(self, name: str, begin: Mark, end: Mark, prompt: str) -> None:
        """A node that ran in the same run of the graph."""
        self.nodes[name] = [*self.nodes.get(name, ()), (begin, end, prompt)][-KEPT_RUNS:]

    @contextmanager
    def run(
        self, steps: int, shape: Sequence[int], call: Mapping[str, object] | None = None, patches: str = "", prompt: str = ""
    ) -> Iterator[Run]:
        """A call of the sampler; what it raises marks the run as interrupted and goes on up."""
        run = Run(self.clock, steps, tuple(shape), call or {}, patches, prompt)
        watch, energy = Watch(self.device), Energy(self.device)
        self.active.append(run)
        begin = self.clock.mark()
        try:
            yield run
        except BaseException:
            run.interrupted = True
            raise
        finally:
            run.end("sampling", begin)
            run.memory, run.energy = watch.report(), energy.report()
            self.active.remove(run)
            self.runs = [*self.runs, run][-KEPT_RUNS:]

    def step_done(self, run: Run, begin: Mark) -> Mark:
        """A step ends where the next begins; decides whether the next is marked in detail."""
        mark = run.end("step", begin)
        if not run.detailed:
            run.off.add(run.done)
        run.done += 1
        if self.ab:
            run.detailed = run.done % 2 == 0
        return mark

    def current(self, prompt: str = "") -> Report:
        """The report so far, asked for in a run of the graph; what did not run in it is "cached". Without `prompt` all counts."""
        self.clock.wait()
        alike = [run for run in self.runs if run.work == self.runs[-1].work]
        whole = [run for run in alike if not run.interrupted]
        cut = [run for run in alike if run.interrupted]
        cached = bool(prompt and self.runs and self.runs[-1].prompt != prompt)
        status = "cached" if cached else MEASURED
        prompts = {prompt, *(run.prompt for run in alike)}
        measurements = [
            *stages(whole, status), *stages(cut, "interrupted"), *around(whole, status, self.cell), *self._beside(prompts, prompt),
        ]  # fmt: skip
        notes = [self.clock.note]
        if not any(run.spans["prediction"] for run in self.runs):
            notes.append(NOTHING)
            measurements = [Measurement("step", status="empty", note="zero steps were sampled"), *measurements]
        notes += [f"A run was interrupted after {run.done} of {run.steps} steps; its steps are listed apart." for run in cut]
        patched = {run.work: ", patched otherwise" for run in self.runs if run.patches != alike[-1].patches}
        if others := Counter(run.said + patched.get(run.work, "") for run in self.runs if run not in alike):
            left = "; ".join(f"{count} run{'s' if count > 1 else ''} of {said}" for said, count in others.items())
            notes.append(f"Left out, since their work is not that of the last run ({alike[-1].said}): {left}.")
        if cached:
            notes.append(
                "Cached: ComfyUI answered the sampler from its cache in this run of the graph; the times are from an earlier one."
            )
        if stale := [name for name, when in self.cached.items() if not prompt or when == prompt]:
            notes.append(f"Cached, so without a time of their own: {', '.join(sorted(stale))}.")
        return Report(
            "model", self.title, tuple(measurements), environment(self.device, session=self.session, **self.versions),
            self._workload(), {} if cached else extras(whole, self.nodes), tuple(filter(None, notes)),
        )  # fmt: skip

    def _workload(self) -> dict[str, object]:
        last = self.runs[-1] if self.runs else None
        return self.workload | ({"steps": last.steps, "latent": list(last.shape), **last.call} if last else {})

    def _beside(self, prompts: Collection[str], now: str) -> Iterator[Measurement]:
        """Nodes that ran in these runs of the graph; cached if they did not in the one `now`. What may yet run in it is left out."""
        running = bool(self.runs) and self.runs[-1].prompt == now
        for name, spans in self.nodes.items():
            samples = [(self.clock.between_ms(begin, end), prompt) for begin, end, prompt in spans if prompt in prompts]
            if samples:
                status = MEASURED if not now or samples[-1][1] == now else "cached"
                if status == "cached" and running and self.cached.get(name) != now:
                    continue
                yield Measurement(name, tuple(ms for ms, _ in samples), status=status)

"""A sampler's runs as they happen: marks for steps, predictions, model calls and blocks, and the report made of them when asked."""

import uuid
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch

from .clock import Clock, Mark, cost_of_a_mark_ms
from .energy import Energy
from .environment import environment
from .memory import Watch
from .report import MEASURED, Measurement, Report
from .statistics import paired_difference, warmup_length

KEPT_RUNS = 16
# From the outside in. A step holds predictions (one, or more in samplers of higher order); a prediction holds the model calls of
# its CFG passes; a model call holds the network and the scaling around it.
STAGES = ("step", "prediction", "model call", "network")
LEAST_PAIRS = 6
NOTHING = (
    "Nothing was sampled while the probe looked: wire the probed model into a sampler with at least one step, "
    "and what comes out of it into 'after' of Probe Report."
)


@dataclass
class Run:
    """One call of a sampler. A span is (begin, end, step); steps count from 0. `detailed` is whether spans inside a step are marked now.

    `call` is what else makes the work what it is (sampler, CFG ...), `patches` a state of the model that lasts as long as the process,
    `prompt` the run of the graph.
    """

    clock: Clock
    steps: int
    shape: tuple[int, ...]
    call: Mapping[str, object] = field(default_factory=dict)
    patches: str = ""
    prompt: str = ""
    detailed: bool = True
    done: int = 0
    passes: int = 0
    interrupted: bool = False
    spans: dict[str, list[tuple[Mark, Mark, int]]] = field(default_factory=lambda: defaultdict(list))
    off: set[int] = field(default_factory=set)  # steps without detail
    marks: int = 0
    memory: Mapping[str, float] = field(default_factory=dict)
    energy: Mapping[str, object] = field(default_factory=dict)

    @property
    def work(self) -> tuple:
        """Equal for runs whose samples may be put together."""
        return self.steps, self.shape, tuple(self.call.items()), self.patches

    @property
    def said(self) -> str:
        called = (f"{name} {value}" for name, value in self.call.items())
        return ", ".join([f"{self.steps} steps", f"latent {list(self.shape)}", *called])

    def end(self, name: str, begin: Mark) -> Mark:
        """Close a span that began at `begin`; gives the mark at its end."""
        mark = self.clock.mark()
        self.spans[name].append((begin, mark, self.done))
        self.marks += 2
        return mark

    def milliseconds(self, name: str) -> list[tuple[float, int]]:
        return [(self.clock.between_ms(begin, end), step) for begin, end, step in self.spans[name]]

    def per_step(self, name: str) -> dict[int, float]:
        """Sum of a stage's spans by step."""
        found: dict[int, float] = defaultdict(float)
        for ms, step in self.milliseconds(name):
            found[step] += ms
        return found


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
        self.nodes: dict[str, list[tuple[Mark, Mark, str]]] = {}
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
            *self._stages(whole, status), *self._stages(cut, "interrupted"), *self._around(whole, status), *self._beside(prompts, prompt),
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
            self._workload(), {} if cached else self._extras(whole), tuple(filter(None, notes)),
        )  # fmt: skip

    def _workload(self) -> dict[str, object]:
        last = self.runs[-1] if self.runs else None
        return self.workload | ({"steps": last.steps, "latent": list(last.shape), **last.call} if last else {})

    def _stages(self, runs: Sequence[Run], status: str) -> Iterator[Measurement]:
        """Each stage over all runs, warm-up steps cut from the front of each run."""
        cuts = [warmup_length([ms for ms, _ in run.milliseconds("step")]) for run in runs]
        names = [*STAGES, *sorted({name for run in runs for name in run.spans if name.startswith("block ")}, key=_natural)]
        for name in names:
            early, steady = [], []
            for run, cut in zip(runs, cuts, strict=True):
                values = (
                    run.per_step(name).items()
                    if name.startswith("block ")
                    else ((step, ms) for ms, step in run.milliseconds(name))
                )
                for step, ms in values:
                    (early if step < cut else steady).append(ms)
            if early or steady:
                yield self._measurement(name, steady or early, early if steady else (), status, runs)
        for name, outer, inner in (
            ("CFG and conditions", "prediction", "model call"),
            ("sampler and preview", "step", "prediction"),
        ):
            rest = [
                ms - run.per_step(inner)[step]
                for run, cut in zip(runs, cuts, strict=True)
                for step, ms in run.per_step(outer).items()
                if step >= cut and step not in run.off and step in run.per_step(inner)
            ]
            if rest:
                yield self._measurement(f"{name} (a step)", rest, (), status, runs)

    def _measurement(
        self, name: str, samples: Sequence[float], early: Sequence[float], status: str, runs: Sequence[Run]
    ) -> Measurement:
        last = runs[-1]
        facts = {"steps": last.steps, "batch": last.shape[0] if last.shape else 1}
        memory = last.memory if name == "step" else {}
        return Measurement(name, tuple(samples), tuple(early), status, facts=facts, memory=memory)

    def _around(self, runs: Sequence[Run], status: str) -> Iterator[Measurement]:
        """Loading, and sampling as a whole, which makes pictures where a latent is one."""
        for stage in ("load", "sampling"):
            samples = [ms for run in runs for ms, _ in run.milliseconds(stage)]
            if samples:
                shape = runs[-1].shape if stage == "sampling" and len(runs[-1].shape) == 4 else (0, 0, 0, 0)
                yield Measurement(
                    stage, tuple(samples[1:] or samples), tuple(samples[:1] if len(samples) > 1 else ()), status,
                    images=shape[0], pixels=shape[2] * shape[3] * self.cell**2,
                )  # fmt: skip

    def _beside(self, prompts: Collection[str], now: str) -> Iterator[Measurement]:
        """Nodes that ran in these runs of the graph; cached if they did not in the one `now`."""
        for name, spans in self.nodes.items():
            samples = [(self.clock.between_ms(begin, end), prompt) for begin, end, prompt in spans if prompt in prompts]
            if samples:
                status = MEASURED if not now or samples[-1][1] == now else "cached"
                yield Measurement(name, tuple(ms for ms, _ in samples), status=status)

    def _extras(self, runs: Sequence[Run]) -> dict[str, Mapping[str, object]]:
        found: dict[str, Mapping[str, object]] = {}
        if not runs:
            return found
        last = runs[-1]
        found["breakdown"] = self._breakdown(last)
        found["energy of the last run"] = last.energy
        predictions = len(last.spans["prediction"])
        calls = len(last.spans["model call"])
        if calls and last.passes:
            detailed = sum(1 for *_, step in last.spans["prediction"] if step not in last.off)
            found["CFG"] = {
                "passes a prediction": last.passes / max(1, detailed),
                "model calls a prediction": calls / max(1, detailed),
            }
        found["overhead"] = self._overhead(runs)
        found["steps"] = {"asked for": last.steps, "done": last.done, "predictions": predictions, "runs": len(runs)}
        return found

    def _breakdown(self, run: Run) -> dict[str, dict[str, float]]:
        """After Table 1 of SnapFusion (arXiv 2306.00980): ms each, how often, in all; model calls and what lies around them."""
        (sampling, _), *_ = run.milliseconds("sampling")
        step = [ms for ms, _ in run.milliseconds("step")]
        parts = {"load": [ms for ms, _ in run.milliseconds("load")], "steps": step}
        parts |= {
            name: [self.clock.between_ms(begin, end) for begin, end, prompt in spans[-1:] if prompt == run.prompt]
            for name, spans in self.nodes.items()
        }
        rows = {
            name: {"each_ms": sum(values) / len(values), "runs": len(values), "total_ms": sum(values)}
            for name, values in parts.items()
            if values
        }
        rest = sampling - sum(rows[name]["total_ms"] for name in ("load", "steps") if name in rows)
        rows["rest of sampling"] = {"each_ms": rest, "runs": 1, "total_ms": rest}
        total = sum(row["total_ms"] for row in rows.values())
        return {name: row | {"share_percent": 100 * row["total_ms"] / total if total else 0.0} for name, row in rows.items()}

    def _overhead(self, runs: Sequence[Run]) -> dict[str, object]:
        """What the probe itself takes: marks times the measured cost of one; and by A/B of neighbouring steps with and without detail."""
        total = sum(ms for run in runs for ms, _ in run.milliseconds("sampling"))
        single = cost_of_a_mark_ms(self.device)
        marks = sum(run.marks for run in runs)
        found: dict[str, object] = {
            "percent": 100 * marks * single / total if total else 0.0,
            "marks": marks,
            "microseconds_a_mark": 1e3 * single,
        }
        on, off = [], []
        for run in runs:
            steps = [ms for ms, _ in run.milliseconds("step")]
            for step in sorted(run.off):
                if 2 < step + 1 < len(steps):
                    on.append((steps[step - 1] + steps[step + 1]) / 2)
                    off.append(steps[step])
        if len(on) >= LEAST_PAIRS:
            found |= {f"ab_{name}": value for name, value in paired_difference(off, on).items()}
        return found


def _natural(name: str) -> list[tuple[int, int | str]]:
    return [(0, int(part)) if part.isdigit() else (1, part) for part in name.replace(".", " ").split()]

"""What runs of a sampler come to: time of each stage, a breakdown of the last run, and what the probe itself took."""

from collections.abc import Iterator, Mapping, Sequence

from .clock import cost_of_a_mark_ms
from .report import Measurement
from .run import Beside, Run
from .statistics import paired_difference, warmup_length

# From the outside in. A step holds predictions (one, or more in samplers of higher order); a prediction holds the model calls of
# its CFG passes; a model call holds the network and the scaling around it.
STAGES = ("step", "prediction", "model call", "network")
LEAST_PAIRS = 6


def stages(runs: Sequence[Run], status: str) -> Iterator[Measurement]:
    """Each stage over all runs, warm-up steps cut from the front of each run."""
    cuts = [warmup_length([ms for ms, _ in run.milliseconds("step")]) for run in runs]
    names = [*STAGES, *sorted({name for run in runs for name in run.spans if name.startswith("block ")}, key=_natural)]
    for name in names:
        early, steady = [], []
        for run, cut in zip(runs, cuts, strict=True):
            values = (
                run.per_step(name).items() if name.startswith("block ") else ((step, ms) for ms, step in run.milliseconds(name))
            )
            for step, ms in values:
                (early if step < cut else steady).append(ms)
        if early or steady:
            yield _measurement(name, steady or early, early if steady else (), status, runs)
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
            yield _measurement(f"{name} (a step)", rest, (), status, runs)


def _measurement(name: str, samples: Sequence[float], early: Sequence[float], status: str, runs: Sequence[Run]) -> Measurement:
    last = runs[-1]
    facts = {"steps": last.steps, "batch": last.shape[0] if last.shape else 1}
    memory = last.memory if name == "step" else {}
    return Measurement(name, tuple(samples), tuple(early), status, facts=facts, memory=memory)


def around(runs: Sequence[Run], status: str, cell: int) -> Iterator[Measurement]:
    """Loading, and sampling as a whole, which makes pictures where a latent is one."""
    for stage in ("load", "sampling"):
        samples = [ms for run in runs for ms, _ in run.milliseconds(stage)]
        if samples:
            shape = runs[-1].shape if stage == "sampling" and len(runs[-1].shape) == 4 else (0, 0, 0, 0)
            yield Measurement(
                stage, tuple(samples[1:] or samples), tuple(samples[:1] if len(samples) > 1 else ()), status,
                images=shape[0], pixels=shape[2] * shape[3] * cell**2,
            )  # fmt: skip


def extras(runs: Sequence[Run], nodes: Mapping[str, list[Beside]]) -> dict[str, Mapping[str, object]]:
    """What the report says of whole runs besides its measurements; `nodes` ran beside them, by name."""
    found: dict[str, Mapping[str, object]] = {}
    if not runs:
        return found
    last = runs[-1]
    found["breakdown"] = breakdown(last, nodes)
    found["energy of the last run"] = last.energy
    predictions = len(last.spans["prediction"])
    calls = len(last.spans["model call"])
    if calls and last.passes:
        detailed = sum(1 for *_, step in last.spans["prediction"] if step not in last.off)
        found["CFG"] = {
            "passes a prediction": last.passes / max(1, detailed),
            "model calls a prediction": calls / max(1, detailed),
        }
    found["overhead"] = overhead(runs)
    found["steps"] = {"asked for": last.steps, "done": last.done, "predictions": predictions, "runs": len(runs)}
    return found


def breakdown(run: Run, nodes: Mapping[str, list[Beside]]) -> dict[str, dict[str, float]]:
    """After Table 1 of SnapFusion (arXiv 2306.00980): ms each, how often, in all; model calls and what lies around them.

    The sampler's own node is left out: its time is that of the steps and of the rest of sampling.
    """
    (sampling, _), *_ = run.milliseconds("sampling")
    first, last, *_ = run.spans["sampling"][0]
    step = [ms for ms, _ in run.milliseconds("step")]
    parts = {"load": [ms for ms, _ in run.milliseconds("load")], "steps": step}
    parts |= {
        name: [
            run.clock.between_ms(begin, end)
            for begin, end, prompt in spans[-1:]
            if prompt == run.prompt and not (begin.host_s <= first.host_s and last.host_s <= end.host_s)
        ]
        for name, spans in nodes.items()
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


def overhead(runs: Sequence[Run]) -> dict[str, object]:
    """What the probe itself takes: marks times the measured cost of one; and by A/B of neighbouring steps with and without detail."""
    total = sum(ms for run in runs for ms, _ in run.milliseconds("sampling"))
    single = cost_of_a_mark_ms(runs[-1].clock.device)
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

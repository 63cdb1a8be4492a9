"""A user's own past: one JSON line for each measurement of each report, and what it says about a new one."""

import contextlib
import json
import math
import os
import uuid
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np

from ..errors import NotWritten
from .compare import Verdict, between_runs, compare_samples
from .report import Measurement, Report, write_text
from .table import label, number

KEPT_SAMPLES = 64
KEPT_RUNS = 20  # of one key
KEPT_LINES = 5000  # in all, about 4 MB
ENOUGH_RUNS = 4  # past runs from which the scatter between runs is learnt


@dataclass(frozen=True)
class Past:
    """One measurement of an earlier report. Reports of one `session` hold the same samples and more; the last one stands for all."""

    key: str
    session: str
    date: str
    torch: str
    samples_ms: tuple[float, ...]
    others: float = 0.0


@dataclass(frozen=True)
class _Line:
    text: str
    past: Past


def key_of(report: Report, measurement: Measurement) -> str:
    """Equal for measurements that may be compared over time: same thing, same settings, same device; versions may differ."""
    settings = {name: report.workload[name] for name in sorted(report.workload)}
    machine = (report.environment.get("device_name"), report.environment.get("threads"))
    return json.dumps([report.kind, *measurement.identity, settings, *machine], sort_keys=True, default=str)


def read(path: Path) -> tuple[list[Past], str]:
    """All past measurements, and a sentence if the file was damaged: it is then kept aside under another name, the good lines stay."""
    try:
        lines, lost = _lines(path)
    except FileNotFoundError:
        return [], ""
    except OSError as error:
        return [], f"Expected to read the history {path}, but it failed ({error}): make it readable to compare with your past."
    said = _set_aside(path, [line.text for line in lines], lost) if lost else ""
    return [line.past for line in _newest(lines)], said


def _lines(path: Path) -> tuple[list[_Line], int]:
    """The good lines, oldest first, and how many were damaged."""
    texts = [text for text in path.read_text(encoding="utf-8", errors="replace").splitlines() if text.strip()]
    good = []
    for index, text in enumerate(texts):
        with contextlib.suppress(ValueError, KeyError, TypeError):
            facts = json.loads(text)
            samples = tuple(float(ms) for ms in facts["samples_ms"])
            session, others = str(facts.get("session") or f"line {index}"), float(facts.get("others", 0.0))
            if samples and all(math.isfinite(ms) and ms > 0 for ms in samples):
                past = Past(str(facts["key"]), session, str(facts["date"]), str(facts["torch"]), samples, others)
                good.append(_Line(text, past))
    return good, len(texts) - len(good)


def _newest(lines: Sequence[_Line]) -> list[_Line]:
    """The last line of each session and key, the newest sessions of each key."""
    kept, seen, count = [], set(), Counter()
    for line in reversed(lines):
        key = line.past.key
        if (key, line.past.session) not in seen and count[key] < KEPT_RUNS:
            seen.add((key, line.past.session))
            count[key] += 1
            kept.append(line)
    return kept[:KEPT_LINES][::-1]


def _set_aside(path: Path, good: Sequence[str], lost: int) -> str:
    aside = next(
        name for number in range(1, 10**6) if not (name := path.with_name(f"{path.stem}.damaged-{number}{path.suffix}")).exists()
    )
    mended = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        mended.write_text("".join(line + "\n" for line in good), encoding="utf-8")
        os.replace(path, aside)
        os.replace(mended, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            mended.unlink(missing_ok=True)
        return f"{lost} lines of the history {path} are damaged and were left out; the file could not be mended ({error})."
    return f"{lost} lines of the history are damaged and were left out; the whole file is kept as {aside}."


def append(path: Path, report: Report) -> None:
    """Add the report's measurements, in place of what its session has added before; lines beyond those kept go."""
    environment, text = report.environment, ""
    session = str(environment.get("session") or uuid.uuid4().hex[:12])
    for entry in report.compared:
        samples = [float(f"{ms:.5g}") for ms in entry.samples_ms[-KEPT_SAMPLES:]]
        facts = {"key": key_of(report, entry), "session": session, "date": environment.get("date", "")}
        facts |= {"torch": environment.get("torch", ""), "name": label(entry), "samples_ms": samples, "others": entry.others}
        text += json.dumps(facts) + "\n"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.write(text)
        lines, lost = _lines(path)
        if not lost and len(kept := _newest(lines)) < len(lines):  # a damaged file stays whole until it is mended
            write_text(path, "".join(line.text + "\n" for line in kept))
    except OSError as error:
        raise NotWritten(f"Expected to add to the history {path}, but it failed ({error}): make the folder writable.") from error


def against_past(report: Report, past: Sequence[Past]) -> list[str]:
    """A sentence for each measurement that has earlier runs: where it stands, and whether it is a regression."""
    runs, torch = defaultdict(list), str(report.environment.get("torch", ""))
    for run in past:
        if run.session != report.environment.get("session"):
            runs[run.key].append(run)
    keyed = ((entry, runs[key_of(report, entry)]) for entry in report.compared)
    return [f"{label(entry)}: {_stand(entry, earlier, torch)}" for entry, earlier in keyed if earlier]


def _stand(entry: Measurement, earlier: Sequence[Past], torch: str) -> str:
    """The new run against the middle one of the earlier runs, with the scatter between runs that those have shown."""
    middles = [median(run.samples_ms) for run in earlier]
    middle = sorted(range(len(earlier)), key=middles.__getitem__)[len(earlier) // 2]
    between = float(np.std(np.log(middles), ddof=1)) if len(earlier) >= ENOUGH_RUNS else 0.0
    between = max(between, between_runs(entry.others, earlier[middle].others))
    verdict = compare_samples(earlier[middle].samples_ms, entry.samples_ms, between=between)
    runs = f"{len(earlier)} earlier run{'s' if len(earlier) > 1 else ''}, best {number(min(middles))} ms"
    since = sorted({run.torch for run in earlier if run.torch and run.torch != torch})
    versions = f" (earlier ones with torch {', '.join(since)})" if since and verdict.claims else ""
    return f"{_word(verdict)} than usual{versions}; {runs}." if verdict.claims else f"{verdict.sentence}; {runs}."


def _word(verdict: Verdict) -> str:
    word = "REGRESSION, slower" if verdict.percent > 0 else "faster"
    return f"{word} by {abs(verdict.percent):.1f} % ({verdict.low_percent:+.1f} to {verdict.high_percent:+.1f} %)"

"""One call of a sampler as the probe sees it: marks around its steps, predictions, model calls and blocks."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

from .clock import Clock, Mark

Beside = tuple[Mark, Mark, str]  # begin and end of a node that ran beside the model, and its run of the graph


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

"""What comes before the first step of a run: the look it begins at, the ranks, and how many steps there will be.

Of a budget in minutes the look and the ranks take at most their shares, and the steps fill what is left. With a number of steps there
is no clock in any choice.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

from torch import Tensor

from ..engine.e2gan.checkpoint import Base
from ..engine.e2gan.concept import DEFAULT_RANKS
from .looks import looks, under
from .loop import Pairs, Trainer, held_out_losses
from .lora import Factors, attach, generator_of
from .perceptual import LPIPS
from .plan import LEAST_STEPS, LOOK_SHARE, SEARCH_SHARE, Plan, Update, steps_within
from .ranks import ROUND_STEPS, ROUNDS, Found, Round, search

TIMED = 2  # steps
NUMBERS = 87_616  # of all factors together, as many as the default ranks: a file stays below 0.2 MB


@dataclass(frozen=True)
class Start:
    """Name and context [T, W] of the look, ranks by layer, factors to go on from, number of steps, and how all this was found."""

    look: str
    context: Tensor
    ranks: Mapping[str, int]
    factors: Factors | None
    trace: tuple[Round, ...]
    steps: int
    story: str


def prepare(
    base: Base, train: Pairs, held_out: Pairs, lpips: LPIPS, plan: Plan, clock: Callable[[], float]
) -> Iterator[Update | Start]:
    """Tells of each look and each step of the search, and ends with what was found."""
    began, found, how = clock(), Found(DEFAULT_RANKS, None, ()), "default ranks"
    for done, total, closest in looks(base, train, lpips):
        look, context = closest
        yield Update("choosing a look to start from", done, total, {})
        if done < total and clock() - began > LOOK_SHARE * plan.seconds:
            break
    train, held_out = under(train, context), under(held_out, context)
    settings = plan.settings(1, train.photographs.shape[1])
    if plan.searched:
        deadline = began + SEARCH_SHARE * plan.seconds
        for event in search(base, train, held_out, lpips, settings, budget=NUMBERS, deadline=deadline, clock=clock):
            if isinstance(event, Found):
                found, how = event, event.text
            else:
                yield Update("searching ranks", event.index, ROUNDS * ROUND_STEPS, event.losses)
    looked = f"began at {look or 'the photograph'}" + (f" (of {done} looks tried in time)" if done < total else "")
    steps = plan.steps
    if not steps:
        generator = generator_of(base, train.contexts.device)
        parameters = attach(generator, found.ranks, plan.seed)
        thrown_away = Trainer(generator, parameters, train, lpips, replace(settings, steps=100))
        steps = steps_until(began + plan.seconds, thrown_away, held_out, lpips, clock)
    yield Start(look, context, found.ranks, found.factors, found.trace, steps, f"{looked}; {how}")


def steps_until(end: float, trainer: Trainer, held_out: Pairs, lpips: LPIPS, clock: Callable[[], float]) -> int:
    """Steps that fit in until `end` on the clock, known by timing a few after a first one, and one picture of a score."""
    one = replace(held_out, photographs=held_out.photographs[:1], edits=[held_out.edits[0][:1]])
    began = clock()
    trainer.train_step()
    first = clock()
    if end - first < LEAST_STEPS * (first - began):
        return LEAST_STEPS
    for _ in range(TIMED):
        trainer.train_step()
    stepped = clock()
    held_out_losses(trainer.generator, one, lpips)
    scored = clock()
    return steps_within(end - scored, (stepped - first) / TIMED, (scored - stepped) * len(held_out.photographs))

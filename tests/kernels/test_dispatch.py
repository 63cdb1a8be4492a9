"""The dispatcher: constraints in words, decisions that are remembered, choices that are kept, failures that are survived."""

import logging
import time

import pytest
import torch
from hotpath.kernels.dispatch import Declined, InvalidArguments, Operation, Way, distance, explain
from torch import Tensor


class Ways:
    """A fast way for float32 that may fail, a way that is not installed, and plain torch."""

    def __init__(self, *, contest: bool = False, wrong: bool = False, seconds: float = 0.0) -> None:
        self.calls: list[str] = []
        self.asked = self.loads = 0
        self.error: Exception | None = None
        self.wrong, self.seconds = wrong, seconds
        ways = (
            Way("absent", self.absent),
            Way("fast", lambda: self.fast, self.why_not_fast),
            Way("torch", lambda: self.torch),
        )
        self.operation = Operation("double", ways, contest=contest)

    def absent(self) -> None:
        self.loads += 1
        raise ImportError("No module named 'triton'", name="triton")

    def why_not_fast(self, x: Tensor, scale: float) -> str | None:
        self.asked += 1
        return None if x.dtype == torch.float32 else f"its numbers are {x.dtype}, and it takes float32 only"

    def fast(self, x: Tensor, scale: float) -> Tensor:
        self.calls.append("fast")
        if self.error:
            raise self.error
        return x * scale + float(self.wrong)

    def torch(self, x: Tensor, scale: float) -> Tensor:
        self.calls.append("torch")
        time.sleep(self.seconds)
        return x * scale


X = torch.arange(6.0).view(2, 3)


def test_the_first_way_that_takes_the_arguments_runs() -> None:
    ways = Ways()
    torch.testing.assert_close(ways.operation(X, 2.0), X * 2)
    torch.testing.assert_close(ways.operation(X.double(), 2.0), X.double() * 2)
    assert ways.calls == ["fast", "torch"]


def test_a_decision_is_remembered_per_kind_of_arguments() -> None:
    ways = Ways()
    for value in (X, X + 1, X.clone()):
        ways.operation(value, 2.0)
    assert (ways.asked, ways.loads) == (1, 1)
    wide = torch.zeros(8, 8)
    others = [
        (X, 3.0),
        (X.t(), 2.0),
        (X.half(), 2.0),
        (X.view(3, 2), 2.0),
        (wide[:2, :3], 2.0),
        (wide.view(-1)[1:7].view(2, 3), 2.0),
    ]
    for number, arguments in enumerate(others, 2):
        ways.operation(*arguments)
        assert ways.asked == number
    ways.operation(X.clone().requires_grad_(), 2.0)
    assert (ways.asked, ways.loads) == (8, 1)


def test_decisions_do_not_pile_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hotpath.kernels.dispatch.KEPT", 4)
    ways = Ways()
    for scale in range(20):
        ways.operation(X, float(scale))
    assert len(ways.operation._decisions) <= 4


def test_a_way_asked_for_runs_or_says_why_not() -> None:
    ways = Ways()
    assert torch.equal(ways.operation(X, 2.0, way="torch"), X * 2)
    with pytest.raises(Declined, match=r"double cannot run by 'fast' because its numbers are torch\.float64"):
        ways.operation(X.double(), 2.0, way="fast")
    with pytest.raises(Declined, match="triton is not installed"):
        ways.operation(X, 2.0, way="absent")
    ways.error = RuntimeError("out of registers")
    with pytest.raises(Declined, match="failed by 'fast': RuntimeError: out of registers"):
        ways.operation(X, 2.0, way="fast")
    assert ways.calls == ["torch", "fast"], "an explicit choice never falls back"
    with pytest.raises(InvalidArguments, match="out of auto, absent, fast, torch, got 'cuda'"):
        ways.operation(X, 2.0, way="cuda")


@pytest.mark.parametrize("error", [RuntimeError("no driver"), FileNotFoundError("tcc.exe"), TypeError("old"), AssertionError()])
def test_a_failure_is_said_once_and_the_result_is_right(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    ways = Ways()
    ways.operation(X, 2.0)
    ways.error = error
    with caplog.at_level(logging.WARNING, "hotpath"):
        results = [ways.operation(X, 2.0) for _ in range(3)]
    assert all(torch.equal(result, X * 2) for result in results)
    assert ways.calls == ["fast", "fast", "torch", "torch", "torch"]
    assert len(caplog.records) == 1
    assert "double no longer runs by 'fast'" in caplog.text
    ways.error = None
    ways.operation(X, 3.0)
    assert ways.calls[-1] == "fast", "only that kind of arguments is demoted"
    assert type(error).__name__ in ways.operation.explain(X, 2.0)


def test_running_out_of_memory_is_the_hosts_to_handle() -> None:
    ways = Ways()
    ways.error = torch.OutOfMemoryError("full")
    with pytest.raises(torch.OutOfMemoryError):
        ways.operation(X, 2.0)
    ways.error = None
    ways.operation(X, 2.0)
    assert ways.calls == ["fast", "fast"]


def test_running_out_of_memory_in_a_contest_drops_no_way() -> None:
    ways = Ways(contest=True, seconds=0.02)
    ways.error = torch.OutOfMemoryError("full")
    assert torch.equal(ways.operation(X, 2.0), X * 2)
    ways.error = None
    ways.operation(X, 2.0)
    ways.calls.clear()
    ways.operation(X, 2.0)
    assert ways.calls == ["fast"]


def test_the_last_ways_own_error_is_raised_as_it_is() -> None:
    def broken(x: Tensor) -> Tensor:
        raise ValueError("shape")

    with pytest.raises(ValueError, match="shape"):
        Operation("broken", [Way("torch", lambda: broken)])(X)


def test_what_no_way_takes_is_declined_with_all_reasons() -> None:
    operation = Operation("picky", [Way(name, lambda: abs, lambda *_, name=name: f"{name} is no good") for name in "ab"])
    with pytest.raises(Declined, match=r"(?s)a: declined: a is no good.*b: declined: b is no good"):
        operation(X)


def test_explain_names_each_way_and_runs_nothing() -> None:
    ways = Ways()
    text = explain(ways.operation, X.double(), 2.0)
    assert text.splitlines() == [
        "double:",
        "  absent: declined: triton is not installed",
        "  fast: declined: its numbers are torch.float64, and it takes float32 only",
        "  torch: runs",
    ]
    assert explain(ways.operation, X, 2.0).splitlines()[2:] == ["  fast: runs", "  torch: could run"]
    assert not ways.calls


def test_a_contest_takes_the_fastest_that_agrees() -> None:
    ways = Ways(contest=True, seconds=0.002)
    assert "contest" in ways.operation.explain(X, 2.0)
    assert ways.operation.chosen(X, 2.0) is None
    assert torch.equal(ways.operation(X, 2.0), X * 2)
    assert ways.operation.chosen(X, 2.0) == "fast"
    ways.calls.clear()
    ways.operation(X, 2.0)
    assert ways.calls == ["fast"]


def test_the_first_call_of_a_contest_gives_the_bits_of_later_ones() -> None:
    ways = Ways(contest=True, seconds=0.002)
    ways.wrong = 1e-5  # rounding, as it were
    first = ways.operation(X, 2.0)
    assert not torch.equal(first, X * 2)
    assert torch.equal(ways.operation(X, 2.0), first)


def test_a_contest_leaves_out_a_wrong_way_and_a_failing_one(caplog: pytest.LogCaptureFixture) -> None:
    for ways in (Ways(contest=True, wrong=True, seconds=0.002), Ways(contest=True)):
        ways.error = None if ways.wrong else RuntimeError("no")
        with caplog.at_level(logging.WARNING, "hotpath"):
            assert torch.equal(ways.operation(X, 2.0), X * 2)
        assert ways.operation.chosen(X, 2.0) == "torch"
        assert "fast: declined: it" in ways.operation.explain(X, 2.0)
    assert "away from torch's" in caplog.text


def test_no_contest_while_a_graph_is_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    ways = Ways(contest=True, seconds=0.002)
    monkeypatch.setattr("hotpath.kernels.dispatch.capturing", lambda: True)
    ways.operation(X, 2.0)
    assert ways.calls == ["torch"]
    monkeypatch.undo()
    ways.operation(X, 2.0)
    assert ways.operation.chosen(X, 2.0) == "fast"


def test_distance_sees_numbers_that_are_none() -> None:
    assert distance(X, X) == 0
    assert distance((X, X), (X, X * 2)) == pytest.approx(0.5)
    assert distance(X * float("nan"), X) == float("inf")

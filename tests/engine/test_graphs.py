"""Recorded calls: what they are made for, what they notice, what they leave alone. A recorder on the processor stands in for CUDA's."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from hotpath.engine.attention_override import OVERRIDE, overriding
from hotpath.engine.graphs import Graphs
from torch import Tensor, nn
from torch.func import functional_call


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Linear(4, 4), nn.Linear(3, 4)
        self.requires_grad_(False)

    def forward(self, x: Tensor, timesteps: Tensor, context: Tensor | None = None) -> Tensor:
        more = 0 if context is None else self.b(context).mean(1)
        return self.a(x) * timesteps[:, None] + more


class Doubled(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)

    @classmethod
    def of(cls, linear: nn.Linear) -> Doubled:
        """With the weights of another layer."""
        made = cls(1, 1)
        made.weight, made.bias = linear.weight, linear.bias
        return made


def arguments(batch: int = 2, seed: int = 0, context: bool = True) -> tuple[Tensor | None, ...]:
    random = torch.Generator().manual_seed(seed)
    made = [torch.randn(batch, *shape, generator=random) for shape in ((4,), (), (5, 3))]
    return (*made[:2], made[2] if context else None)


class Recorder:
    """Repeats a call on the arguments, the weight tensors and the layer of its recording, as a CUDA graph does; counts recordings."""

    def __init__(self, network: nn.Module) -> None:
        self.network, self.recordings, self.frozen = network, 0, None

    def __call__(self, run):
        self.recordings += 1
        result, weights, layer = run(), {name: p.data for name, p in self.network.named_parameters()}, self.network.a
        inputs = run.args if self.frozen is None else tuple(t if t is None else t.clone() for t in run.args)

        def replay() -> None:
            now, self.network.a = self.network.a, layer
            result.copy_(functional_call(self.network, weights, inputs))
            self.network.a = now

        return replay, result


@pytest.fixture
def network() -> Network:
    return Network()


def test_replays_are_calls(network: Network) -> None:
    record = Recorder(network)
    graphs = Graphs(record)
    first = graphs.run(network, network, arguments(), {"cond_or_uncond": [0, 1], "patches": {}, "sigmas": torch.ones(2)})
    kept = first.clone()
    for seed in range(3):
        given = arguments(seed=seed)
        torch.testing.assert_close(graphs.run(network, network, given, {"cond_or_uncond": [0, 1]}), network(*given))
    assert torch.equal(first, kept), "a result is the caller's own"
    assert record.recordings == 1
    assert graphs.counts == {"taken": 4}


def test_one_graph_for_each_form(network: Network) -> None:
    record = Recorder(network)
    graphs = Graphs(record, kept=2)
    for given in (arguments(), arguments(3), arguments(), arguments(context=False)):
        torch.testing.assert_close(graphs.run(network, network, given, {}), network(*given))
    assert record.recordings == 3
    graphs.run(network, network, arguments(3), {})
    assert record.recordings == 4, "the one not used for longest was dropped"
    graphs.run(network, network, arguments(3), {"cond_or_uncond": [1, 0, 1]})
    assert record.recordings == 5


@pytest.mark.parametrize("how", ["replaced", "in place", "data replaced", "layer replaced"])
def test_other_weights_mean_another_graph(network: Network, how: str) -> None:
    record = Recorder(network)
    graphs, given = Graphs(record), arguments()
    graphs.run(network, network, given, {})
    with torch.no_grad():
        if how == "replaced":
            network.a.weight = nn.Parameter(-network.a.weight, requires_grad=False)
        elif how == "in place":
            network.a.weight.neg_()
        elif how == "layer replaced":
            network.a = Doubled.of(network.a)
        else:
            network.a.weight.data = -network.a.weight.data
    torch.testing.assert_close(graphs.run(network, network, given, {}), network(*given))
    assert record.recordings == 2


def test_a_graph_that_holds_inputs_fast_is_found_out(network: Network) -> None:
    record = Recorder(network)
    record.frozen = True
    graphs = Graphs(record)
    assert graphs.run(network, network, arguments(), {}) is None
    assert graphs.run(network, network, arguments(seed=1), {}) is None
    assert record.recordings == 1
    (reason,) = graphs.counts
    assert "away from a call" in reason


def test_what_cannot_be_recorded_is_said_once_and_left(network: Network, caplog: pytest.LogCaptureFixture) -> None:
    def fails(run):
        raise RuntimeError("operation not permitted when stream is capturing\nand pages more")

    graphs = Graphs(fails)
    assert graphs.run(network, network, arguments(), {}) is None
    assert graphs.run(network, network, arguments(), {}) is None
    assert graphs.counts == {"it cannot be recorded: operation not permitted when stream is capturing": 2}
    assert len(caplog.records) == 1


@pytest.mark.parametrize(
    "what", ["patch", "attention", "ours around another's attention", "hook", "forward", "weight function", "gradients"]
)
def test_whatever_else_takes_part_is_left_to_the_host(network: Network, what: str) -> None:
    graphs, given, options = Graphs(Recorder(network)), arguments(), {OVERRIDE: overriding(None, Counter())}
    assert graphs.run(network, network, given, options) is not None
    if what == "patch":
        options = {"patches": {"attn1_patch": [print]}}
    elif what == "attention":
        options = {OVERRIDE: lambda func, *args, **more: func(*args, **more)}
    elif what == "ours around another's attention":
        options = {OVERRIDE: overriding(lambda func, *args, **more: func(*args, **more), Counter())}
    elif what == "hook":
        network.a.register_forward_hook(lambda *_: None)
    elif what == "forward":
        network.a.forward = lambda x: x
    elif what == "weight function":
        network.a.weight_function = [abs]
    else:
        given[0].requires_grad_()
    assert graphs.run(network, network, given, options) is None
    assert graphs.counts["taken"] == 1


def test_a_patch_that_has_come_off_is_no_reason(network: Network) -> None:
    network.a.forward = network.a.forward
    assert Graphs(Recorder(network)).run(network, network, arguments(), {}) is not None


def test_memory_comes_back(network: Network) -> None:
    record = Recorder(network)
    graphs = Graphs(record)
    graphs.run(network, network, arguments(), {})
    graphs.forget()
    graphs.run(network, network, arguments(), {})
    assert record.recordings == 2
    elsewhere = tuple(t.to("meta") for t in arguments())
    assert graphs.run(network, network, elsewhere, {}) is None
    graphs.run(network, network, arguments(), {})
    assert record.recordings == 3, "what is off the device is so because memory is short"

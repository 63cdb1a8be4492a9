"""Which number format is chosen on which machine, and why."""

import pytest
import torch
from hotpath.engine.errors import InvalidInput
from hotpath.engine.precision import CHOICES, choose


def cpu(monkeypatch: pytest.MonkeyPatch, *features: str) -> None:
    for feature in ("amx_tile", "avx512_bf16"):
        monkeypatch.setattr(torch.cpu, f"_is_{feature}_supported", lambda feature=feature: feature in features, raising=False)


@pytest.mark.parametrize(
    ("features", "dtype", "why"),
    [
        (("amx_tile", "avx512_bf16"), torch.bfloat16, "AMX"),
        (("amx_tile",), torch.bfloat16, "AMX"),
        (("avx512_bf16",), torch.bfloat16, "AVX512-BF16"),
        ((), torch.float32, "no fast 16-bit"),
    ],
)
def test_on_a_cpu(monkeypatch: pytest.MonkeyPatch, features: tuple[str, ...], dtype: torch.dtype, why: str) -> None:
    cpu(monkeypatch, *features)
    chosen = choose(torch.device("cpu"))
    assert chosen.dtype == dtype
    assert why in chosen.reason


@pytest.mark.parametrize(
    ("capability", "dtype"),
    [((6, 1), torch.float32), ((7, 0), torch.float16), ((8, 9), torch.float16), ((12, 0), torch.float16)],
)
def test_on_a_gpu(monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], dtype: torch.dtype) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    chosen = choose(torch.device("cuda", 0))
    assert chosen.dtype == dtype
    assert "{}.{}".format(*capability) in chosen.reason


@pytest.mark.parametrize("kind", ["mps", "xpu", "meta"])
def test_unknown_devices_are_safe(kind: str) -> None:
    chosen = choose(torch.device(kind))
    assert chosen.dtype == torch.float32
    assert f"'{kind}'" in chosen.reason


def test_a_torch_without_the_probes_is_safe(monkeypatch: pytest.MonkeyPatch) -> None:
    for feature in ("amx_tile", "avx512_bf16"):
        monkeypatch.delattr(torch.cpu, f"_is_{feature}_supported", raising=False)
    assert choose(torch.device("cpu")).dtype == torch.float32


@pytest.mark.parametrize("wanted", [name for name in CHOICES if name != "auto"])
def test_an_explicit_choice_is_kept(monkeypatch: pytest.MonkeyPatch, wanted: str) -> None:
    cpu(monkeypatch)
    chosen = choose(torch.device("cpu"), wanted)
    assert chosen.dtype == getattr(torch, wanted)
    assert "asked for" in chosen.reason


@pytest.mark.parametrize("wanted", ["fp8", "", "int8", "AUTO"])
def test_other_words_are_refused(wanted: str) -> None:
    with pytest.raises(InvalidInput, match=f"auto, float32, bfloat16, float16, got '{wanted}'"):
        choose(torch.device("cpu"), wanted)

"""The Triton kernels compute what their references say, under the interpreter, and planted faults do not go unseen."""

import json
import os
import subprocess
import sys

import pytest
from hotpath.tests.kernels.cases import CASES, FAULTS

pytest.importorskip("triton", reason="Triton is not installed")

LIMIT = {"torch.float32": 2e-6, "torch.float16": 5e-4, "torch.bfloat16": 4e-3}


@pytest.fixture(scope="module")
def found() -> dict:
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    command = [sys.executable, "-m", "hotpath.tests.kernels.numerics"]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    found = json.loads(ran.stdout)
    if not found["repaired"]:
        pytest.skip("the repairs of the interpreter were made for Triton 3.6")
    return found


FAR = {case.name for case in CASES if case.far}


def passes(result: dict, case: str) -> bool:
    """Within the limit of its dtype and within 1.5 times the error of torch in the same dtype."""
    if "raised" in result:
        return False
    (dtype,) = result["dtype"]
    limit = 1e-4 if case in FAR else LIMIT[dtype]
    return result["error"] <= limit and result["error"] <= 1.5 * max(result["plain"], 1e-7)


@pytest.mark.parametrize("name", [case.name for case in CASES])
def test_numbers(found: dict, name: str) -> None:
    assert passes(found["cases"][name], name), found["cases"][name]


@pytest.mark.parametrize("fault", FAULTS, ids=[fault.name for fault in FAULTS])
def test_a_planted_fault_is_seen(found: dict, fault) -> None:
    assert "error" in found["cases"][fault.case], "the case itself has to run"
    assert not passes(found["faults"][fault.name], fault.case), found["faults"][fault.name]


def test_the_proof_is_short(found: dict) -> None:
    """Each case is small enough that there can be many."""
    slowest = max(found["cases"].values(), key=lambda result: result.get("seconds", 0))
    assert slowest["seconds"] < 5, slowest

"""Run inside ComfyUI by test_probe_inside.py: every case, and what became of it, as JSON."""
# ruff: noqa: E402, F401 - ComfyUI starts before it is imported; cases run as they are imported

import sys
from pathlib import Path

from hotpath.tests.comfy.inside import start_comfyui

start_comfyui(Path(sys.argv[1]), Path(sys.argv[2]))

from hotpath.tests.comfy import probe_model, probe_queues, probe_sweeps
from hotpath.tests.comfy.probe_world import PACK

PACK.print_results()

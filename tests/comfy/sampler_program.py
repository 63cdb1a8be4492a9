"""Run inside ComfyUI by test_sampler.py: every case, and what became of it, as JSON."""
# ruff: noqa: E402, F401 - ComfyUI starts before it is imported; cases run as they are imported

import sys
from pathlib import Path

from hotpath.tests.comfy.inside import start_comfyui

start_comfyui(Path(sys.argv[1]), Path(sys.argv[2]))

from hotpath.tests.comfy import sampler_files, sampler_refusals, sampler_runs
from hotpath.tests.comfy.sampler_world import PACK

PACK.print_results()

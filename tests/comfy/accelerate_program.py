"""Run inside ComfyUI by test_accelerate.py: every case, and what became of it, as JSON."""
# ruff: noqa: E402, F401 - ComfyUI starts before it is imported; cases run as they are imported

import json
import sys
from pathlib import Path

from hotpath.tests.comfy.inside import start_comfyui

start_comfyui(Path(sys.argv[1]), Path(sys.argv[2]))

from hotpath.tests.comfy import accelerate_latents, accelerate_limits, accelerate_vae
from hotpath.tests.comfy.accelerate_world import RESULTS

sys.stdout.write("RESULTS" + json.dumps(RESULTS))

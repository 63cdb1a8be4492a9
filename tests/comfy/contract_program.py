"""Run inside ComfyUI by test_contract.py: the pack's nodes as the server would describe them, in a folder of no user's files."""

import sys
from pathlib import Path

from hotpath.tests.comfy.inside import Pack, start_comfyui

tree, base, pack = map(Path, sys.argv[1:4])
start_comfyui(tree, base)
PACK = Pack(pack)
PACK.results = {name: PACK.nodes[name].GET_NODE_INFO_V1() for name in sorted(PACK.nodes)}
PACK.print_results()

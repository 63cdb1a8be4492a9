"""Doors: schema and one engine call each. The only room that imports ComfyUI."""

from comfy_api.latest import ComfyExtension

from . import accelerate, concept_pairs, concept_training, e2gan, host, probe, probe_report, probe_sweep, sampler, weights

NODES = [
    *accelerate.NODES,
    *concept_pairs.NODES,
    *concept_training.NODES,
    *e2gan.NODES,
    *probe.NODES,
    *probe_report.NODES,
    *probe_sweep.NODES,
    *sampler.NODES,
    *weights.NODES,
]


class Extension(ComfyExtension):
    """What ComfyUI asks for the pack's nodes."""

    async def get_node_list(self) -> list:
        host.register_folders()
        return NODES

"""The example graphs: each shown by a picture, each widget as the contract has it, every node somewhere."""

from __future__ import annotations

import copy
import json
import uuid
from pathlib import Path

import pytest
from hotpath.tests import contract
from hotpath.tests.testing import ROOT
from PIL import Image

EXAMPLES = sorted((ROOT / "examples").glob("*.json"))
each = pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
LARGEST_THUMBNAIL = 400_000  # bytes


def workflow(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def faults(graph: dict) -> list[str]:
    """What a graph says of nodes of ours that the contract does not."""
    known = contract.kept()
    ours = [node for node in graph["nodes"] if node["type"].lower().startswith("hotpath")]
    assert {node["type"] for node in ours} <= set(known)
    return [
        f"node {node['id']} ({node['type']}): {fault}" for node in ours for fault in contract.faults(node, known[node["type"]])
    ]


def loose(graph: dict) -> list[str]:
    """Links whose two ends do not name them, or whose type is not that of both ends."""
    nodes, found = {node["id"]: node for node in graph["nodes"]}, []
    for link, source, out, target, into, kind in graph["links"]:
        ends = nodes[source]["outputs"][out], nodes[target]["inputs"][into]
        if link not in ends[0]["links"] or ends[1]["link"] != link:
            found.append(f"link {link} is not at both of its ends")
        if any(kind != end["type"] and "*" not in (kind, end["type"]) for end in ends):
            found.append(f"link {link} of type {kind} joins {ends[0]['type']} and {ends[1]['type']}")
    return found


@each
def test_an_example_has_an_id_and_a_thumbnail(path: Path) -> None:
    found = workflow(path)["id"]
    assert str(uuid.UUID(found)) == found, "the editor refuses any other id"
    thumbnail = path.with_suffix(".jpg")
    assert thumbnail.is_file(), "the Templates browser shows it"
    assert thumbnail.stat().st_size < LARGEST_THUMBNAIL
    with Image.open(thumbnail) as picture:
        assert min(picture.size) >= 150
        assert picture.convert("L").getextrema()[0] < picture.convert("L").getextrema()[1]


@each
def test_an_example_opens_in_a_view_of_its_own(path: Path) -> None:
    """Without one the editor fits the graph while it measures the nodes, and Nodes 2.0 (frontend 1.32.9) scatters them."""
    view = workflow(path)["extra"]["ds"]
    assert view["scale"] >= 0.6, "below, the classic canvas hides all text"
    assert len(view["offset"]) == 2


def test_ids_are_unique() -> None:
    assert len({workflow(path)["id"] for path in EXAMPLES}) == len(EXAMPLES)


@each
def test_an_example_is_as_the_contract_says(path: Path) -> None:
    assert faults(workflow(path)) == []
    assert loose(workflow(path)) == []


def test_every_node_is_in_an_example() -> None:
    assert set(contract.kept()) <= {node["type"] for path in EXAMPLES for node in workflow(path)["nodes"]}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda node: node["widgets_values"].pop(), "has no value"),
        (lambda node: node["widgets_values"].append(1), "left over"),
        (lambda node: node["widgets_values"].__setitem__(0, 1.5), "outside"),
        (lambda node: node["widgets_values"].__setitem__(0, "much"), "no FLOAT"),
        (lambda node: node["widgets_values"].__setitem__(1, "int4"), "none of auto"),
        (lambda node: node["inputs"][0].update(name="gan"), "gan HOTPATH_E2GAN is not there"),
        (lambda node: node["outputs"].clear(), "outputs are not those"),
    ],
)
def test_a_graph_that_does_not_fit_is_seen(change, words: str) -> None:
    graph = copy.deepcopy(workflow(ROOT / "examples" / "e2gan_concepts.json"))
    change(next(node for node in graph["nodes"] if node["type"] == "Hotpath_ApplyE2GAN"))
    assert words in "; ".join(faults(graph))


def test_a_link_that_is_loose_is_seen() -> None:
    graph = workflow(ROOT / "examples" / "e2gan_concepts.json")
    graph["links"][0][5] = "LATENT"
    graph["nodes"][1]["outputs"][0]["links"] = []
    found = "; ".join(loose(graph))
    assert "joins" in found
    assert "not at both" in found

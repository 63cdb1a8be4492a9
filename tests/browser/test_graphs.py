"""Every example graph in a real browser: it is offered as a template, loads whole, looks tidy, and runs where it needs no weights."""

from __future__ import annotations

import json
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from hotpath.tests.browser.editor import DESIGNS, Editor
from hotpath.tests.testing import ROOT

EXAMPLES = sorted((ROOT / "examples").glob("*.json"))
each_design = pytest.mark.parametrize("design", DESIGNS)
each_example = pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)

# Graphs that run with what is bundled, and the widgets (by position) that make the long ones short.
SMALL: dict[str, dict[str, dict[int, Any]]] = {
    "e2gan_concept_sheet": {},
    "e2gan_concepts": {},
    "probe_e2gan": {},
    "weights": {},
    "kawahata_sweep": {"Hotpath_ThroughputSweep": {1: "64, 96", 5: 0.2, 6: 5}},
    "probe_compare": {"Hotpath_ThroughputSweep": {5: 0.3, 6: 20}},
    "e2gan_train_concept": {"Hotpath_TrainE2GANConcept": {3: "fast", 6: 10}, "Hotpath_SaveE2GANConcept": {1: True}},
    "e2gan_distill_workflow": {"Hotpath_TrainE2GANConcept": {3: "fast", 6: 10}, "Hotpath_SaveE2GANConcept": {1: True}},
}
KEPT = ("my_edit", "my_icons")  # names of folders in which pairs and trainings grow from run to run
SHOWS_PICTURES = ("SaveImage", "PreviewImage", "LossGraphNode", "Hotpath_ProbeReport", "Hotpath_CompareReports")
MODEL_LISTS = {"ckpt_name", "file"}  # choices of files that the user has yet to fetch


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def overlapping(nodes: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """Pairs of nodes whose frames cover a common area."""

    def covers(a: dict[str, Any], b: dict[str, Any]) -> bool:
        (ax, ay, aw, ah), (bx, by, bw, bh) = a["frame"], b["frame"]
        return min(ax + aw, bx + bw) - max(ax, bx) > 1 and min(ay + ah, by + bh) - max(ay, by) > 1

    return [(a["type"], b["type"]) for a, b in combinations(nodes, 2) if covers(a, b)]


def offered(workflow: dict[str, Any]) -> set[str]:
    """Names of the model files that the workflow asks ComfyUI to offer."""
    return {model["name"] for node in workflow["nodes"] for model in node.get("properties", {}).get("models", [])}


def test_every_example_is_a_template_with_its_picture(editor: Editor) -> None:
    page = editor.page
    page.get_by_role("button", name="Templates").click()
    dialog = page.get_by_test_id("template-workflows-content")
    editor.dialog.get_by_text("hotpath", exact=True).last.click()
    cards = dialog.locator("[data-testid^=template-workflow-]")
    page.wait_for_function(
        "count => document.querySelectorAll('[data-testid^=template-workflow-]').length === count", arg=len(EXAMPLES)
    )
    names = set()
    for card in cards.all():
        card.scroll_into_view_if_needed()
        name = card.get_attribute("data-testid").removeprefix("template-workflow-")
        page.wait_for_function(
            'name => [...document.querySelectorAll(`[data-testid="template-workflow-${name}"] img`)].some(i => i.complete && i.naturalWidth > 100)',
            arg=name,
        )
        names.add(name)
    assert names == {path.stem for path in EXAMPLES}
    editor.screenshot("templates_end")
    cards.first.scroll_into_view_if_needed()
    editor.screenshot("templates")
    dialog.get_by_test_id("template-workflow-e2gan_concepts").click()
    editor.loaded(read(ROOT / "examples" / "e2gan_concepts.json"))


@each_example
@each_design
def test_a_dropped_example_is_whole_and_tidy(editor: Editor, design: str, path: Path) -> None:
    editor.use(design)
    workflow = editor.drop(path)
    if missing := offered(workflow):
        editor.dialog.wait_for()
        text = editor.dialog.inner_text()
        assert all(name in text for name in missing), text
        editor.screenshot(f"{path.stem}_{design}_models")
        editor.close_dialog()
    assert editor.dialog.count() == 0
    editor.screenshot(f"{path.stem}_{design}")
    nodes = editor.nodes()
    assert {node["id"]: node["type"] for node in nodes} == {node["id"]: node["type"] for node in workflow["nodes"]}
    assert not [node for node in nodes if node["missing"] or node["red"]]
    assert sorted(editor.links()) == sorted(link[:5] for link in workflow["links"])
    assert not overlapping(nodes)
    choices = [(node["type"], *choice) for node in nodes for choice in node["choices"]]
    assert not [choice for choice in choices if not choice[3] and choice[1] not in MODEL_LISTS]


def small(path: Path, design: str) -> dict[str, Any]:
    """The example with its long work made short, and what it keeps kept apart from the other design's."""
    workflow = read(path)
    for node in workflow["nodes"]:
        values = node.get("widgets_values", [])
        node["widgets_values"] = [f"{value}_{design}" if value in KEPT else value for value in values]
        for index, value in SMALL[path.stem].get(node["type"], {}).items():
            node["widgets_values"][index] = value
    return workflow


@pytest.mark.parametrize("path", [path for path in EXAMPLES if path.stem in SMALL], ids=lambda path: path.stem)
@each_design
def test_an_example_runs_and_shows_what_it_made(editor: Editor, design: str, path: Path) -> None:
    editor.use(design)
    editor.forget()
    workflow = editor.drop(path, small(path, design))
    editor.run()
    assert editor.ended(90) == "execution_success", editor.told[-1]
    for node in workflow["nodes"]:
        if node["type"] in SHOWS_PICTURES:
            editor.shows_picture(node["id"])
    editor.still()
    editor.screenshot(f"{path.stem}_{design}_done")
    assert not [node for node in editor.nodes() if node["red"]]
    assert editor.dialog.count() == 0
    assert not overlapping(editor.nodes())

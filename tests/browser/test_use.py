"""What a user does beside running graphs: watches a long run and cancels it, changes the language, reads help."""

from __future__ import annotations

import json
import re

import pytest
from hotpath.tests.browser.editor import DESIGNS, Editor
from hotpath.tests.browser.test_graphs import EXAMPLES, each_design, read
from hotpath.tests.testing import ROOT

BY_NAME = {path.stem: path for path in EXAMPLES}
PAGES = sorted((ROOT / "web" / "docs").glob("*.md"))
JAPANESE = json.loads((ROOT / "locales" / "ja" / "nodeDefs.json").read_text(encoding="utf-8"))
TRAIN = 4  # the number of the training node in its example

# How far the training node is, in percent, as the title of the browser's tab says: "[17%][5%] Hotpath_TrainE2GANConcept"
SHARE = "(/\\[(\\d+)%\\] Hotpath_TrainE2GANConcept$/.exec(document.title) ?? [])[1]"


@each_design
def test_a_long_run_moves_shows_a_preview_and_is_cancelled(editor: Editor, design: str) -> None:
    editor.use(design)
    editor.forget()
    workflow = read(BY_NAME["e2gan_train_concept"])
    (train,) = (node for node in workflow["nodes"] if node["id"] == TRAIN)
    train["widgets_values"][0] = f"glossy icon {design}"
    editor.drop(BY_NAME["e2gan_train_concept"], workflow)
    editor.run()
    seen = [0]
    for _ in range(3):
        moved = f"last => Number({SHARE} ?? 0) > last && Number({SHARE})"
        seen.append(editor.page.wait_for_function(moved, arg=seen[-1]).json_value())
    editor.page.wait_for_function("() => window.told.some(({kind}) => kind === 'b_preview')", timeout=60_000)
    editor.shows_picture(TRAIN, 200)
    editor.still()
    editor.screenshot(f"training_{design}")
    editor.cancel()
    assert editor.ended(30) == "execution_interrupted"
    editor.page.wait_for_function("() => !document.title.includes('%')")
    editor.screenshot(f"cancelled_{design}")
    assert editor.server.process.poll() is None
    editor.drop(BY_NAME["e2gan_concepts"])
    editor.run()
    assert editor.ended() == "execution_success"


# The seeds of two runs in a row of the only node, as the editor would send them; between them what it does after queueing.
SEEDS = """async () => {
    const [node] = window.app.graph.nodes, seeds = [];
    for (let run = 0; run < 2; run++) {
        node.widgets.forEach(widget => widget.beforeQueued?.());
        seeds.push((await window.app.graphToPrompt()).output[node.id].inputs.seed);
        node.widgets.forEach(widget => widget.afterQueued?.());
    }
    return seeds;
}"""


@each_design
def test_a_training_node_added_by_hand_keeps_its_seed(editor: Editor, design: str) -> None:
    """With another seed it would be another run, and queueing again after Cancel would begin anew."""
    editor.use(design)
    editor.add("Hotpath_TrainE2GANConcept")
    widgets = editor.page.evaluate("() => window.app.graph.nodes[0].widgets.map(({name}) => name)")
    assert widgets == ["name", "prompt", "minutes", "quality", "seed", "resume", "steps", "lr"]
    first, second = editor.page.evaluate(SEEDS)
    assert first == second == 0


@each_design
def test_the_editor_speaks_japanese(editor: Editor, design: str) -> None:
    editor.use(design)
    workflow = editor.drop(BY_NAME["e2gan_concepts"])
    ours = {node["id"]: node["type"] for node in workflow["nodes"] if node["type"].startswith("Hotpath_")}
    english = {node["id"]: node["title"] for node in editor.nodes()}
    editor.set("Comfy.Locale", "ja")
    try:
        for name, found in JAPANESE.items():
            shown = "([name, title]) => LiteGraph.registered_node_types[name].title === title"
            editor.page.wait_for_function(shown, arg=[name, found["display_name"]])
        editor.page.wait_for_function(
            "([id, title]) => window.app.graph.getNodeById(id)?.title === title", arg=[3, JAPANESE[ours[3]]["display_name"]]
        )
        editor.still()
        titles = {node["id"]: node["title"] for node in editor.nodes()}
        assert {number: titles[number] for number in ours} == {n: JAPANESE[kind]["display_name"] for n, kind in ours.items()}
        if design == "nodes2":
            for kind in set(ours.values()):
                assert editor.page.locator("[data-node-id]").get_by_text(JAPANESE[kind]["display_name"], exact=True).count()
        editor.screenshot(f"japanese_{design}")
    finally:
        editor.set("Comfy.Locale", "en")
    editor.page.wait_for_function("([id, title]) => window.app.graph.getNodeById(id)?.title === title", arg=[3, english[3]])


@pytest.mark.parametrize(
    ("path", "design"), [(path, DESIGNS[i % 2]) for i, path in enumerate(PAGES)], ids=lambda value: getattr(value, "stem", value)
)
def test_help_opens_on_its_page(editor: Editor, path: object, design: str) -> None:
    text = path.read_text(encoding="utf-8")
    editor.use(design)
    editor.add(path.stem)
    editor.page.get_by_test_id("info-button").click()
    page = editor.page.locator(".node-help-content")
    page.get_by_role("heading", name=re.search("^# (.*)$", text, re.M)[1], exact=True, level=1).wait_for()
    pictures = re.findall(r"!\[.*?\]\((.*?)\)", text)
    editor.page.wait_for_function(
        "count => [...document.querySelectorAll('.node-help-content img')].filter(i => i.naturalWidth).length === count",
        arg=len(pictures),
    )
    editor.screenshot(f"help_{path.stem}")

"""Workflows become prompts as the editor would send them."""

from __future__ import annotations

import pytest
from hotpath.tools.environment import Refusal
from hotpath.tools.graph import ui_to_api

INFO = {
    "LoadImage": {"input": {"required": {"image": [["a.png", "b.png"], {"image_upload": True}]}}},
    "Make": {"input": {"required": {"prompt": ["STRING", {}]}}},
    "Blend": {
        "input": {
            "required": {
                "image": ["IMAGE"],
                "seed": ["INT", {"default": 7}],
                "style": ["COMBO", {"options": ["ink", "oil"]}],
                "mix": ["FLOAT", {"default": 1.0}],
            },
            "optional": {"mask": ["MASK"], "precision": [["fp32", "bf16"]], "typed": ["STRING", {"forceInput": True}]},
        },
        "input_order": {"required": ["image", "seed", "style", "mix"], "optional": ["mask", "precision", "typed"]},
        "display_name": "Blend Two",
    },
    "Cycle": {
        "input": {
            "required": {
                "file": [["x", "y"], {"control_after_generate": True}],
                "seed": ["INT", {"control_after_generate": False}],
            }
        }
    },
    "Save": {"input": {"required": {"images": ["IMAGE"], "prefix": ["STRING", {"default": "out"}]}}},
}
LOAD = {"id": 1, "type": "LoadImage", "widgets_values": ["b.png", "image"], "outputs": [{"type": "IMAGE"}]}


def blend(**changes: object) -> dict:
    inputs = [{"name": "mask", "type": "MASK", "link": None}, {"name": "image", "type": "IMAGE", "link": 1}]
    node = {"id": 2, "type": "Blend", "inputs": inputs, "outputs": [{"type": "IMAGE"}]}
    return {**node, "widgets_values": [5, "randomize", "oil", 0.5, "bf16"], **changes}


def save(**changes: object) -> dict:
    return {"id": 3, "type": "Save", "inputs": [{"name": "images", "type": "IMAGE", "link": 2}], **changes}


LINKS = [[1, 1, 0, 2, 0, "IMAGE"], [2, 2, 0, 3, 0, "IMAGE"]]


def test_widgets_and_links_become_inputs() -> None:
    prompt = ui_to_api({"nodes": [LOAD, blend(), save(), {"id": 9, "type": "Note"}], "links": LINKS}, INFO)
    assert set(prompt) == {"1", "2", "3"}
    assert prompt["1"]["inputs"] == {"image": "b.png"}
    assert prompt["2"]["inputs"] == {"image": ["1", 0], "seed": 5, "style": "oil", "mix": 0.5, "precision": "bf16"}
    assert prompt["2"]["class_type"] == "Blend"
    assert prompt["2"]["_meta"]["title"] == "Blend Two"
    assert prompt["3"]["inputs"] == {"images": ["2", 0], "prefix": "out"}


def test_links_written_as_objects_are_read() -> None:
    names = ("id", "origin_id", "origin_slot", "target_id", "target_slot", "type")
    links = [dict(zip(names, link, strict=True)) for link in LINKS]
    workflow = {"nodes": [LOAD, blend(), save()], "links": links}
    assert ui_to_api(workflow, INFO) == ui_to_api({**workflow, "links": LINKS}, INFO)


def test_widgets_newer_than_the_workflow_take_their_defaults() -> None:
    prompt = ui_to_api({"nodes": [LOAD, blend(widgets_values=[5, "fixed", "oil"])], "links": LINKS}, INFO)
    assert prompt["2"]["inputs"] == {"image": ["1", 0], "seed": 5, "style": "oil", "mix": 1.0, "precision": "fp32"}


def test_a_controlled_list_is_followed_by_its_control_and_filter() -> None:
    node = {"id": 1, "type": "Cycle", "widgets_values": ["y", "increment-wrap", "/x/", 3]}
    assert ui_to_api({"nodes": [node]}, INFO)["1"]["inputs"] == {"file": "y", "seed": 3}


def test_a_seed_saved_without_its_control_is_refused() -> None:
    with pytest.raises(Refusal, match=r"'seed' in node 2 .* got 'oil'"):
        ui_to_api({"nodes": [LOAD, blend(widgets_values=[5, "oil", 0.5, "bf16"])], "links": LINKS}, INFO)


def test_values_saved_by_name_and_list_values() -> None:
    node = {"id": 1, "type": "Make", "widgets_values": {"prompt": ["a", "b"]}}
    assert ui_to_api({"nodes": [node]}, INFO)["1"]["inputs"] == {"prompt": {"__value__": ["a", "b"]}}


def test_a_widget_fed_by_a_link_still_takes_up_its_saved_value() -> None:
    entry = {"name": "mix", "type": "FLOAT", "link": 3, "widget": {"name": "mix"}}
    node = blend(inputs=[*blend()["inputs"], entry])
    make = {"id": 4, "type": "Make", "widgets_values": ["hi"], "outputs": [{"type": "FLOAT"}]}
    prompt = ui_to_api({"nodes": [LOAD, make, node], "links": [*LINKS, [3, 4, 0, 2, 4, "FLOAT"]]}, INFO)
    assert prompt["2"]["inputs"]["mix"] == ["4", 0]
    assert prompt["2"]["inputs"]["precision"] == "bf16"
    make["type"] = "PrimitiveNode"
    prompt = ui_to_api({"nodes": [LOAD, make, node], "links": [*LINKS, [3, 4, 0, 2, 4, "FLOAT"]]}, INFO)
    assert prompt["2"]["inputs"]["mix"] == 0.5
    assert "4" not in prompt


def test_muted_nodes_disappear_with_their_links() -> None:
    prompt = ui_to_api({"nodes": [LOAD, blend(mode=2), save()], "links": LINKS}, INFO)
    assert set(prompt) == {"1", "3"}
    assert "images" not in prompt["3"]["inputs"]


def test_bypassed_nodes_and_reroutes_hand_on_what_they_get() -> None:
    bypassed = ui_to_api({"nodes": [LOAD, blend(mode=4), save()], "links": LINKS}, INFO)
    assert set(bypassed) == {"1", "3"}
    assert bypassed["3"]["inputs"]["images"] == ["1", 0]
    reroute = {"id": 2, "type": "Reroute", "inputs": [{"type": "*", "link": 1}], "outputs": [{"type": "IMAGE"}]}
    assert ui_to_api({"nodes": [LOAD, reroute, save()], "links": LINKS}, INFO)["3"]["inputs"]["images"] == ["1", 0]


def test_an_unknown_node_is_named() -> None:
    with pytest.raises(Refusal, match=r"unknown node 'Nope' \(number 1\)"):
        ui_to_api({"nodes": [{"id": 1, "type": "Nope"}], "links": []}, INFO)

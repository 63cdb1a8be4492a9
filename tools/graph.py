"""Turns a workflow as the ComfyUI editor saves it into the prompt that a ComfyUI server runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from .environment import Refusal

WIDGET_TYPES = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")
EDITOR_ONLY = ("Note", "MarkdownNote", "PrimitiveNode", "Reroute")
CONTROLS = ("fixed", "increment", "decrement", "randomize", "increment-wrap")
MUTED, BYPASSED = 2, 4


def ui_to_api(workflow: Mapping[str, Any], object_info: Mapping[str, Any]) -> dict[str, Any]:
    """The API prompt of a UI-format workflow, as the editor's own "Queue" would send it.

    `object_info` is the server's answer to GET /object_info. Muted nodes disappear with their links; a bypassed node
    hands on its input of the same type.
    """
    nodes = {node["id"]: node for node in workflow["nodes"]}
    links = {link[0]: (link[1], link[2]) for link in map(_as_row, workflow.get("links", []))}
    prompt: dict[str, Any] = {}
    for node in nodes.values():
        kind = node["type"]
        if kind in EDITOR_ONLY or node.get("mode", 0) in (MUTED, BYPASSED):
            continue
        if kind not in object_info:
            raise Refusal(
                f"Expected every node of the graph to exist on this server, got the unknown node {kind!r} "
                f"(number {node['id']}); install the pack it comes from, or see in the server log why it did not load."
            )
        inputs = widget_values(node, object_info[kind])
        for entry in node.get("inputs") or []:
            if entry.get("link") is None:
                continue
            if (origin := _origin(entry["link"], nodes, links)) is not None:
                inputs[entry["name"]] = [str(origin[0]), origin[1]]
        title = node.get("title") or object_info[kind].get("display_name") or kind
        prompt[str(node["id"])] = {"class_type": kind, "inputs": inputs, "_meta": {"title": title}}
    return prompt


def widget_values(node: Mapping[str, Any], info: Mapping[str, Any]) -> dict[str, Any]:
    """A node's widget values by input name; widgets newer than the saved workflow take their defaults.

    Saved values are a plain list in the order of the widgets, and a few widgets are the editor's own: a seed is
    followed by what to do with it after a run, a list controlled that way by a filter too, and an upload button comes
    last of all.
    """
    saved = node.get("widgets_values") or []
    widgets = list(_widgets(info))
    if isinstance(saved, Mapping):
        values = {name: saved.get(name, _default(kind, options)) for name, kind, options in widgets}
    else:
        values, left = {}, list(saved)
        for name, kind, options in widgets:
            values[name] = left.pop(0) if left else _default(kind, options)
            if not _controlled(name, kind, options) or not left:
                continue
            if (control := left.pop(0)) not in CONTROLS:
                raise Refusal(
                    f"Expected one of {', '.join(CONTROLS)} after the value of {name!r} in node {node['id']} "
                    f"({node['type']}), got {control!r}; save the workflow again from the editor."
                )
            if kind == "COMBO" and left:
                left.pop(0)
    # A bare list would read as a link, so the server wants a list value wrapped.
    return {name: {"__value__": value} if isinstance(value, list) else value for name, value in values.items()}


def _widgets(info: Mapping[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Name, type and options of each input that the editor shows as a widget, in the editor's order."""
    for group in ("required", "optional"):
        specs = info["input"].get(group) or {}
        for name in (info.get("input_order") or {}).get(group) or specs:
            kind, options = specs[name][0], dict(specs[name][1]) if len(specs[name]) > 1 else {}
            if isinstance(kind, list):
                kind, options = "COMBO", {"options": kind, **options}
            if (options.get("widgetType") or kind) in WIDGET_TYPES and not options.get("forceInput"):
                yield name, kind, options


def _controlled(name: str, kind: str, options: Mapping[str, Any]) -> bool:
    control = options.get("control_after_generate")
    return bool(control) if control is not None else kind == "INT" and name in ("seed", "noise_seed")


def _default(kind: str, options: Mapping[str, Any]) -> Any:
    if options.get("default") is not None:
        return options["default"]
    if kind == "COMBO":
        return next(iter(options.get("options") or []), None)
    return {"INT": 0, "FLOAT": 0.0, "BOOLEAN": False}.get(kind, "")


def _as_row(link: Any) -> list[Any]:
    """A link as [id, from node, from slot, to node, to slot, type]; newer workflow files write it as an object."""
    names = ("id", "origin_id", "origin_slot", "target_id", "target_slot", "type")
    return [link[name] for name in names] if isinstance(link, Mapping) else link


def _origin(link: int, nodes: Mapping, links: Mapping) -> tuple[int, int] | None:
    """The node and slot whose value really arrives over a link, or None where the value is a widget's or is missing."""
    node_id, slot = links[link]
    node = nodes[node_id]
    if node.get("mode", 0) == MUTED or node["type"] == "PrimitiveNode":
        return None  # a primitive's value has been saved in the widgets it feeds
    inputs = node.get("inputs") or []
    if node["type"] == "Reroute":
        through = inputs[:1]
    elif node.get("mode", 0) == BYPASSED:
        kind = node["outputs"][slot]["type"]
        through = [entry for entry in (*inputs[slot : slot + 1], *inputs) if entry["type"] == kind][:1]
    else:
        return node_id, slot
    return _origin(through[0]["link"], nodes, links) if through and through[0].get("link") is not None else None

"""What users' saved workflows rely on: node ids, inputs and outputs. Kept in contract.json, reviewed with every change of it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence

from hotpath.tests.testing import ROOT

PATH = ROOT / "tests" / "contract.json"
ENGLISH = ROOT / "locales" / "en" / "nodeDefs.json"
ACCEPT = (
    "Saved workflows find nodes, inputs and outputs by these. If the change is meant, accept it with "
    "`python tools/dev.py test tests/comfy/test_contract.py --accept-contract` and review what that changes in tests/contract.json."
)
LEFT_OUT = ("tooltip", "display_name", "multiselect")  # words stand in the language files; no list of ours takes several
CONTROL = ("fixed", "increment", "decrement", "randomize")
NUMBERS = {"INT": int, "FLOAT": (int, float)}
WIDGETS = {**NUMBERS, "STRING": str, "BOOLEAN": bool, "COMBO": str}


def kept() -> dict[str, dict]:
    return json.loads(PATH.read_text(encoding="utf-8"))


def entry(info: Mapping) -> dict[str, object]:
    """A node's part of the contract, from what the server says of it (GET /object_info)."""
    inputs = []
    for group in ("required", "optional"):
        for name, (kind, *rest) in info["input"].get(group, {}).items():
            facts = {key: value for key, value in (rest[0] if rest else {}).items() if key not in LEFT_OUT}
            if isinstance(kind, list):  # as nodes of the older API say it
                kind, facts = "COMBO", {"options": kind, **facts}
            inputs.append({"name": name, "type": kind, **({"optional": True} if group == "optional" else {}), **facts})
    rows = zip(info["output_name"], info["output"], info["output_is_list"], strict=True)
    outputs = [{"name": name, "type": kind, **({"list": True} if many else {})} for name, kind, many in rows]
    return {"output_node": info["output_node"], "inputs": inputs, "outputs": outputs}


def english(info: Mapping) -> dict[str, object]:
    """A node's words as the editor looks them up in a language file."""
    inputs = {**info["input"].get("required", {}), **info["input"].get("optional", {})}
    outputs = zip(info["output_name"], info["output_tooltips"], strict=True)
    return {
        "display_name": info["display_name"],
        "description": info["description"],
        "inputs": {name: {"name": facts.get("display_name", name), "tooltip": facts["tooltip"]} for name, (_, facts) in inputs.items()},
        "outputs": {str(index): {"name": name, "tooltip": tooltip} for index, (name, tooltip) in enumerate(outputs)},
    }  # fmt: skip


def text_of(facts: Mapping) -> str:
    """JSON with one line for each input and output, for reading and for diffs."""
    return _json(facts, depth=0) + "\n"


def _json(value: object, depth: int) -> str:
    if depth == 3 or not isinstance(value, dict | list) or not value:
        return json.dumps(value, ensure_ascii=False)
    inner, outer = "\n" + "  " * (depth + 1), "\n" + "  " * depth
    if isinstance(value, list):
        return f"[{inner}{f',{inner}'.join(_json(entry, depth + 1) for entry in value)}{outer}]"
    entries = (f"{json.dumps(key, ensure_ascii=False)}: {_json(entry, depth + 1)}" for key, entry in value.items())
    return f"{{{inner}{f',{inner}'.join(entries)}{outer}}}"


def differences(before: Mapping[str, Mapping], after: Mapping[str, Mapping]) -> list[str]:
    """One line for each thing that is not what it was."""
    found = [f"{node} is gone" for node in before if node not in after]
    found += [f"{node} is new" for node in after if node not in before]
    for node in (node for node in before if node in after):
        for part in ("inputs", "outputs"):
            found += [f"{node}, {line}" for line in _of_slots(part[:-1], before[node][part], after[node][part])]
        if before[node]["output_node"] != after[node]["output_node"]:
            found.append(f"{node}: output_node was {before[node]['output_node']}, is {after[node]['output_node']}")
    return found


def _of_slots(what: str, before: Sequence[Mapping], after: Sequence[Mapping]) -> Iterator[str]:
    old, new = ({slot["name"]: slot for slot in slots} for slots in (before, after))
    yield from (f"{what} {name} is gone" for name in old if name not in new)
    yield from (f"{what} {name} is new" for name in new if name not in old)
    if [name for name in old if name in new] != [name for name in new if name in old]:
        yield f"{what}s were in the order {', '.join(old)}, are in the order {', '.join(new)}"
    for name in (name for name in old if name in new):
        for key in {**old[name], **new[name]}:
            was, now = old[name].get(key, "not set"), new[name].get(key, "not set")
            if was != now:
                yield f"{what} {name}: {key} was {was}, is {now}"


def faults(node: Mapping, known: Mapping) -> list[str]:
    """What a saved workflow says of a node that the node does not have. Files and folders it names may be the user's own."""
    found = []
    for slots, ours in ((node.get("inputs") or [], known["inputs"]), (node.get("outputs") or [], known["outputs"])):
        types = {slot["name"]: slot["type"] for slot in ours}
        found += [f"{slot['name']} {slot['type']} is not there" for slot in slots if types.get(slot["name"]) != slot["type"]]
    if [slot["name"] for slot in node.get("outputs") or []] != [slot["name"] for slot in known["outputs"]]:
        found.append("outputs are not those of the node, in its order")
    values = list(node.get("widgets_values") or [])
    for slot in (slot for slot in known["inputs"] if slot["type"] in WIDGETS and not slot.get("forceInput")):
        if not values:
            found.append(f"{slot['name']} has no value")
            continue
        found += _of_value(slot, values.pop(0))
        seed = slot["type"] == "INT" and slot["name"] in ("seed", "noise_seed")
        if slot.get("control_after_generate", seed) and (not values or values.pop(0) not in CONTROL):
            found.append(f"{slot['name']} is not followed by what becomes of it after a run")
        if slot.get("image_upload") and values:
            values.pop(0)  # the upload button
    return found + ([f"values are left over: {values}"] if values else [])


def _of_value(slot: Mapping, value: object) -> Iterator[str]:
    name, kind, options = slot["name"], slot["type"], slot.get("options")
    if kind == "COMBO":
        if value not in options and "." not in str(value) and name != "folder":
            yield f"{name} is {value}, which is none of {', '.join(map(str, options))}"
    elif not isinstance(value, WIDGETS[kind]) or isinstance(value, bool) != (kind == "BOOLEAN"):
        yield f"{name} is {value!r}, which is no {kind}"
    elif kind in NUMBERS and not slot.get("min", value) <= value <= slot.get("max", value):
        yield f"{name} is {value}, outside {slot.get('min')} to {slot.get('max')}"

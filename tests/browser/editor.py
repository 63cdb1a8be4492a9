"""ComfyUI's editor as a user works with it: templates, files dropped on the canvas, Run, Cancel, help. Waits on conditions only."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hotpath.tools.client import Client

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

DESIGNS = ("classic", "nodes2")
READY = (
    "() => window.app?.extensionManager?.setting && window.app.graph && !document.querySelector('#vue-app .p-progressspinner')"
)

# Keeps what the server tells the editor, in order.
LISTEN = """() => {
    window.told = [];
    for (const kind of ['execution_start', 'execution_cached', 'progress', 'executed', 'execution_success',
                        'execution_error', 'execution_interrupted'])
        window.app.api.addEventListener(kind, event => window.told.push({kind, ...event.detail}));
    window.app.api.addEventListener('b_preview', () => window.told.push({kind: 'b_preview'}));
}"""

FILE = """([name, content]) => {
    const transfer = new DataTransfer();
    const bytes = Uint8Array.from(atob(content), letter => letter.charCodeAt(0));
    transfer.items.add(new File([bytes], name, {type: 'application/json'}));
    return transfer;
}"""

DISMISS = """() => {
    const toasts = [...document.querySelectorAll('.p-toast-close-button')];
    toasts.forEach(button => button.click());
    return !toasts.length;
}"""

# Every node as it is drawn: its frame in units of the canvas, title bar included, and what is wrong with it.
NODES = """() => {
    const {ds} = window.app.canvas, title = LiteGraph.NODE_TITLE_HEIGHT;
    return window.app.graph.nodes.map(node => {
        const drawn = document.querySelector(`[data-node-id="${node.id}"]`)?.getBoundingClientRect();
        if (LiteGraph.vueNodesMode && !drawn) return {id: node.id, type: node.type, missing: true};
        const frame = LiteGraph.vueNodesMode
            ? [drawn.x / ds.scale, drawn.y / ds.scale, drawn.width / ds.scale, drawn.height / ds.scale]
            : [node.pos[0], node.pos[1] - title, node.size[0], node.size[1] + title];
        return {
            id: node.id, type: node.type, title: node.title, frame,
            missing: !(node.type in LiteGraph.registered_node_types), red: !!node.has_errors,
            choices: (node.widgets ?? []).filter(w => w.type === 'combo' && Array.isArray(w.options.values))
                .map(w => [w.name, w.value, w.options.values.includes(w.value)]),
        };
    });
}"""

LINKS = """() => [...window.app.graph.links.values()].map(link => [link.id, link.origin_id, link.origin_slot, link.target_id, link.target_slot])"""

# Pictures that a node shows, as they are on the screen: [width, height] of each.
PICTURES = """id => {
    const node = window.app.graph.getNodeById(id);
    const shown = LiteGraph.vueNodesMode
        ? [...document.querySelectorAll(`[data-node-id="${id}"] img`)] : node.imgs ?? [];
    return shown.filter(image => image.complete && image.naturalWidth).map(image => [image.naturalWidth, image.naturalHeight]);
}"""


class Editor:
    """One page of the editor at `server`; `told` is what its websocket has brought since the last Run."""

    def __init__(self, page: Page, server: Client, screenshots: Path) -> None:
        self.page, self.server, self.screenshots = page, server, screenshots

    def open(self) -> None:
        """Loads the page, or loads it again."""
        self.page.goto(self.server.address, wait_until="commit")
        self.page.wait_for_function(READY)
        self.page.evaluate(LISTEN)

    def set(self, name: str, value: object) -> None:
        """Changes a setting at once, as the settings dialog does."""
        self.page.evaluate("([name, value]) => window.app.extensionManager.setting.set(name, value)", [name, value])

    def use(self, design: str) -> None:
        """Draws nodes on the classic canvas, or as Nodes 2.0."""
        modern = design == "nodes2"
        if self.page.evaluate("() => LiteGraph.vueNodesMode") != modern:
            self.set("Comfy.VueNodes.Enabled", modern)
            self.page.wait_for_function("modern => LiteGraph.vueNodesMode === modern", arg=modern)
            self.page.wait_for_function(DISMISS)  # what the editor says about the change

    def screenshot(self, name: str) -> None:
        """Keeps a picture of the screen as it is now, every frame drawn."""
        self.page.evaluate("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
        self.page.screenshot(path=self.screenshots / f"{name}.png")

    # ---- graphs

    def drop(self, path: Path, workflow: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Drags a workflow file from the desktop onto the canvas; `workflow` is dropped under its name instead, if given."""
        content = path.read_bytes() if workflow is None else json.dumps(workflow).encode()
        workflow = json.loads(content)
        self.page.evaluate("() => window.app.graph.clear()")
        transfer = self.page.evaluate_handle(FILE, [path.name, base64.b64encode(content).decode()])
        place = {"dataTransfer": transfer, "clientX": 800, "clientY": 500}
        for kind in ("dragenter", "dragover", "drop"):
            self.page.locator("#graph-canvas").dispatch_event(kind, place)
        self.loaded(workflow)
        return workflow

    def loaded(self, workflow: Mapping[str, Any]) -> None:
        """Waits until a workflow is on the canvas and drawn, and closes the tabs of earlier ones."""
        self.page.wait_for_function(
            "([id, count]) => window.app.graph.id === id && window.app.graph.nodes.length === count"
            " && (!LiteGraph.vueNodesMode || document.querySelectorAll('[data-node-id]').length === count)",
            arg=[workflow["id"], len(workflow["nodes"])],
        )
        self.page.evaluate("""async () => {
            const {workflow} = window.app.extensionManager;
            for (const open of [...workflow.openWorkflows]) if (open !== workflow.activeWorkflow) await workflow.closeWorkflow(open);
        }""")
        pictures = [node["id"] for node in workflow["nodes"] if node["type"] == "LoadImage"]
        for number in pictures:
            self.page.wait_for_function(f"id => ({PICTURES})(id).length", arg=number)
        self.still()

    def still(self) -> None:
        """Waits until no node moves or grows between two frames."""
        self.page.wait_for_function(f"""() => {{
            const frames = JSON.stringify(({NODES})().map(node => node.frame)), last = window.lastFrames;
            window.lastFrames = frames;
            return frames === last;
        }}""")

    def nodes(self) -> list[dict[str, Any]]:
        return self.page.evaluate(NODES)

    def links(self) -> list[list[int]]:
        return self.page.evaluate(LINKS)

    def pictures(self, node: int) -> list[list[int]]:
        return self.page.evaluate(PICTURES, node)

    def shows_picture(self, node: int, width_px: int = 64) -> None:
        """Waits until a node shows a picture at least so wide."""
        seen = f"([id, least]) => ({PICTURES})(id).some(([width]) => width >= least)"
        self.page.wait_for_function(seen, arg=[node, width_px])

    def add(self, kind: str) -> None:
        """Puts one node on an empty canvas, in the middle, and selects it."""
        self.page.evaluate(
            """kind => {
                window.app.clean();
                const {graph, canvas} = window.app;
                graph.clear();
                canvas.ds.scale = 1;
                canvas.ds.offset = [0, 0];
                const node = LiteGraph.createNode(kind);
                node.pos = [800, 250];
                graph.add(node);
                canvas.selectNode(node);
                canvas.setDirty(true, true);
            }""",
            kind,
        )
        self.still()

    # ---- running

    @property
    def told(self) -> list[dict[str, Any]]:
        return self.page.evaluate("() => window.told")

    def forget(self) -> None:
        """Empties the server's cache of results, so that the next run computes everything."""
        answer = self.page.context.request.post(f"{self.server.address}/api/free", data={"free_memory": True})
        assert answer.ok

    def run(self) -> None:
        """Clicks Run."""
        self.page.evaluate("() => { window.told = []; }")
        self.page.locator("[data-testid=queue-button] button").first.click()

    def ended(self, timeout_s: float = 60) -> str:
        """How the run ended: execution_success, execution_error or execution_interrupted."""
        ends = "(window.told.find(({kind}) => ['execution_success', 'execution_error', 'execution_interrupted'].includes(kind)) ?? {}).kind"
        return self.page.wait_for_function(f"() => {ends}", timeout=timeout_s * 1000).json_value()

    def cancel(self) -> None:
        """Clicks the cross beside Run."""
        self.page.locator(".execution-actions button").first.click()

    # ---- dialogs

    @property
    def dialog(self) -> Locator:
        return self.page.locator(".p-dialog")

    def close_dialog(self) -> None:
        self.dialog.get_by_role("button", name="Close").first.click()
        self.dialog.wait_for(state="detached")

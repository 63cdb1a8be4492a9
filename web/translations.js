// Shows our nodes in the editor's language. ComfyUI serves a pack's `locales`, but a frontend that loads a language on demand
// (seen in 1.32.9) then replaces what it had merged from packs, and their nodes stay English.
import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";

let translations = {};

app.registerExtension({
    name: "hotpath.translations",

    async init() {
        const answer = await api.fetchApi("/i18n");
        if (answer.ok) translations = await answer.json();
    },

    beforeRegisterNodeDef(nodeType, nodeData) {
        const language = app.extensionManager.setting.get("Comfy.Locale");
        const texts = nodeData.name.startsWith("Hotpath_") && translations[language]?.nodeDefs?.[nodeData.name];
        if (!texts) return;
        nodeType.title = nodeData.display_name = texts.display_name ?? nodeData.display_name;
        nodeData.description = texts.description ?? nodeData.description;
        for (const group of [nodeData.input?.required, nodeData.input?.optional])
            for (const [name, spec] of Object.entries(group ?? {}))
                if (spec[1] && texts.inputs?.[name]?.tooltip) spec[1].tooltip = texts.inputs[name].tooltip;
        for (const [index, output] of Object.entries(texts.outputs ?? {}))
            if (nodeData.output_tooltips && output.tooltip) nodeData.output_tooltips[index] = output.tooltip;
    },
});

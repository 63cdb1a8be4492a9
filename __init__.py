"""ComfyUI entry point. Importing this package imports nothing else, so it also works without ComfyUI."""

WEB_DIRECTORY = "./web"


async def comfy_entrypoint():
    from .nodes import Extension

    return Extension()

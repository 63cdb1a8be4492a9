"""hotpath for newcomers: one command to see it work, test it, serve it or time it.

    python tools/dev.py demo     run two example graphs on the bundled photographs; pictures land in ./hotpath-demo
    python tools/dev.py test     run the tests, on a real ComfyUI server too; further arguments go to pytest
    python tools/dev.py serve    start ComfyUI with this pack in it and open the browser
    python tools/dev.py bench    run the benchmarks; further arguments go to benchmarks/bench.py

Needs Python 3.10 or newer and nothing else. The first time, an environment and a pinned ComfyUI are built in your cache
folder (about 6 GB, some minutes); after that they are reused.

COMFYUI_PATH     use this ComfyUI, with its own Python, in place of the pinned one; nothing is installed into it
HOTPATH_PYTHON   the Python that runs that ComfyUI, where it is not in a venv beside it
HOTPATH_CACHE    the folder to build in, in place of the usual cache folder
HOTPATH_CHROMIUM the Chromium or Chrome for tests in a browser, where it is not on the path
HOTPATH_SCREENSHOTS  where those tests keep pictures of the screen, in place of runs/screenshots in the cache folder
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import os
import signal
import subprocess
import sys
import time
import webbrowser
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def name_the_clone() -> None:
    """Makes this clone importable as `hotpath`, whatever its folder is called."""
    spec = importlib.util.spec_from_file_location("hotpath", ROOT / "__init__.py", submodule_search_locations=[str(ROOT)])
    sys.modules["hotpath"] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)


def demo(options: argparse.Namespace, rest: list[str]) -> int:
    from hotpath.tools import demo

    return demo.run(options.out, options.photo, options.port)


def test(options: argparse.Namespace, rest: list[str]) -> int:
    from hotpath.tools import comfyui

    comfy, python = comfyui.prepare(tests=True)
    where = {"HOTPATH_COMFYUI": str(comfy.tree), "HOTPATH_PYTHON": str(comfy.python)}
    return run_python(python, ["-m", "pytest", *rest], where)


def bench(options: argparse.Namespace, rest: list[str]) -> int:
    from hotpath.tools import comfyui

    comfy, python = comfyui.prepare(tests=True)
    return run_python(python, [str(ROOT / "benchmarks" / "bench.py"), *rest], {"HOTPATH_COMFYUI": str(comfy.tree)})


def serve(options: argparse.Namespace, rest: list[str]) -> int:
    from hotpath.tools import comfyui, server
    from hotpath.tools.environment import cache_folder

    comfy, _ = comfyui.prepare()
    with server.running(comfy, cache_folder() / "serve", options.port) as client:
        server.require_pack(client)
        for photo in sorted((ROOT / "examples" / "images").glob("*.jpg")):
            client.upload(photo)
        print(
            f"{client.address}  (example graphs: Templates, hotpath; log: {client.log_file}; Ctrl-C stops it)",
            flush=True,
        )
        if not options.no_browser:
            webbrowser.open(client.address)
        while client.process.poll() is None:
            time.sleep(1)
    print(f"ComfyUI has stopped; see {client.log_file}.")
    return 1


def run_python(python: Path, arguments: list[str], variables: dict[str, str]) -> int:
    """Runs a Python program in the clone with `variables` set; its exit code."""
    from hotpath.tools.environment import cache_folder

    variables = {**os.environ, "HOTPATH_CACHE": str(cache_folder()), "HOTPATH_ROOT": str(ROOT), **variables}
    process = subprocess.Popen([str(python), *arguments], cwd=ROOT, env=variables)
    try:
        return process.wait()
    except BaseException:  # Ctrl-C has reached it too: let it stop its own servers before we insist
        for insist in (lambda: process.send_signal(signal.SIGINT), process.kill):
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(20)
                break
            insist()
        raise


def parse(arguments: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """The options of a command, and the arguments that `test` and `bench` pass on."""
    introduction, commands, notes = __doc__.split("\n\n", 2)
    parser = argparse.ArgumentParser(
        description=introduction, epilog=f"{commands}\n\n{notes}", formatter_class=argparse.RawDescriptionHelpFormatter
    )
    verbs = parser.add_subparsers(title="commands", required=True, metavar="demo | test | serve | bench")
    for command in (demo, serve):
        verb = verbs.add_parser(command.__name__)
        verb.add_argument("--port", type=int, help="the server's port on this machine (default: any free one)")
        verb.set_defaults(command=command)
    verb.add_argument("--no-browser", action="store_true", help="only print the address")
    verbs.choices["demo"].add_argument("--out", type=Path, default=Path("hotpath-demo"), help="where pictures go")
    verbs.choices["demo"].add_argument(
        "--photo", type=Path, action="append", default=[], help="a photograph of your own, may be repeated"
    )
    for command in (test, bench):
        verbs.add_parser(command.__name__, add_help=False).set_defaults(command=command)
    options, rest = parser.parse_known_args(arguments)
    if rest and options.command not in (test, bench):
        parser.error(f"expected no further arguments, got {' '.join(rest)}; see --help")
    return options, rest


def main(arguments: list[str]) -> int:
    if sys.version_info < (3, 10):  # noqa: UP036 - this file is what finds out
        print("Expected Python 3.10 or newer, got {}.{}; run this with a newer one.".format(*sys.version_info))
        return 2
    sys.stdout.reconfigure(errors="replace")
    for name in ("SIGTERM", "SIGHUP"):  # leave through the `finally`s, which stop the server
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), lambda number, _: sys.exit(128 + number))
    options, rest = parse(arguments)
    name_the_clone()
    from hotpath.tools.environment import Refusal

    try:
        return options.command(options, rest)
    except Refusal as refusal:
        print(refusal, file=sys.stderr)
        return 2
    except (ConnectionError, TimeoutError) as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nStopped.", file=sys.stderr)
        return 0 if options.command is serve else 130


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))

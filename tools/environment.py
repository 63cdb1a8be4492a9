"""The developer's Python environment: one venv in the user's cache folder, built once and reused by every clone."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

TORCH = ("torch==2.11.0", "torchvision==0.26.0", "torchaudio==2.11.0")
UNLISTED = ("requests",)  # ComfyUI 0.3.75 imports it and leaves it to other packages to bring, which newer ones do not
TEST_EXTRAS = (
    "pytest",
    "ruff",
    "comfy-test==0.4.15",
    "comfy-import-guard==1.3.0",
    "peft",
    "diffusers",
    "onnxruntime",
    "h5py",
    "opencv-contrib-python-headless==5.0.0.93",
    "scikit-learn",
    "matplotlib",
    "playwright",  # drives a Chromium that is on the machine; its own browsers are never downloaded
)

# Written into the environment as the package `hotpath`. It looks for the clone at import time, so that one environment
# serves several clones, whatever their folders are called, and nothing has to be installed again when a clone moves.
ALIAS = '''"""Stands in for a clone: HOTPATH_ROOT, else the one around the working directory, else the last one used."""
import os
import pathlib

_here = pathlib.Path.cwd()
_named = os.environ.get("HOTPATH_ROOT")
_is_clone = lambda folder: (folder / "tools" / "environment.py").is_file() and (folder / "engine").is_dir()
_root = pathlib.Path(_named) if _named else next(filter(_is_clone, (_here, *_here.parents)), pathlib.Path({root!r}))
__path__ = [str(_root)]
__file__ = str(_root / "__init__.py")
exec(compile(pathlib.Path(__file__).read_text(encoding="utf-8"), __file__, "exec"))
'''


class Refusal(Exception):
    """Something a person can put right. The message says what was expected, what came, and what to do."""


def cache_folder() -> Path:
    """HOTPATH_CACHE, else the operating system's usual cache folder for this user."""
    if named := os.environ.get("HOTPATH_CACHE"):
        folder = Path(named).expanduser()
    elif sys.platform == "win32":
        folder = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "hotpath"
    elif sys.platform == "darwin":
        folder = Path.home() / "Library" / "Caches" / "hotpath"
    else:
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hotpath"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        writable = os.access(folder, os.W_OK)
    except OSError:
        writable = False
    if not writable:
        raise Refusal(
            f"Expected a cache folder to write into, got {folder}, which is not writable; "
            "set HOTPATH_CACHE to a folder of yours with about 6 GB free."
        )
    return folder.resolve()


@contextlib.contextmanager
def stage(name: str) -> Iterator[Callable[[str], None]]:
    """Prints a line for one stage of work and the seconds it took; the yielded function shows what it is doing now."""
    began = shown = time.monotonic()
    live = sys.stdout.isatty()

    def show(text: str) -> None:
        nonlocal shown
        now = time.monotonic()
        if live:
            room = shutil.get_terminal_size().columns - 1
            print(f"\r{f'{name}: {now - began:4.0f} s  {text}'[:room]:{room}}", end="", flush=True)
        elif now - shown >= 15:
            shown = now
            print(f"{name}: {now - began:.0f} s  {text}"[:120], flush=True)

    def finish(outcome: str) -> None:
        line = f"{name}: {outcome} {time.monotonic() - began:.1f} s"
        print(f"\r{line:{shutil.get_terminal_size().columns - 1}}" if live else line, flush=True)

    show("")
    try:
        yield show
    except BaseException:
        finish("stopped after")
        raise
    finish("ready in")


def run_logged(argv: Sequence[str | Path], log: Path, show: Callable[[str], None]) -> None:
    """Runs a command with its output in `log`, showing the newest line; CalledProcessError if it fails."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as sink:
        process = subprocess.Popen([str(a) for a in argv], stdin=subprocess.DEVNULL, stdout=sink, stderr=sink)
        try:
            while True:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(0.5)
                    break
                show(last_lines(log, 1))
        except BaseException:
            process.kill()
            process.wait()
            raise
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, argv[0])


def last_lines(log: Path, count: int) -> str:
    """The last non-empty lines of a log file, read from its end."""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 200 * count - 2000))
        lines = [line.strip("\r ") for line in file.read().decode("utf-8", "replace").splitlines() if line.strip()]
    return "\n".join(lines[-count:])


@contextlib.contextmanager
def locked(name: str) -> Iterator[None]:
    """Holds a lock in the cache, so that two commands do not build the same thing; the system frees it if we die."""
    with (cache_folder() / f"{name}.lock").open("a+b") as file:
        if sys.platform == "win32":
            import msvcrt

            while True:
                with contextlib.suppress(OSError):  # gives up by itself after ten seconds
                    msvcrt.locking(file.fileno(), msvcrt.LK_LOCK, 1)
                    break
        else:
            import fcntl

            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                print(f"{name}: waiting for another command that is preparing it", flush=True)
                fcntl.flock(file, fcntl.LOCK_EX)
        yield


class Environment:
    """A venv whose layers of requirements are each marked by a stamp that is written last.

    While pip is at work a marker lies in the folder: pip takes a half-unpacked package for an installed one, so an
    environment whose last installation was cut off is built again from nothing.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or cache_folder() / f"env-{sys.implementation.cache_tag}"
        self.python = self.folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
        self.marker = self.folder / "installing"

    def stamp(self, layer: str) -> Path:
        return self.folder / f"{layer}.stamp"

    def usable(self) -> bool:
        """Whether the venv was completed, its interpreter still starts, and no installation was cut off in it."""
        if self.marker.exists() or not self.stamp("venv").exists() or not self.python.exists():
            return False
        return subprocess.run([str(self.python), "-c", ""], capture_output=True, check=False).returncode == 0

    def create(self) -> None:
        """Makes the bare venv unless a usable one is there."""
        if self.usable():
            return
        with stage("environment") as show:
            try:
                self.run_logged([sys.executable, "-m", "venv", "--clear", self.folder], "venv", show)
            except Refusal as error:
                raise Refusal(f"{error} On Debian and Ubuntu, `apt install python3-venv` may be what is missing.") from None
            self.stamp("venv").write_text("complete\n", encoding="utf-8")

    def install(self, layer: str, requirements: Sequence[str]) -> None:
        """Brings the venv to `requirements`, or returns at once when the stamp says that they are there."""
        self.create()
        digest = hashlib.sha256("\n".join(requirements).encode()).hexdigest()
        stamp = self.stamp(layer)
        if stamp.exists() and stamp.read_text(encoding="utf-8").strip() == digest:
            return
        with stage(f"packages for {layer}") as show:
            stamp.unlink(missing_ok=True)
            self.marker.touch()
            pip = [self.python, "-m", "pip", "install", "--no-input", "--progress-bar", "off", *requirements]
            try:
                self.run_logged(pip, f"pip-{layer}", show)
            except Refusal:
                self.marker.unlink()  # pip ended by itself and has rolled back
                raise
            stamp.write_text(digest + "\n", encoding="utf-8")
            self.marker.unlink()

    def write_alias(self, root: Path = ROOT) -> None:
        """Makes `import hotpath` and `python -m hotpath.training...` work in the venv without installing the pack."""
        library = self.folder / ("Lib" if os.name == "nt" else "lib/python{}.{}".format(*sys.version_info))
        write_alias(library / "site-packages", root)

    def run_logged(self, argv: Sequence[str | Path], name: str, show: Callable[[str], None]) -> None:
        log = cache_folder() / "logs" / f"{name}.log"
        try:
            run_logged(argv, log, show)
        except subprocess.CalledProcessError as error:
            if error.returncode < 0:  # killed: it has rolled nothing back
                raise
            raise Refusal(
                f"Expected `{name}` to finish, got exit code {error.returncode}; put right what the end of {log} says "
                f"and run the command again:\n{last_lines(log, 8)}\n"
            ) from None


def write_alias(folder: Path, root: Path = ROOT) -> None:
    """Writes a package `hotpath` into `folder` that stands in for the clone at `root`."""
    alias = folder / "hotpath" / "__init__.py"
    alias.parent.mkdir(parents=True, exist_ok=True)
    part = alias.with_suffix(f".{os.getpid()}.part")
    part.write_text(ALIAS.replace("{root!r}", repr(str(root))), encoding="utf-8")
    part.replace(alias)

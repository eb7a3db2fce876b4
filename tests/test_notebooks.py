"""The notebooks: committed without outputs, and each runs from its first cell to its last."""

import base64
import os
from pathlib import Path

import nbformat
import pytest

pytest.importorskip("nbclient", reason="the extra `notebooks` and the group `dev` bring what executes notebooks")
pytest.importorskip("ipykernel")

from forked_kernels import Kernel, forked_command
from hub_server import HubServer

from notebooks.execute import NOTEBOOKS, WIDGET, execute, without_widgets

TINY = {"NODULES": "18", "VAE_STEPS": "3", "LDM_STEPS": "3", "OMP_NUM_THREADS": "1"}
TWO_STEPS = """
from functools import partialmethod
from diffusion import LesionInpaintPipeline
LesionInpaintPipeline.__call__ = partialmethod(LesionInpaintPipeline.__call__, num_inference_steps=2)
"""
NAMES = [notebook.stem for notebook in NOTEBOOKS]


def texts(node: nbformat.NotebookNode) -> str:
    """All that the cells printed or returned, as text."""
    outputs = [output for cell in node.cells for output in cell.get("outputs", [])]
    return "\n".join(output.get("text") or output.get("data", {}).get("text/plain", "") for output in outputs)


def pictures(node: nbformat.NotebookNode) -> list[bytes]:
    outputs = [output for cell in node.cells for output in cell.get("outputs", [])]
    data = [output.get("data", {}) for output in outputs]
    return [base64.b64decode(kinds["image/png"]) for kinds in data if "image/png" in kinds]


@pytest.fixture
def tiny(tmp_path, monkeypatch) -> dict[str, str]:
    """Variables of a forked kernel that takes few steps of training, and of sampling by its IPython profile."""
    monkeypatch.setattr("jupyter_client.provisioning.local_provisioner.launch_kernel", Kernel)
    (commands := tmp_path / "bin").mkdir()
    forked_command(commands)
    startup = tmp_path / "ipython/profile_default/startup/two_steps.py"
    startup.parent.mkdir(parents=True)
    startup.write_text(TWO_STEPS)
    path = os.pathsep.join([str(commands), os.environ["PATH"]])
    return TINY | {"IPYTHONDIR": str(tmp_path / "ipython"), "PATH": path}


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=NAMES)
def test_a_notebook_is_committed_without_outputs(notebook):
    node = nbformat.read(notebook, as_version=4)
    nbformat.validate(node)
    code = [cell for cell in node.cells if cell.cell_type == "code"]
    assert code and not any(cell.outputs or cell.execution_count for cell in code)


@pytest.mark.slow
def test_a_lesion_is_inpainted_and_shown_in_a_viewer(tiny, tmp_path):
    pytest.importorskip("ipyniivue")
    made = execute(named("01_inpaint_a_lesion"), tmp_path, tiny)
    text = texts(made)
    assert "0 of 2457" in text  # no voxel outside the painted region
    assert "NiiVue" in text and len(pictures(made)) == 2
    assert any(WIDGET in output.get("data", {}) for cell in made.cells for output in cell.get("outputs", []))
    assert "NiiVue" not in texts(without_widgets(made))


@pytest.mark.slow
def test_character_is_asked_for(tiny, tmp_path):
    made = execute(named("02_guided_sampling"), tmp_path, tiny | {"LESION_DIFFUSION_STATIC": "1"})
    assert "NiiVue" not in texts(made) and len(pictures(made)) == 4  # the viewer has become a picture
    assert "'ground-glass': 1" in texts(made)


@pytest.mark.slow
def test_a_pipeline_is_trained_by_the_commands_shown(tiny, tmp_path):
    made = execute(named("03_train_on_your_data"), tmp_path, tiny)
    assert (tmp_path / "outputs/train_on_your_data/ldm/pipeline/model_index.json").is_file()
    assert len(pictures(made)) == 3


@pytest.mark.slow
def test_a_scan_of_ones_own_goes_in_and_comes_out(tiny, tmp_path):
    made = execute(named("04_use_your_own_scan"), tmp_path, tiny)
    assert "'changed_outside_paint': 0" in texts(made)
    assert (tmp_path / "outputs/use_your_own_scan/lesion/ct.nii.gz").is_file()


@pytest.mark.slow
def test_what_is_shared_comes_back_the_same(hub_server: HubServer, tiny, tmp_path):
    made = execute(named("05_share_on_the_hub"), tmp_path, tiny)
    assert "same lesion: True" in texts(made)
    assert "{'train': 6, 'validation': 6, 'test': 6}" in texts(made)
    assert hub_server.load("tester/lung-nodules")["private"]
    assert hub_server.load("datasets/tester/lung-nodules")["private"]


@pytest.mark.slow
def test_shapes_are_shown_and_a_pair_is_made(tiny, tmp_path):
    made = execute(named("06_shapes"), tmp_path, tiny | {"STEPS": "2"})
    text = texts(made)
    assert "0 voxels changed outside the painted ball" in text and "'kind': 'real'" in text
    assert len(pictures(made)) == 3


def named(stem: str) -> Path:
    return next(notebook for notebook in NOTEBOOKS if notebook.stem == stem)

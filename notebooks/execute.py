"""Execute the notebooks, each in a kernel and a folder of its own, and keep the copies for the documentation.

    uv run notebooks/execute.py            # all of them into build/notebooks, which `mkdocs build` then renders
    uv run notebooks/execute.py 02 05      # some

The fifth one needs a Hugging Face Hub: it gets the one of the tests, on 127.0.0.1. The notebooks in this folder are
committed without outputs; nothing here writes to them.
"""

import os
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import nbformat
from nbclient import NotebookClient

HERE = Path(__file__).parent
OUT = HERE.parent / "build" / "notebooks"
NOTEBOOKS = sorted(HERE.glob("*.ipynb"))
LIMIT_S = 1200  # of a cell, and of a kernel until it answers
STILL = {"LESION_DIFFUSION_STATIC": "1", "NO_COLOR": "1"}
WIDGET = "application/vnd.jupyter.widget-view+json"


def execute(notebook: Path, folder: Path, variables: Mapping[str, str]) -> nbformat.NotebookNode:
    """Run a notebook from its first cell to its last.

    Args:
        notebook: File.
        folder: Where its kernel starts, and leaves its files.
        variables: Environment variables beside this process's own.
    Returns: The notebook with outputs.
    Raises: nbclient.exceptions.CellExecutionError: If a cell fails.
    """
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])  # of `lesion-diffusion` and `hf`
    node = nbformat.read(notebook, as_version=4)
    resources = {"metadata": {"path": folder}}
    client = NotebookClient(node, timeout=LIMIT_S, startup_timeout=LIMIT_S, kernel_name="python3", resources=resources)
    return client.execute(env={**os.environ, "PATH": path, **variables})


def without_widgets(node: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """The notebook without progress bars and viewers, which a page shows as nothing."""
    for cell in node.cells:
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if WIDGET not in output.get("data", {})]
    return node


def main(names: list[str]) -> None:
    """Execute those whose name begins like one of `names`, or all."""
    sys.path.append(str(HERE.parent / "tests"))
    from hub_server import HubServer

    OUT.mkdir(parents=True, exist_ok=True)
    for notebook in NOTEBOOKS:
        if names and not notebook.name.startswith(tuple(names)):
            continue
        with tempfile.TemporaryDirectory() as folder:
            hub = HubServer(Path(folder) / "hub")
            hub.start()
            try:
                variables = STILL | hub.environment(Path(folder) / "hf_home")
                nbformat.write(without_widgets(execute(notebook, Path(folder), variables)), OUT / notebook.name)
            finally:
                hub.stop()
        print(f"wrote {OUT / notebook.name}")


if __name__ == "__main__":
    main(sys.argv[1:])

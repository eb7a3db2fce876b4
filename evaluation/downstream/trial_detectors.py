"""The detector that a virtual trial examines: a Python function, a command line, or a network of this project."""

import csv
import importlib
import shlex
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import SimpleITK as sitk
import torch
from safetensors.torch import load_file

from evaluation.downstream.tasks import heat_peaks, unet
from imaging.geometry import point_of_index, sample_grid
from imaging.window import to_norm

GRID_MM, MULTIPLE = 1.0, 4  # of this project's network: spacing, and what edges are a multiple of
COLUMNS = ("x", "y", "z", "score")


class Candidate(NamedTuple):
    """What a detector found.

    Attributes:
        x, y, z: Physical point, mm, LPS as in DICOM.
        score: Higher is surer.
    """

    x: float
    y: float
    z: float
    score: float


Detector = Callable[[sitk.Image], list[Candidate]]


def detector_of(source: str) -> Detector:
    """The detector that an option names.

    Args:
        source: A file `.safetensors` that evaluate_downstream.py kept; `module:function`, where the function takes a
            `SimpleITK.Image` in HU and returns rows x, y, z, score; or a command line with `{ct}`, a NIfTI file to
            read, and `{out}`, a CSV file to write with the columns x, y, z, score.
    Raises: ValueError: If it is none of these, or cannot be loaded.
    """
    if source.endswith(".safetensors"):
        return network_detector(Path(source))
    if "{ct}" in source and "{out}" in source:
        return lambda ct: run_command(source, ct)
    module, colon, name = source.partition(":")
    if not colon or " " in source:
        raise ValueError(
            f"detector {source!r}: expected a .safetensors file, module:function, or a command with {{ct}} and {{out}}"
        )
    try:
        function = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"detector {source!r}: {error}") from error
    return lambda ct: [Candidate(*(float(value) for value in row)) for row in function(ct)]


def network_detector(path: Path) -> Detector:
    """A heat-map network that `scripts/evaluate_downstream.py` trained for detection. Raises ValueError on others."""
    network = unet()
    try:
        network.load_state_dict(load_file(path))
    except Exception as error:
        raise ValueError(f"{path}: no detection network of evaluate_downstream.py ({error})") from error
    network.eval()

    @torch.no_grad()
    def detect(ct: sitk.Image) -> list[Candidate]:
        extent = np.array(ct.GetSize()[::-1]) * ct.GetSpacing()[::-1]
        edge = int(np.ceil(extent.max() / GRID_MM / MULTIPLE)) * MULTIPLE
        middle = point_of_index(ct, [(size - 1) / 2 for size in ct.GetSize()[::-1]])
        ct_hu, valid, grid = sample_grid(ct, middle, edge, GRID_MM)
        ct_norm = to_norm(ct_hu.astype(np.float32))
        heat = torch.sigmoid(network(torch.from_numpy(ct_norm)[None, None]).float())[0, 0].numpy() * (valid > 0)
        found = zip(*heat_peaks(heat), strict=True)
        places = [(point_of_index(grid, peak.tolist()), float(score)) for peak, score in found]
        return [Candidate(x, y, z, score) for (x, y, z), score in places]

    return detect


def run_command(command: str, ct: sitk.Image) -> list[Candidate]:
    """Run a command line on a scan. Raises ValueError, with its last line, if it fails or writes no such table."""
    with tempfile.TemporaryDirectory() as folder:
        given, written = Path(folder) / "ct.nii.gz", Path(folder) / "found.csv"
        sitk.WriteImage(ct, str(given))
        words = [word.replace("{ct}", str(given)).replace("{out}", str(written)) for word in shlex.split(command)]
        try:
            ended = subprocess.run(words, capture_output=True, text=True, check=False)
        except OSError as error:
            raise ValueError(f"detector {words[0]!r} could not be started: {error}") from error
        if ended.returncode or not written.is_file():
            said = (ended.stderr.strip().splitlines() or ["it said nothing"])[-1]
            raise ValueError(f"detector {words[0]!r} ended with {ended.returncode} and no table: {said}")
        with written.open(newline="") as lines:
            rows = list(csv.DictReader(lines))
    try:
        return [Candidate(*(float(row[name]) for name in COLUMNS)) for row in rows]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"detector {words[0]!r}: its table needs numbers in the columns {', '.join(COLUMNS)}"
        ) from error

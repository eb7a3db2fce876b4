"""A lesion into a scan of 512 x 512 x 300, NIfTI in and out and DICOM in and out: seconds and peak memory.

    uv run benchmarks/speed/whole_scan.py
    uv run benchmarks/speed/whole_scan.py --pipeline runs/ldm/pipeline --steps 50 --shape 100,256,256

Each case is scripts/inpaint.py in a process of its own, from its start to its end: imports, models, the scan in, the
lesion, the scan out; one run before them, not counted, leaves the libraries compiled to bytecode, as installers do. The
scan is the chest phantom, rendered at a third of the resolution, interpolated, with white noise, which compresses as
badly as a thin-slice CT does. CPU seconds hardly depend on what else runs; the wall clock does. Peak memory is the
process's (ru_maxrss: Linux). What is written is read back: both scans must be equal in the whole and differ from the
input in the painted region alone.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import numpy as np
import SimpleITK as sitk
from scipy.ndimage import distance_transform_edt

from diffusion.option_types import SamplerName
from foundation.config import SHIPPED_PIPELINE, ModelSource, launch, parse_config
from imaging.files.ct import read_ct, write_ct
from imaging.phantom.chest import chest_phantom, phantom_image

ROOT = Path(__file__).parents[2]
COARSE = 3  # voxels of the scan to one of the rendered phantom, along each axis
NOISE_HU = 20.0


@dataclass(frozen=True)
class Config:
    """What to measure.

    Attributes:
        pipeline: What paints.
        shape: Voxels of the scan along z, y, x.
        spacing_mm: Of the scan, z, y, x.
        steps: Denoising steps.
        scheduler: Sampler.
        threads: Of PyTorch and SimpleITK.
        rounds: How often each case is run; the fastest counts.
        work: Folder for the scans and the results; none takes a temporary one.
    """

    pipeline: ModelSource = SHIPPED_PIPELINE
    shape: tuple[int, int, int] = (300, 512, 512)
    spacing_mm: tuple[float, float, float] = (1.0, 0.7, 0.7)
    steps: int = 16
    scheduler: SamplerName = "default"
    threads: int = 2
    rounds: int = 1
    work: Path | None = None


class Usage(NamedTuple):
    """What one run took."""

    wall_s: float
    cpu_s: float
    peak_gib: float


def main(config: Config) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        work = config.work or Path(temporary)
        with ProcessPoolExecutor(1, get_context("spawn")) as pool:  # a child's peak begins at its parent's memory
            centre = ",".join(map(str, pool.submit(make_scans, config, work).result()))
        print(f"{config.shape} voxels, {config.steps} steps, {config.threads} threads, ", end="")
        print(f"{os.cpu_count()} cores, load before {os.getloadavg()[0]:.1f}\n")
        print("| in and out | seconds | CPU seconds | peak memory, GiB |\n|---|---|---|---|", flush=True)
        for name, source in (("NIfTI", work / "scan.nii.gz"), ("DICOM", work / "scan_dicom")):
            command = [sys.executable, str(ROOT / "scripts/inpaint.py"), "--ct", str(source), "--center", centre]
            command += ["--diameter-mm", "12", "--pipeline", str(config.pipeline), "--device", "cpu"]
            command += ["--steps", str(config.steps), "--scheduler", config.scheduler, "--out", str(work / name)]
            if name == "NIfTI":
                used([*command, "--steps", "1"], config.threads, work)
            best = min(used(command, config.threads, work) for _ in range(config.rounds))
            print(f"| {name} | {best.wall_s:.1f} | {best.cpu_s:.1f} | {best.peak_gib:.2f} |", flush=True)
        check(work)


def make_scans(config: Config, work: Path) -> tuple[int, ...]:
    """scan.nii.gz and, voxel for voxel the same, the series scan_dicom; the voxel deepest in the lung."""
    coarse_shape = [-(-size // COARSE) for size in config.shape]
    coarse_mm = [COARSE * mm for mm in config.spacing_mm]
    phantom = chest_phantom(coarse_shape, coarse_mm, n_nodules=0, seed=1)
    depth = distance_transform_edt(np.pad(phantom.lung_mask, 1), sampling=coarse_mm)[1:-1, 1:-1, 1:-1]
    centre = np.array(np.unravel_index(depth.argmax(), depth.shape)) * COARSE
    if not (work / "scan.nii.gz").exists():
        grid = sitk.Image(config.shape[::-1], sitk.sitkInt16)
        grid.SetSpacing(config.spacing_mm[::-1])
        smooth = sitk.Resample(
            sitk.Cast(phantom_image(phantom), sitk.sitkFloat32),
            grid,
            sitk.Transform(),
            sitk.sitkLinear,
            -1000.0,
            sitk.sitkFloat32,
            useNearestNeighborExtrapolator=True,
        )
        ct_hu = sitk.GetArrayViewFromImage(smooth)
        rng = np.random.default_rng(0)
        noisy = np.empty(config.shape, np.int16)
        for place, plane in zip(noisy, ct_hu, strict=True):
            place[:] = np.rint(np.maximum(plane + NOISE_HU * rng.standard_normal(plane.shape, np.float32), -1024))
        scan = sitk.GetImageFromArray(noisy)
        scan.CopyInformation(grid)
        write_ct(scan, work / "scan.nii.gz")
    if not (work / "scan_dicom").exists():
        sys.path.append(str(ROOT / "tests"))
        from dicom_factory import write_dicom_series

        noisy = sitk.GetArrayFromImage(read_ct(work / "scan.nii.gz"))
        write_dicom_series(work / "scan_dicom", noisy, config.spacing_mm, origin_xyz_mm=(0, 0, 0))
    return tuple(centre.tolist())


def used(command: list[str], threads: int, work: Path) -> Usage:
    """Run a command to its end, with bytecode kept in `work`."""
    count = str(threads)
    variables = {"OMP_NUM_THREADS": count, "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS": count, "PYTHONPATH": str(ROOT)}
    variables |= {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": str(work / "bytecode")}
    started = time.perf_counter()
    process = subprocess.Popen(command, env=os.environ | variables, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise ValueError(f"{' '.join(command)}: ended with status {os.waitstatus_to_exitcode(status)}")
    seconds = time.perf_counter() - started
    return Usage(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 2**20)


def check(work: Path) -> None:
    """The two results are one, and differ from the scan where the record says."""
    before, nifti, dicom = (
        sitk.GetArrayFromImage(read_ct(path))
        for path in (work / "scan.nii.gz", work / "NIfTI/ct.nii.gz", work / "DICOM/ct")
    )
    painted = sitk.GetArrayFromImage(sitk.ReadImage(str(work / "NIfTI/paint_mask.nii.gz"))) > 0
    noise = json.loads((work / "DICOM/record.json").read_text())["noise"]
    if not np.array_equal(nifti, dicom):
        raise ValueError(f"{work}: the NIfTI and the DICOM result differ, expected the same voxels")
    if not np.array_equal(nifti[~painted], before[~painted]) or np.array_equal(nifti, before):
        raise ValueError(f"{work}: expected a change in the painted region and nowhere else")
    print("\nboth results are the same, to the bit, and outside the painted region the scan's; ", end="")
    print(f"noise: {noise}")


if __name__ == "__main__":
    launch(main, parse_config(Config))

"""Make lesions by the thousand: into the scans of a folder, at sites and with characters that are drawn.

python scripts/synthesize.py --scans scan_folder --existing-masks mask_folder --lesions 300 --out data/synthetic
python scripts/synthesize.py --scans scan_folder --no-nodules-known true ...    # scans of which no nodule is known
torchrun --nproc-per-node 8 scripts/synthesize.py ...        # or accelerate launch; several nodes as they say
python scripts/synthesize.py ... --shard 7/100               # of a job array, each as one process or more

An output is a whole scan with its lesions: out/scans/000012/ holds ct.nii.gz, lesions.nii.gz (0, and n where the n-th
lesion is), both on the scan's grid, and lesions.parquet. The source lends its voxels to many outputs, so 50,000
lesions at 3 a scan are 17,000 scans of some 80 MB; --write crops keeps a box of some 1 MB for each lesion instead.

Nodules that are in a scan already are no background: --existing-masks names them. They are labelled after the new
lesions, each has a row with its source, and no lesion is put within 10 mm of them.

A lesion's character (diameter, ratings, HU) is that of a real training lesion drawn at random, or even over stated
ranges; its site is drawn from the free lung. A sample that does not pass is tried again at another site, with the same
character. Every sample, made or rejected and why, is a row of out/manifest.parquet.

Same seed, same lesions, by any number of processes on one kind of device. An output appears complete or not at all, and
a process takes what is not there yet: the same command continues a run that was killed, and a larger --lesions adds to
it. Until the last process has written the manifest, `datasets.load_dataset("parquet",
data_files="out/scans/*/lesions.parquet")` has what there is.
"""

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from diffusion.option_types import ShapeKind
from diffusion.sampling.loading import SamplingConfig, load_pipeline, weights_of
from foundation.config import (
    ExistingFile,
    ExistingFolder,
    ExistingPath,
    WeightsSource,
    config_dict,
    launch,
    read_arguments,
)
from foundation.shards import own_part, parse_shard
from imaging.lesions.site_names import check_site, needs_lobes
from imaging.option_types import LayoutName

MOST_PER_SCAN = 255  # labels of an 8-bit mask


@dataclass(frozen=True, kw_only=True)
class SynthesizeConfig(SamplingConfig):
    """What to make, and what to let pass; `attributes` are requested of every lesion in place of what is drawn.

    Attributes:
        scans: Folder in which scans are looked for at any depth: DICOM series, NIfTI and MetaImage files.
        existing_masks: The nodules that are in the scans already: a file, or a folder in which files are looked for at
            any depth. A label image on the scan's grid has the scan's name, and is all 0 for a scan without nodules; a
            LIDC XML, a DICOM segmentation and a DICOM structure set name their series.
        no_nodules_known: Take a scan without such a file as one without nodules; the manifest then says "none known".
        site: Where lesions lie: auto (as far from the wall as real nodules), free, pleural, vessel, fissure, or
            lobe=RUL (RML, RLL, LUL, LLL); see `imaging.lesions.sites`.
        lobes: The lobes, for the sites fissure and lobe=: a segmentation of TotalSegmentator or lungmask for each scan,
            with the scan's name, in a folder of their own.
        lesions: How many, a multiple of `lesions_per_scan`.
        lesions_per_scan: In each output.
        shape: "real", outlines of real nodules that were rated as the lesion is to be, "procedural", or "learned", made
            for their places by the pipeline of `paired`.
        population: "real", characters of real lesions, or "uniform", each attribute that has a range by itself.
        ranges: Which real lesions, or from what, for example `--ranges.diameter_mm 6,12 --ranges.texture 1,2`.
        balance: Shares of sizes, textures and malignancy: "equal" over the classes of
            evaluation/lesions/balance_equal.csv, "lidc" as the nodules of LIDC-IDRI are, or a CSV table with the
            columns attribute, low, high and share. Real lesions are then drawn by these shares.
        reference: What measure_real_lesions.py wrote; null takes that of the shipped pipeline's training patients.
        attempts: Samples that are tried for each lesion.
        least_lung: Share of a mask that must lie in the lung, where the site is free. At other sites a mask is cut
            where the lung ends, if half of it or more lies in the lung.
        hu_tolerance: How far a lesion's mean may be from the one that was requested; null lets all pass.
        least_plausibility: Share of real lesions that are as unlike the others; 0 lets all pass.
        least_dice: Of a solid lesion's own outline with its label; also lets nothing pass that leaves much of its label
            empty. null is 0.8 for a pipeline with detailed maps, whose masks end where the lesion does, and else 0,
            which lets all pass.
        write: "scans", "crops" or "both".
        layout: Also write the finished set for the training of "nnunet", "nndetection", "monai" or "coco3d", into a
            folder of that name in `out`, with the scans that `existing_masks` names. scripts/export_layout.py has
            more options.
        shard: i/n, the i-th of n parts of the work, from 1/n to n/n.
        batch_size: Lesions that are painted at a time, of one scan or of several. Another size rounds differently, so
            that a few voxels are 1 HU off.
        threads: Of each process on a CPU; more processes use a machine better than more threads.
        max_minutes: Ends a process cleanly after its output in hand; null never does.
    """

    scans: ExistingFolder
    lesions: int
    existing_masks: ExistingPath | None = None
    no_nodules_known: bool = False
    site: str = "auto"
    lobes: ExistingPath | None = None
    lesions_per_scan: int = 3
    shape: ShapeKind = "real"
    population: Literal["real", "uniform"] = "real"
    ranges: dict[str, tuple[float, float]] = field(default_factory=lambda: {"diameter_mm": (4.0, 30.0)})
    balance: WeightsSource | None = None
    reference: ExistingFile | None = None
    attempts: int = 4
    least_lung: float = 0.98
    hu_tolerance: float | None = 150.0
    least_plausibility: float = 0.05
    least_dice: float | None = None
    write: Literal["scans", "crops", "both"] = "scans"
    layout: LayoutName | None = None
    shard: str = "1/1"
    batch_size: int = 4
    threads: int | None = 1
    max_minutes: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.existing_masks is None and not self.no_nodules_known:
            raise ValueError(
                "nodules that are in the scans already would be labelled as background: name them by --existing-masks, "
                "a folder of label images, LIDC XML or DICOM files; or pass --no-nodules-known true if none is known"
            )
        for name, low in (("lesions", 1), ("lesions_per_scan", 1), ("attempts", 1), ("batch_size", 1)):
            if getattr(self, name) < low:
                raise ValueError(f"{name} {getattr(self, name)}, expected at least {low}")
        if self.lesions % self.lesions_per_scan or self.lesions_per_scan > MOST_PER_SCAN:
            raise ValueError(
                f"lesions {self.lesions}, lesions_per_scan {self.lesions_per_scan}: expected a multiple of the second, "
                f"which is at most {MOST_PER_SCAN}, so that every scan has as many"
            )
        for name in ("least_lung", "least_plausibility", "least_dice"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise ValueError(f"{name} {value}, expected a share from 0 to 1")
        if self.layout and self.write == "crops":
            raise ValueError(f"layout {self.layout}: is made of whole scans; take --write scans or both")
        if self.hu_tolerance is not None and not self.hu_tolerance > 0:
            raise ValueError(f"hu_tolerance {self.hu_tolerance}, expected HU above 0, or null")
        parse_shard(self.shard)
        if needs_lobes(check_site(self.site)) and self.lobes is None:
            raise ValueError(f"--site {self.site} needs --lobes, a segmentation by TotalSegmentator or lungmask")


ARGUMENTS = read_arguments(SynthesizeConfig, __name__)

import hashlib
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import lru_cache

import numpy as np
import SimpleITK as sitk
from filelock import FileLock, Timeout
from tqdm.auto import tqdm

from diffusion.shapes import missing_shapes, shapes_for
from evaluation.lesions.acceptance import Acceptance, least_dice_of
from evaluation.lesions.balance import LesionClass, achieved, balance_table, read_balance, write_balance
from evaluation.lesions.characters import characters_of
from evaluation.lesions.painting import run_scans
from evaluation.lesions.real_lesions import SHIPPED, load_real_lesions
from evaluation.lesions.synthesis import (
    Made,
    Row,
    ScanSteps,
    Synthesis,
    check_requests,
    generator,
    read_scan,
    scan_with_lesions,
)
from foundation.atomic import write_atomically
from foundation.claimed_folder import claim_shared_folder, folder_lock
from imaging.dataset.existing_nodules import pair_existing, scans_with_existing
from imaging.dataset.manifest import join_manifests
from imaging.dataset.patients import patient_of
from imaging.dataset.synthetic_scans import ROWS, write_synthetic_scan
from imaging.files.scan_folder import find_scans
from imaging.layouts.cases import real_cases, synthetic_cases
from imaging.layouts.export import export_layout
from imaging.layouts.folds import check_folds
from imaging.layouts.layout import Title


def main(config: SynthesizeConfig) -> None:
    """Check everything, make this process's outputs, and the manifest when all are there."""
    started = time.monotonic()
    if config.out.resolve().is_relative_to(config.scans.resolve()):
        raise ValueError(f"--out {config.out}: lies below --scans {config.scans}, where it would be taken for a source")
    scans, existing = scans_and_masks(config)
    if config.layout:
        check_folds((patient_of(scan, config.scans) for scan in scans), None)
    real = load_real_lesions(config.reference or SHIPPED)
    classes = read_balance(config.balance) if config.balance else []
    characters = characters_of(config.population, config.ranges, real, classes)
    pipeline, folder = load_pipeline(config)
    pipeline.set_progress_bar_config(disable=True)
    check_requests(pipeline, config.attributes, characters, {one.attribute: None for one in classes})
    grid = (pipeline.config["crop_size"], pipeline.config["spacing_mm"])
    least_dice = least_dice_of(pipeline, config.least_dice)
    acceptance = Acceptance(real, *grid, config.hu_tolerance, config.least_plausibility, least_dice)
    note = missing_shapes(pipeline, config.shape)
    if note:
        print(f"note: {note}")
    limits = (config.least_lung, config.attempts, config.seed)
    shapes = shapes_for(pipeline, config.shape)
    where = (config.site, paired_lobes(config, scans))
    synthesis = Synthesis(pipeline, config.call_options(), characters, acceptance, *limits, shapes, *where)
    known = {"balance": [list(one) for one in classes]} if classes else {}
    claim(config, scans, existing, {**weights_of(config, pipeline, folder), **known, "device": pipeline.device.type})

    source = {number: scans[scan_of(config, number, len(scans))] for number in range(outputs(config))}
    mine = own_part(sorted(source, key=lambda number: (source[number], number)), config.shard)  # each scan is read once
    hidden = os.environ.get("LOCAL_RANK", "0") != "0"
    with tqdm(total=len(mine), desc=config.out.name, unit="scan", disable=hidden) as bar:
        made, there = make_outputs(
            config, {number: source[number] for number in mine}, existing, synthesis, started, bar
        )
    print(f"this process's share: {made} of {len(mine)} scans made, {there} there already or in other hands")
    finish(config, existing, classes)


def scans_and_masks(config: SynthesizeConfig) -> tuple[list[Path], dict[Path, Path]]:
    """The scans, and for each the file that names its own nodules, if there is one."""
    masks = config.existing_masks
    if masks is None:
        return find_scans(config.scans), {}
    scans, existing = scans_with_existing(config.scans, masks)
    without = [path for path in scans if path not in existing]
    if without and not config.no_nodules_known:
        name = without[0].relative_to(config.scans)
        raise ValueError(
            f"--existing-masks {masks}: no file for {len(without)} of {len(scans)} scans, the first is {name}; add a "
            "label image of this name (all 0 where there is no nodule), or the LIDC XML, DICOM segmentation or "
            "structure set of its series; or pass --no-nodules-known true to take these scans as ones without nodules"
        )
    return scans, existing


def paired_lobes(config: SynthesizeConfig, scans: list[Path]) -> dict[Path, Path]:
    """The file with the lobes of each scan, where there are any."""
    if config.lobes is None:
        return {}
    pairs = pair_existing(config.lobes, config.scans, scans)
    for scan in scans:
        if scan not in pairs:
            name = scan.relative_to(config.scans)
            raise ValueError(f"--lobes {config.lobes}: no file with the name of the scan {name}; add its segmentation")
    return pairs


def claim(
    config: SynthesizeConfig, scans: list[Path], existing: Mapping[Path, Path], weights: Mapping[str, Any]
) -> None:
    """Write the settings into the folder, or check that they are those of its outputs."""
    names = [str(path.relative_to(config.scans)) for path in scans]
    free = (
        "out",
        "vae",
        "device",
        "scans",
        "reference",
        "lesions",
        "shard",
        "threads",
        "max_minutes",
        "layout",
        "balance",
    )
    settings = {name: value for name, value in config_dict(config).items() if name not in free}
    settings["scans"] = f"{len(names)} scans, names {hashlib.sha256(chr(0).join(names).encode()).hexdigest()[:16]}"
    digest = hashlib.sha256(b"".join(hashlib.sha256(existing[scan].read_bytes()).digest() for scan in sorted(existing)))
    settings["existing_masks"] = f"{len(existing)} files, contents {digest.hexdigest()[:16]}"
    settings["lobes"] = config.lobes is not None
    settings["reference_sha256"] = hashlib.sha256((config.reference or SHIPPED).read_bytes()).hexdigest()
    claim_shared_folder(config.out, {**settings, **weights})
    beyond = [path.name for path in (config.out / "scans").glob("[0-9]*") if int(path.name) >= outputs(config)]
    if beyond:
        raise ValueError(
            f"{config.out}: holds scan {max(beyond)}, more than --lesions {config.lesions} asks for; ask for as many"
        )


def outputs(config: SynthesizeConfig) -> int:
    return config.lesions // config.lesions_per_scan


def output_folder(config: SynthesizeConfig, number: int) -> Path:
    return config.out / "scans" / f"{number:06d}"


def scan_of(config: SynthesizeConfig, number: int, count: int) -> int:
    """Which scan an output is made from: all in a new order, again and again."""
    epoch, position = divmod(number, count)
    return int(_order(config.seed, epoch, count)[position])


@lru_cache(maxsize=8)
def _order(seed: int, epoch: int, count: int) -> np.ndarray:
    return generator(seed, "scan", epoch).permutation(count)


def make_outputs(
    config: SynthesizeConfig,
    sources: Mapping[int, Path],
    existing: Mapping[Path, Path],
    synthesis: Synthesis,
    started: float,
    bar: tqdm,
) -> tuple[int, int]:
    """Make outputs side by side; how many were made, and how many were there or in another process's hands."""
    locks: dict[int, FileLock] = {}
    made = there = 0

    def written(number: int, result: Made | tuple[list[Row], None, None]) -> None:
        nonlocal made
        write_output(config, number, sources[number], result)
        locks.pop(number).release()
        made += 1
        bar.update()

    def begun() -> Iterator[tuple[int, ScanSteps]]:
        nonlocal there
        for number, path in sources.items():
            if config.max_minutes is not None and time.monotonic() - started > 60 * config.max_minutes:
                print(f"time limit of {config.max_minutes:g} minutes: run the same command to go on")
                return
            folder = output_folder(config, number)
            lock = folder_lock(config.out, folder.name, timeout_s=0)
            with suppress(Timeout):
                lock.acquire()
            if not lock.is_locked or folder.exists():
                lock.release()
                there += 1
                bar.update()
                continue
            locks[number] = lock
            lesions = range(number * config.lesions_per_scan, (number + 1) * config.lesions_per_scan)
            try:
                scan = read_scan(path, existing.get(path), synthesis.lobes.get(path))
            except ValueError as error:
                failed = {"source": "synthetic", "attempt": 0, "accepted": False}
                failed |= {"reason": "scan not usable", "detail": str(error)}
                written(number, ([{**failed, "lesion": lesion} for lesion in lesions], None, None))
            else:
                yield number, scan_with_lesions(synthesis, scan, lesions)

    for number, result in run_scans(synthesis, begun(), config.batch_size):
        written(number, result)
    return made, there


def write_output(
    config: SynthesizeConfig, number: int, path: Path, made: tuple[list[Row], sitk.Image | None, sitk.Image | None]
) -> None:
    """Write the rows, the CT and the labels of an output; its folder appears complete or not at all."""
    folder, (rows, ct, labels) = output_folder(config, number), made
    scan, patient = str(path.relative_to(config.scans)), patient_of(path, config.scans)
    known = {"output": folder.name, "scan": scan, "patient": patient}
    rows = [{**row, **known} for row in rows]
    write_atomically(folder, lambda temporary: write_synthetic_scan(temporary, rows, ct, labels, config.write))


def finish(config: SynthesizeConfig, existing: Mapping[Path, Path], classes: list[LesionClass]) -> None:
    """Join the manifest, say what came of it and write balance and layout, if all outputs are there."""
    folders = [output_folder(config, number) for number in range(outputs(config))]
    missing = sum(not folder.exists() for folder in folders)
    if missing:
        print(f"{missing} of {len(folders)} scans are not there yet; the last process to end writes the manifest")
        return
    with folder_lock(config.out, "manifest"):
        table = join_manifests((folder / ROWS for folder in folders), config.out / "manifest.parquet")
    accepted = table["accepted"].to_pylist()
    reasons = Counter(reason for reason in table["reason"].to_pylist() if reason)
    said = ", ".join(f"{reason} {count}" for reason, count in reasons.most_common()) or "none"
    print(f"{sum(accepted)} of {config.lesions} lesions in {config.out}; samples rejected: {said}")
    if classes:
        balance = achieved(classes, table.select(["balance", "lesion", "accepted"]).to_pydict())
        write_atomically(config.out / "balance.csv", lambda temporary: write_balance(temporary, balance))
        print(balance_table(balance))
    if config.layout:
        with folder_lock(config.out, "layout"):
            cases = [*synthetic_cases(config.out, {}), *real_cases(config.scans, existing, {})]
            export_layout(config.layout, cases, config.out / config.layout, Title())


if __name__ == "__main__":
    launch(main, ARGUMENTS)

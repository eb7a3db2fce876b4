"""Make lesions by the thousand: into the scans of a folder, at sites and with characters that are drawn.

python scripts/synthesize.py --scans scan_folder --lesions 300 --lesions-per-scan 3 --out data/synthetic
torchrun --nproc-per-node 8 scripts/synthesize.py ...        # or accelerate launch; several nodes as they say
python scripts/synthesize.py ... --shard 7/100               # of a job array, each as one process or more

An output is a whole scan with its lesions, for that is what a detector trains on: out/scans/000012/ holds ct.nii.gz,
lesions.nii.gz (0, and n where the n-th lesion is), both on the source's grid, and lesions.parquet. The source lends its
voxels to many outputs, so 50,000 lesions at 3 a scan are 17,000 scans of some 80 MB; --write crops keeps of each lesion
a box instead, LESION_ct.nii.gz and LESION_mask.nii.gz at some 1 MB, on the same grid.

A lesion's character (diameter, ratings, HU) is that of a real training lesion drawn at random, or even over stated
ranges. Its site is drawn from the free lung. What comes of it is measured, and rejected where it lies outside the lung,
its HU are not what was requested, or it is less plausible than --least-plausibility
(evaluation/lesions/real_lesions.py); then another site and other noise are tried, --attempts in all, with the same
character, so that easy ones are not favoured more than they must be. Every sample, made or rejected and why, is a row
of out/manifest.parquet; a lesion of which all are rejected is missing in its scan.

Same seed, same lesions: the character of lesion i is drawn from (seed, i), its mask, site and noise from (seed, i,
attempt), its scan from (seed, i // lesions_per_scan), and no two outputs know of each other. So neither the number of
processes nor their order matters, on one kind of device, and a larger --lesions continues a finished run. An output
appears complete or not at all, with its rows; a process takes what is not there yet, under a lock that the system lifts
when the process dies. So a run that was killed is continued by the same command, and one that runs already is not
disturbed. Processes do not talk to each other: whichever finds all outputs there writes the manifest. Until then
`datasets.load_dataset("parquet", data_files="out/scans/*/lesions.parquet")` has what there is.
"""

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from diffusion.sampling.loading import SamplingConfig, load_pipeline, weights_of
from foundation.config import ExistingFile, ExistingFolder, config_dict, launch, read_arguments

Population = Literal["real", "uniform"]
MOST_PER_SCAN = 255  # labels of an 8-bit mask


@dataclass(frozen=True, kw_only=True)
class SynthesizeConfig(SamplingConfig):
    """What to make, and what to let pass; `attributes` are requested of every lesion in place of what is drawn.

    Attributes:
        scans: Folder in which scans are looked for at any depth: DICOM series, NIfTI and MetaImage files.
        lesions: How many, a multiple of `lesions_per_scan`.
        lesions_per_scan: In each output.
        population: "real", characters of real lesions, or "uniform", each attribute that has a range by itself.
        ranges: Which real lesions, or from what, for example `--ranges.diameter_mm 6,12 --ranges.texture 1,2`.
        reference: What measure_real_lesions.py wrote; null takes that of the shipped pipeline's training patients.
        attempts: Samples that are tried for each lesion.
        least_lung: Share of a mask that must lie in the lung.
        hu_tolerance: How far a lesion's mean may be from the one that was requested; null lets all pass.
        least_plausibility: Share of real lesions that are as unlike the others; 0 lets all pass.
        write: "scans", "crops" or "both".
        shard: i/n, the i-th of n parts of the work, from 1/n to n/n.
        threads: Of each process on a CPU; more processes use a machine better than more threads.
        max_minutes: Ends a process cleanly after its output in hand; null never does.
    """

    scans: ExistingFolder
    lesions: int
    lesions_per_scan: int = 3
    population: Population = "real"
    ranges: dict[str, tuple[float, float]] = field(default_factory=lambda: {"diameter_mm": (4.0, 30.0)})
    reference: ExistingFile | None = None
    attempts: int = 4
    least_lung: float = 0.98
    hu_tolerance: float | None = 150.0
    least_plausibility: float = 0.05
    write: Literal["scans", "crops", "both"] = "scans"
    shard: str = "1/1"
    threads: int = 1
    max_minutes: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, low in (("lesions", 1), ("lesions_per_scan", 1), ("attempts", 1), ("threads", 1)):
            if getattr(self, name) < low:
                raise ValueError(f"{name} {getattr(self, name)}, expected at least {low}")
        if self.lesions % self.lesions_per_scan or self.lesions_per_scan > MOST_PER_SCAN:
            raise ValueError(
                f"lesions {self.lesions}, lesions_per_scan {self.lesions_per_scan}: expected a multiple of the second, "
                f"which is at most {MOST_PER_SCAN}, so that every scan has as many"
            )
        for name in ("least_lung", "least_plausibility"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} {getattr(self, name)}, expected a share from 0 to 1")
        if self.hu_tolerance is not None and not self.hu_tolerance > 0:
            raise ValueError(f"hu_tolerance {self.hu_tolerance}, expected HU above 0, or null")
        self.part()

    def part(self) -> tuple[int, int]:
        """(i, n) of `shard`, i from 0."""
        i, slash, n = self.shard.partition("/")
        if not (slash and i.isdecimal() and n.isdecimal() and 1 <= int(i) <= int(n)):
            raise ValueError(f"shard {self.shard!r}, expected i/n with i from 1 to n, such as 1/4")
        return int(i) - 1, int(n)


ARGUMENTS = read_arguments(SynthesizeConfig, __name__)

import hashlib
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import SimpleITK as sitk
import torch
from filelock import Timeout
from prepare_scans import find_scans
from tqdm.auto import tqdm

from diffusion import LesionInpaintPipeline
from diffusion.attributes import SCALES, check_attribute
from evaluation.lesions.characters import Character, Characters, characters_of
from evaluation.lesions.lesion_sets import Lesion
from evaluation.lesions.real_lesions import SHIPPED, RealLesions, load_real_lesions
from foundation.atomic import write_atomically
from foundation.claimed_folder import claim_shared_folder, folder_lock
from imaging.dataset.crop import crop_nodule
from imaging.dataset.manifest import join_manifests, write_rows
from imaging.files.ct import read_ct, write_ct
from imaging.geometry import index_of_point
from imaging.lesions.mask import grown_mask
from imaging.lesions.measured_attributes import measured_attributes
from imaging.lesions.shapes import lesion_mask_image
from imaging.lesions.sites import FreeLung, free_lung, free_lung_sites

STREAMS = ("scan", "character", "sample")
APART_MM = 10.0  # lung between two lesions of a scan
AROUND_MM = 12.0  # more than half the model's grid: a lesion's middle is not its site
USUAL = {"lobulation": 2.0, "spiculation": 1.5}  # of a mask where nothing says it; as scripts/inpaint.py
CROP_MM = 64.0  # of a lesion that is kept as a crop
ROWS = "lesions.parquet"


class Tools(NamedTuple):
    """What every output is made with."""

    pipeline: LesionInpaintPipeline
    real: RealLesions
    characters: Characters
    asks: Sequence[str]  # attributes that the pipeline knows


class Scan(NamedTuple):
    """A source; arrays (D, H, W)."""

    ct: sitk.Image
    lung: FreeLung


class Placed(NamedTuple):
    """A sample that has a site: the part of the scan around it, and its mask there."""

    row: dict[str, Any]
    requested: Mapping[str, float]
    site: tuple[float, float, float]
    box: tuple[slice, slice, slice]  # z, y, x
    ct: sitk.Image
    mask: sitk.Image
    claimed: np.ndarray  # what will be painted


class Painted(NamedTuple):
    """A placed sample that has been painted, or the reason why not; the row is complete."""

    placed: Placed
    ct: np.ndarray | None
    paint_mask: np.ndarray | None


def generator(seed: int, stream: str, *numbers: int) -> np.random.Generator:
    """NumPy generator of one stream (one of STREAMS) for the thing with these numbers, and of nothing else."""
    return np.random.default_rng([seed, STREAMS.index(stream), *numbers])


def main(config: SynthesizeConfig) -> None:
    """Check everything, make this process's outputs, and the manifest when all are there."""
    started = time.monotonic()
    torch.set_num_threads(config.threads)
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(config.threads)
    scans = listed_scans(config)
    real = load_real_lesions(config.reference or SHIPPED)
    characters = characters_of(config.population, config.ranges, real)
    pipeline, folder = load_pipeline(replace(config, device=own_device(config.device)))
    pipeline.set_progress_bar_config(disable=True)
    tools = Tools(pipeline, real, characters, known_attributes(config, pipeline))
    claim(config, scans, {**weights_of(config, pipeline, folder), "device": pipeline.device.type})

    mine = own_outputs(config, scans)
    made = there = 0
    for number in tqdm(mine, desc=config.out.name, unit="scan", disable=os.environ.get("LOCAL_RANK", "0") != "0"):
        if config.max_minutes is not None and time.monotonic() - started > 60 * config.max_minutes:
            print(f"time limit of {config.max_minutes:g} minutes: run the same command to go on")
            break
        if make_output(config, number, scans[scan_of(config, number, len(scans))], tools):
            made += 1
        else:
            there += 1
    print(f"this process's share: {made} of {len(mine)} scans made, {there} there already or in other hands")
    finish(config)


def listed_scans(config: SynthesizeConfig) -> list[Path]:
    """The sources in order; refuses an output folder among them."""
    if config.out.resolve().is_relative_to(config.scans.resolve()):
        raise ValueError(f"--out {config.out}: lies below --scans {config.scans}, where it would be taken for a source")
    scans = find_scans(config.scans)
    if not scans:
        raise ValueError(f"{config.scans}: no DICOM series, no NIfTI and no MetaImage file below it; check --scans")
    return scans


def own_device(device: str) -> str:
    """Each process of a machine takes a GPU of its own."""
    if device != "auto" or not torch.cuda.is_available():
        return device
    return f"cuda:{int(os.environ.get('LOCAL_RANK', '0')) % torch.cuda.device_count()}"


def known_attributes(config: SynthesizeConfig, pipeline: LesionInpaintPipeline) -> list[str]:
    """What the pipeline can be requested; ValueError where something that it cannot be is in the options."""
    of_guide = pipeline.guide.attributes if pipeline.guide is not None else ()
    known = list(dict.fromkeys([*(pipeline.unet.config.get("attributes") or ()), *of_guide]))
    for name, value in config.attributes.items():
        check_attribute(name, value, known)
    if config.population == "uniform":
        for name in config.ranges:
            if name not in (*known, "diameter_mm", *USUAL):
                raise ValueError(
                    f"ranges: this pipeline cannot be requested {name}; it knows {', '.join(known) or 'none'}"
                )
    return known


def claim(config: SynthesizeConfig, scans: list[Path], weights: Mapping[str, Any]) -> None:
    """Write the settings into the folder, or check that they are those of its outputs."""
    names = [str(path.relative_to(config.scans)) for path in scans]
    free = ("out", "vae", "device", "scans", "reference", "lesions", "shard", "threads", "max_minutes")
    settings = {name: value for name, value in config_dict(config).items() if name not in free}
    settings["scans"] = f"{len(names)} scans, names {hashlib.sha256(chr(0).join(names).encode()).hexdigest()[:16]}"
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


def own_outputs(config: SynthesizeConfig, scans: list[Path]) -> list[int]:
    """This process's share: sorted by scan, so that each is read by few processes, and once by each of them."""
    shard, shards = config.part()
    rank, processes = (int(os.environ.get(name, usual)) for name, usual in (("RANK", "0"), ("WORLD_SIZE", "1")))
    part, parts, count = shard * processes + rank, shards * processes, outputs(config)
    ordered = sorted(range(count), key=lambda number: (scan_of(config, number, len(scans)), number))
    return ordered[count * part // parts : count * (part + 1) // parts]


def make_output(config: SynthesizeConfig, number: int, path: Path, tools: Tools) -> bool:
    """Make an output unless it is there, or another process is at it; whether it was made."""
    folder = output_folder(config, number)
    try:
        with folder_lock(config.out, folder.name, timeout_s=0):
            if folder.exists():
                return False
            first = number * config.lesions_per_scan
            known = {"output": folder.name, "scan": str(path.relative_to(config.scans))}
            try:
                scan = read_scan(path)
            except ValueError as error:
                failed = {**known, "attempt": 0, "accepted": False, "reason": "scan not usable", "detail": str(error)}
                rows = [{**failed, "lesion": first + k} for k in range(config.lesions_per_scan)]
                write_atomically(folder, lambda temporary: write_output(temporary, config, rows, None, None))
            else:
                rows, ct, labels = painted_scan(config, range(first, first + config.lesions_per_scan), scan, tools)
                rows = [{**row, **known} for row in rows]
                write_atomically(folder, lambda temporary: write_output(temporary, config, rows, ct, labels))
            return True
    except Timeout:
        return False


@lru_cache(maxsize=1)
def read_scan(path: Path) -> Scan:
    """A source and its lung, kept for the next output."""
    ct = read_ct(path)
    try:
        return Scan(ct, free_lung(ct))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def painted_scan(
    config: SynthesizeConfig, lesions: range, scan: Scan, tools: Tools
) -> tuple[list[dict[str, Any]], sitk.Image, sitk.Image]:
    """A scan with its lesions: rows of all samples in order, the CT, and the labels."""
    ct_hu = sitk.GetArrayFromImage(scan.ct)
    labels = np.zeros(ct_hu.shape, np.uint8)
    claimed = np.zeros(ct_hu.shape, bool)
    lung, rows, missing = scan.lung, [], list(lesions)
    for attempt in range(config.attempts):
        placed, failed = [], []
        room = lung
        for lesion in missing:
            sample = place(config, lesion, attempt, scan.ct, room, claimed, tools)
            if isinstance(sample, dict):
                failed.append(sample)
                continue
            placed.append(sample)
            claimed[sample.box] |= sample.claimed
            room = room.without(sample.site, sample.row["mask_diameter_mm"] / 2 + APART_MM)
        for made in paint(config, placed, tools):
            row, box = made.placed.row, made.placed.box
            if not row["accepted"]:
                claimed[box] &= ~made.placed.claimed
                failed.append(row)
                continue
            row["label"] = row["lesion"] - lesions.start + 1
            assert made.ct is not None and made.paint_mask is not None
            ct_hu[box][made.paint_mask] = made.ct[made.paint_mask]
            labels[box][sitk.GetArrayViewFromImage(made.placed.mask) > 0] = row["label"]
            lung = lung.without(made.placed.site, row["mask_diameter_mm"] / 2 + APART_MM)
            rows.append(row)
        rows += failed
        missing = sorted(row["lesion"] for row in failed)
        if not missing:
            break
    ct, mask = sitk.GetImageFromArray(ct_hu), sitk.GetImageFromArray(labels)
    ct.CopyInformation(scan.ct)
    mask.CopyInformation(scan.ct)
    return sorted(rows, key=lambda row: (row["lesion"], row["attempt"])), ct, mask


def place(
    config: SynthesizeConfig,
    lesion: int,
    attempt: int,
    ct: sitk.Image,
    lung: FreeLung,
    claimed: np.ndarray,
    tools: Tools,
) -> Placed | dict[str, Any]:
    """Draw a sample's mask, noise and site; the row of a rejected one where there is no place for it."""
    character = drawn_character(config, lesion, tools)
    rng = generator(config.seed, "sample", lesion, attempt)
    shape = {name: float(np.clip(character.requested.get(name, usual), 1, 5)) for name, usual in USUAL.items()}
    requested = {name: value for name, value in character.requested.items() if name in tools.asks}
    row: dict[str, Any] = {
        "lesion": lesion,
        "attempt": attempt,
        "accepted": True,
        "mask_diameter_mm": character.mask_mm,
        **{f"mask_{name}": value for name, value in shape.items()},
        "mask_seed": int(rng.integers(2**31)),
        "noise_seed": int(rng.integers(2**62)),
        **{f"requested_{name}": value for name, value in requested.items()},
    }
    try:
        (site,) = free_lung_sites(lung, character.mask_mm, 1, rng)
    except ValueError as error:
        return rejected(row, "no site", str(error))
    center = index_of_point(ct, site)
    row |= {"center_zyx": list(center), "center_mm": list(site)}
    reach_mm = tools.pipeline.config["crop_size"] * tools.pipeline.config["spacing_mm"] / 2 + AROUND_MM
    box = box_around(ct, center, reach_mm)
    part = ct[tuple(reversed(box))]
    try:
        mask = lesion_mask_image(part, index_of_point(part, site), character.mask_mm, seed=row["mask_seed"], **shape)
    except ValueError as error:
        return rejected(row, "no mask", str(error))
    inside = lung.share_of(mask)
    if inside < config.least_lung:
        return rejected(row, "outside lung", f"{100 * (1 - inside):.1f} % of the mask")
    margin_mm = tools.pipeline.config["paint_margin_mm"] if config.paint_margin_mm is None else config.paint_margin_mm
    own = sitk.GetArrayViewFromImage(mask) > 0
    will_paint = grown_mask(own, margin_mm, part.GetSpacing()[::-1]) > 0
    if (will_paint & claimed[box]).any():
        return rejected(row, "touches another lesion", f"in {int((will_paint & claimed[box]).sum())} voxels")
    first, last = np.argwhere(own).min(0), np.argwhere(own).max(0) + 1
    corner = [int(along.start) for along in box]
    row["box_zyx"] = [*(first + corner).tolist(), *(last + corner).tolist()]
    row["volume_mm3"] = float(own.sum() * np.prod(part.GetSpacing()))
    return Placed(row, requested, site, box, part, mask, will_paint)


def drawn_character(config: SynthesizeConfig, lesion: int, tools: Tools) -> Character:
    """What a lesion is to be, within the scales of its attributes."""
    drawn = tools.characters.draw(generator(config.seed, "character", lesion))
    requested = {name: float(np.clip(value, *SCALES[name][:2])) for name, value in drawn.requested.items()}
    fixed = {name: check_attribute(name, value, tools.asks) for name, value in config.attributes.items()}
    return replace(drawn, requested=requested | fixed)


def box_around(ct: sitk.Image, center_zyx: Sequence[float], reach_mm: float) -> tuple[slice, slice, slice]:
    """Slices (z, y, x) of all voxels within so much of a point along each axis."""
    geometry = zip(center_zyx, ct.GetSpacing()[::-1], ct.GetSize()[::-1], strict=True)
    ends = [(max(int(at - reach_mm / mm), 0), min(int(at + reach_mm / mm) + 2, size)) for at, mm, size in geometry]
    z, y, x = (slice(*end) for end in ends)
    return z, y, x


def paint(config: SynthesizeConfig, samples: list[Placed], tools: Tools) -> Iterator[Painted]:
    """Paint samples that do not touch, each into the source's own voxels; accepted or rejected by what came of it."""
    for sample in samples:
        options = {**config.call_options(), "attributes": sample.requested or None}
        noise = torch.Generator().manual_seed(sample.row["noise_seed"])
        try:
            made = tools.pipeline(sample.ct, sample.mask, generator=noise, **options)
        except ValueError as error:
            yield Painted(sample._replace(row=rejected(sample.row, "not painted", str(error))), None, None)
            continue
        row = judged(config, sample, made.ct, tools)
        paint_mask = sitk.GetArrayFromImage(made.paint_mask) > 0
        yield Painted(sample._replace(row=row), sitk.GetArrayFromImage(made.ct), paint_mask)


def judged(config: SynthesizeConfig, sample: Placed, ct: sitk.Image, tools: Tools) -> dict[str, Any]:
    """The row with what the finished lesion has, on the model's grid as real ones were measured, and the verdict."""
    model = tools.pipeline.config
    crop, _, _ = crop_nodule(ct, sample.mask, model["crop_size"], model["spacing_mm"])
    measured = measured_attributes(crop["ct_hu"], crop["lesion_mask"])
    spacing_mm = (model["spacing_mm"],) * 3
    masks = (crop["lesion_mask"] > 0, crop["valid_mask"] > 0)
    lesion = Lesion("synthetic", "", crop["ct_hu"].astype(np.float32), *masks, spacing_mm)
    distance = tools.real.distances([lesion])
    plausibility = float(tools.real.plausibility(distance)[0])
    row = {**sample.row, **measured, "distance": float(distance[0]), "plausibility": plausibility}
    request = sample.requested.get("mean_hu")
    if (
        request is not None
        and config.hu_tolerance is not None
        and abs(measured["mean_hu"] - request) > config.hu_tolerance
    ):
        return rejected(row, "HU not as requested", f"mean {measured['mean_hu']:.0f} HU for {request:.0f} HU")
    if plausibility < config.least_plausibility:
        return rejected(row, "implausible", f"{plausibility:.3f}, least {config.least_plausibility:g}")
    return row


def rejected(row: dict[str, Any], reason: str, detail: str) -> dict[str, Any]:
    return {**row, "accepted": False, "reason": reason, "detail": detail}


def write_output(
    folder: Path,
    config: SynthesizeConfig,
    rows: list[dict[str, Any]],
    ct: sitk.Image | None,
    labels: sitk.Image | None,
) -> None:
    """Rows, and images where there is a lesion."""
    folder.mkdir()
    accepted = [row for row in rows if row["accepted"]]
    if ct is not None and labels is not None and accepted:
        if config.write != "crops":
            write_ct(ct, folder / "ct.nii.gz")
            write_ct(labels, folder / "lesions.nii.gz")
        for row in accepted if config.write != "scans" else []:
            box = tuple(reversed(box_around(ct, row["center_zyx"], CROP_MM / 2)))
            write_ct(ct[box], folder / f"{row['lesion']:07d}_ct.nii.gz")
            write_ct(labels[box] == row["label"], folder / f"{row['lesion']:07d}_mask.nii.gz")
    write_rows(rows, folder / ROWS)


def finish(config: SynthesizeConfig) -> None:
    """Join the manifest and say what came of it, if all outputs are there."""
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


if __name__ == "__main__":
    launch(main, ARGUMENTS)

"""Paint planned lesions into a scan and write the result: the work of `scripts/inpaint.py` and of the page."""

import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import SimpleITK as sitk
import torch

from diffusion.sampling.drawn_masks import for_networks
from diffusion.sampling.loading import load_pipeline, weights_of
from evaluation.inpainting.config import InpaintConfig
from evaluation.inpainting.planning import Planned, labelled, planned, read_scan
from evaluation.lesions.acceptance import agreement_in_scan, least_dice_of
from evaluation.lesions.label_agreement import label_fault
from evaluation.lesions.noise_ratio import lesion_noise
from evaluation.reports.slices import save_overview
from foundation.atomic import write_atomically
from foundation.config import config_dict
from imaging.files.ct import write_ct
from imaging.files.dicom_seg import write_dicom_seg
from imaging.files.dicom_series import on_stored_steps, read_headers, write_dicom_series

if TYPE_CHECKING:
    from diffusion import LesionInpaintPipeline

RETRIES, SEED_STEP = 2, 1_000_003  # further seeds for a lesion that is refused; far from those of other lesions
OnStep = Callable[[int, int, int], None]  # index of the lesion, attempt and step, each from 0; what it raises ends all


class Painted(NamedTuple):
    """Lesions that were painted, the first of a plan or all.

    Attributes:
        image: The scan with them.
        paint_mask: All that was painted; None before the first lesion.
        kept: The lesions that were accepted, each with the seed that gave it.
        refused: Number and reason of the others.
    """

    image: sitk.Image
    paint_mask: sitk.Image | None = None
    kept: tuple[Planned, ...] = ()
    refused: tuple[Mapping[str, Any], ...] = ()


def inpaint(config: InpaintConfig) -> dict[str, Any]:
    """Read, inpaint, write.

    Returns: The record.
    Raises: ValueError, OSError: If something is missing or does not fit, or no lesion was accepted.
    """
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(read_scan, config)  # beside the imports, which take seconds
        pipeline, folder = load_pipeline(config)
        ct, slices, lung = reading.result()
    plan = list(planned(config, pipeline, ct, lung))
    labelled(plan, ct)  # refused before anything is painted
    painted = paint(config, pipeline, plan, Painted(ct))
    return write_result(config, pipeline, weights_of(config, pipeline, folder), ct, slices, painted)


def paint(
    config: InpaintConfig,
    pipeline: "LesionInpaintPipeline",
    plan: Sequence[Planned],
    begun: Painted,
    on_step: OnStep | None = None,
    say: Callable[[str], None] = print,
) -> Painted:
    """Paint the lesions that come after those of `begun`, one after the other.

    Args:
        config: What is requested of all lesions.
        pipeline: That paints.
        plan: All lesions.
        begun: The scan, and the first lesions of the plan if they are painted.
        on_step: Is called after each denoising step.
        say: Takes notes for the user.
    Raises: ValueError: If no lesion was accepted.
    """
    image, paint_mask, kept, refused = begun.image, begun.paint_mask, [*begun.kept], [*begun.refused]
    for index in range(len(kept) + len(refused), len(plan)):
        made, lesion, reason = painted_lesion(config, pipeline, image, plan[index], index, on_step)
        if made is None:
            say(f"lesion {index + 1} of {len(plan)} is left out, {reason}")
            refused.append({"number": index + 1, "reason": reason})
            continue
        kept.append(lesion)
        image = made.ct
        paint_mask = made.paint_mask if paint_mask is None else sitk.Or(paint_mask, made.paint_mask)
    if not kept:
        raise ValueError(
            f"no lesion was accepted: {refused[-1]['reason']}; choose another seed, place or character, or a lower "
            "least_dice"
        )
    return Painted(image, paint_mask, tuple(kept), tuple(refused))


def painted_lesion(
    config: InpaintConfig,
    pipeline: "LesionInpaintPipeline",
    image: sitk.Image,
    lesion: Planned,
    index: int = 0,
    on_step: OnStep | None = None,
) -> tuple[Any, Planned, str]:
    """Paint a lesion until it is where its label says: the output, the lesion with the seed that gave it, and "".

    Without such a lesion, None, the lesion as it was, and why the last was refused.
    """
    options, least_dice = config.call_options(), least_dice_of(pipeline, config.least_dice)
    attributes = {**config.attributes, **lesion.attributes}
    options["attributes"] = (for_networks(pipeline, attributes, config.shape) if lesion.shape else attributes) or None
    mask, grid = lesion.mask_on(image), (pipeline.config["crop_size"], pipeline.config["spacing_mm"])
    reason = ""
    for attempt in range(1 + RETRIES):
        tried = lesion._replace(seed=lesion.seed + attempt * SEED_STEP)
        if on_step is not None:
            options["callback_on_step_end"] = _step_callback(on_step, index, attempt)
        made: Any = pipeline(image, mask, generator=torch.Generator().manual_seed(tried.seed), **options)
        fault = label_fault(agreement_in_scan(made.ct, mask, *grid), least_dice) if least_dice else None
        if fault is None:
            return made, tried, ""
        reason = f"{fault[0]} after {1 + RETRIES} seeds ({fault[1]})"
    return None, lesion, reason


def _step_callback(on_step: OnStep, index: int, attempt: int) -> Callable[..., dict[str, Any]]:
    def callback(pipeline: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        on_step(index, attempt, step)
        return {}

    return callback


def write_result(
    config: InpaintConfig,
    pipeline: "LesionInpaintPipeline",
    weights: Mapping[str, Any],
    ct: sitk.Image,
    slices: Sequence[Path],
    painted: Painted,
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Write the files that `scripts/inpaint.py` names, into the folder `config.out`.

    Args:
        config: What was requested.
        pipeline, weights: That painted; from `diffusion.sampling.loading.weights_of`.
        ct, slices: The scan, and the files of its DICOM series if it is one.
        painted: At least one lesion.
        say: Takes notes for the user.
    Returns: The record.
    """
    plan, paint_mask = painted.kept, painted.paint_mask
    assert paint_mask is not None
    mask = labelled(plan, ct)
    headers = read_headers(slices, ct) if slices else []
    result = on_stored_steps(painted.image, headers) if slices else painted.image  # every format holds the same HU

    before, after, lesion_labels, painted_voxels = map(sitk.GetArrayViewFromImage, (ct, result, mask, paint_mask))
    record = record_of(config, weights, before, after, lesion_labels, painted_voxels, ct.GetSpacing()[::-1])
    record["refused"] = list(painted.refused)
    for lesion, entry in zip(plan, record["lesions"], strict=True):
        entry |= {"seed": lesion.seed, "center": lesion.center_zyx, "diameter_mm": lesion.diameter_mm}
        entry["attributes"] = {**config.attributes, **lesion.attributes}
        entry["shape"] = lesion.shape
    written = []
    if slices and config.output_format != "nifti":
        sha256 = weights["pipeline_sha256"]
        text = f"Synthetic lung nodule painted by latent diffusion, seed {config.seed}; not for diagnosis"
        derived = write_dicom_series(result, headers, config.out / "ct", text, config.keep_patient, sha256)
        masks = [lesion.mask_on(ct) for lesion in plan]
        write_dicom_seg(derived, masks, config.out / "lesions_seg.dcm", paint_mask, sha256)
        written += ["ct/", "lesions_seg.dcm"]
    if not slices or config.output_format in ("nifti", "both"):
        for name, image in (("ct", result), ("paint_mask", paint_mask), ("lesion_mask", mask)):
            write_ct(image, config.out / f"{name}.nii.gz")
            written.append(f"{name}.nii.gz")
    window = (pipeline.vae.config["window_width"], pipeline.vae.config["window_level"])
    for number in range(1, len(plan) + 1):
        path = config.out / ("overview.png" if number == 1 else f"overview_{number}.png")
        shown = (before, after, lesion_labels == number)
        save_overview(path, *shown, ct.GetSpacing()[::-1], window, direction=ct.GetDirection())
    text = json.dumps(record, indent=2) + "\n"
    write_atomically(config.out / "record.json", lambda temporary: temporary.write_text(text))
    say(
        f"{len(plan)} lesion(s) of {record['lesion_voxels']} voxels in a painted region of {record['painted_voxels']}, "
        f"{record['changed_outside_paint']} voxels changed outside it"
    )
    say(f"results: {config.out} ({', '.join(written)}, overview.png, record.json)")
    return record


def record_of(
    config: InpaintConfig,
    weights: Mapping[str, Any],
    before: np.ndarray,
    after: np.ndarray,
    lesion: np.ndarray,
    painted: np.ndarray,
    spacing_mm: Sequence[float],
) -> dict[str, Any]:
    """Everything that is needed to make the same lesion again, and what was changed."""
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "settings": {name: value for name, value in config_dict(config).items() if name != "vae"},
        **weights,
        "versions": {name: version(name) for name in ("lesion-diffusion", "torch", "diffusers")},
        "lesion_voxels": int((lesion > 0).sum()),
        "painted_voxels": int((painted > 0).sum()),
        "changed_outside_paint": sum(
            int(((b != a) & (p == 0)).sum()) for b, a, p in zip(before, after, painted, strict=True)
        ),
        "mean_hu_before": float(before[lesion > 0].mean()),
        "mean_hu_after": float(after[lesion > 0].mean()),
        "noise": lesion_noise(after, lesion, spacing_mm, painted)._asdict(),
        "lesions": [
            {
                "label": number,
                "voxels": int((lesion == number).sum()),
                "mean_hu_before": float(before[lesion == number].mean()),
                "mean_hu_after": float(after[lesion == number].mean()),
                "noise": lesion_noise(after, lesion == number, spacing_mm, painted)._asdict(),
            }
            for number in range(1, int(lesion.max()) + 1)
        ],
    }

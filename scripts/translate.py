"""Translate a CT scan into another kind, for example a soft kernel into a sharp one, or a low dose into a full one.

uv run scripts/translate.py --ct scan_folder --model runs/translation/translator --to sharp --out out
uv run scripts/translate.py --ct scan.nii.gz --model runs/translation/translator --to soft --out out
Writes what it was given: ct.nii.gz for a file; for a DICOM folder a derived series (folder ct), without the patient
unless --keep-patient true; or both with --output-format both. Also overview.png and record.json, which names the
input's path. The model is one of scripts/train_translation.py; --to is one of its two kinds.
"""

from dataclasses import dataclass
from typing import Literal

from foundation.config import ExistingPath, ModelSource, OutputFolder, Seed, launch, read_arguments


@dataclass(frozen=True, kw_only=True)
class TranslateConfig:
    """What to translate, by which model.

    Attributes:
        ct: DICOM folder, .nii, .nii.gz, .mha or .mhd.
        model: Folder or repository of the translator.
        to: The wanted kind, one of the model's two.
        out: Folder for the results.
        samples: Samples that the result is the mean of: 1 has the noise texture of the wanted kind, several have less
            noise and a smaller error.
        seed: Of the noise.
        tile: Edge of a tile without its margin, voxels, even; smaller tiles need less memory and more time.
        series_uid: Which series, where a DICOM folder holds several.
        output_format: "nifti"; "dicom", a derived series of a DICOM folder; "both"; or "auto", the kind of the input.
        keep_patient: Copy patient, study, dates and private attributes into the DICOM output.
        device: "auto", "cpu" or "cuda".
        threads: CPU threads; null takes the default of `foundation.threads`.
    """

    ct: ExistingPath
    model: ModelSource
    to: str
    out: OutputFolder
    samples: int = 1
    seed: Seed = 0
    tile: int = 128
    series_uid: str | None = None
    output_format: Literal["auto", "nifti", "dicom", "both"] = "auto"
    keep_patient: bool = False
    device: str = "auto"
    threads: int | None = None

    def __post_init__(self) -> None:
        if self.samples < 1:
            raise ValueError(f"samples {self.samples}: expected at least 1")
        if self.tile < 2 or self.tile % 2:
            raise ValueError(f"tile {self.tile}: expected an even number of voxels from 2")
        if self.output_format in ("dicom", "both") and self.ct.is_file():
            raise ValueError(
                f"--output-format {self.output_format} with --ct {self.ct}: a derived series needs the DICOM folder "
                "that it derives from; pass that, or choose nifti"
            )


ARGUMENTS = read_arguments(TranslateConfig, __name__)

import json
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from autoencoder.loading import weights_sha256
from autoencoder.pretrained import resolve_folder
from diffusion.sampling.scan_translation import translate_scan
from diffusion.translator import Direction, Translator
from evaluation.reports.slices import save_slices
from foundation.atomic import write_atomically
from foundation.config import config_dict
from foundation.device import torch_device
from imaging.files.ct import find_dicom_slices, read_ct, read_dicom_slices, write_ct
from imaging.files.dicom_series import TRANSLATION, on_stored_steps, read_headers, write_dicom_series
from imaging.window import AIR_HU, to_norm


def main(config: TranslateConfig) -> None:
    """Read, translate, write."""
    folder = resolve_folder(config.model)
    translator = Translator.from_pretrained(folder).to(torch_device(config.device))
    direction = direction_to(translator, config.to)
    slices = find_dicom_slices(config.ct, config.series_uid) if config.ct.is_dir() else []
    ct = read_dicom_slices(slices) if slices else read_ct(config.ct)
    made = translate_scan(translator, ct, direction, config.seed, config.samples, config.tile)

    headers = read_headers(slices, ct) if slices else []
    made = on_stored_steps(made, headers) if slices else made  # every format holds the same HU
    sha256 = weights_sha256(folder)
    written = []
    if slices and config.output_format != "nifti":
        text = f"Translated to {config.to} by adversarial diffusion, seed {config.seed}; not for diagnosis"
        patient = (config.keep_patient, sha256, TRANSLATION)
        write_dicom_series(made, headers, config.out / "ct", text, *patient)
        written.append("ct/")
    if not slices or config.output_format in ("nifti", "both"):
        write_ct(made, config.out / "ct.nii.gz")
        written.append("ct.nii.gz")
    before, after = (sitk.GetArrayViewFromImage(image) for image in (ct, made))
    save_overview(config.out / "overview.png", before, after, ct.GetSpacing()[::-1])
    record = record_of(config, sha256, before, after)
    write_atomically(config.out / "record.json", lambda path: path.write_text(json.dumps(record, indent=2) + "\n"))
    print(f"mean change {record['mean_change_hu']:.2f} HU, standard deviation {record['sd_of_change_hu']:.1f} HU")
    print(f"results: {config.out} ({', '.join(written)}, overview.png, record.json)")


def direction_to(translator: Translator, kind: str) -> Direction:
    """Which way leads to a kind. Raises ValueError, naming the model's two kinds, if it is neither."""
    kinds: dict[str, Direction] = {translator.config["kind_b"]: "a_to_b", translator.config["kind_a"]: "b_to_a"}
    if kind not in kinds:
        raise ValueError(f"--to {kind}: the model translates between {' and '.join(sorted(kinds))}; choose one of them")
    return kinds[kind]


def record_of(config: TranslateConfig, sha256: str, before: np.ndarray, after: np.ndarray) -> dict:
    """What is needed to make the same result again, and what was changed, padding left out."""
    inside = before >= AIR_HU
    change = after[inside].astype(np.float64) - before[inside]
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "settings": config_dict(config),
        "model_sha256": sha256,
        "versions": {name: version(name) for name in ("lesion-diffusion", "torch", "diffusers")},
        "mean_change_hu": float(change.mean()),
        "sd_of_change_hu": float(change.std()),
        "padding_voxels_changed": int((after[~inside] != before[~inside]).sum()),
    }


def save_overview(path: Path, before: np.ndarray, after: np.ndarray, spacing_mm: tuple[float, ...]) -> None:
    """Central axial and coronal planes before and after, and their difference."""
    volumes = [to_norm(volume.astype(np.float32)) for volume in (before, after)]
    volumes.append(volumes[1] - volumes[0])
    z, y, x = spacing_mm
    rows = [volumes, [volume[::-1].transpose(1, 0, 2) for volume in volumes]]
    save_slices(path, rows, ["scan", "translated", "difference"], [y / x, z / x])


if __name__ == "__main__":
    launch(main, ARGUMENTS)

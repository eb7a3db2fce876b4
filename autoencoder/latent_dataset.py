"""The encoded dataset: what stage 2 trains on, one row per nodule and augmentation, read without any image library."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from datasets import Array3D, Array4D, Dataset, Features, Sequence, Value

from imaging.dataset.augmentation import AUGMENTATION
from imaging.dataset.nodules import RATINGS
from imaging.dataset.rows import load_split, read_row, write_rows
from imaging.lesions.measured_attributes import MEASURED

LATENTS = ("latent_mean", "latent_std", "blanked_latent")
MASKS = ("lesion_mask", "paint_mask", "valid_mask", "semantic_map")


def latent_features(latent_shape: tuple[int, int, int, int], crop_size: int, latent_type: str = "float32") -> Features:
    """Columns of an encoded dataset.

    - `nodule_id`, `patient_id`, `source`, `split`, and `variant`, its number (`imaging.dataset.variants`).
    - `latent_mean`, `latent_std`: posterior of the CT, float32 (C, d, h, w), standardised.
    - `blanked_latent`: posterior mean of the CT with the painted region blanked, standardised.
    - `ct_hu` int16, `lesion_mask`, `paint_mask`, `valid_mask`, `semantic_map` uint8 (S, S, S), of the variant.
    - `mean_hu`, `p10_hu`, `p50_hu`, `p90_hu` of the lesion (`imaging.lesions.measured_attributes`).
    - `paint_margin_mm`, the usual one; `spacing_mm` and `diameter_mm` of the variant; the ratings as in the prepared
      dataset.
    - `detailed_map`: whether the semantic map shows the painted margin (`imaging.semantic_map.inpainting_map`).
    - `AUGMENTATION` (`imaging.dataset.augmentation`): how the variant was changed, 0 where it was not.

    Args:
        latent_shape: (C, d, h, w).
        crop_size: S.
        latent_type: "float32", or "float16" in half the space; what is read is float32.
    """
    crop = (crop_size,) * 3
    columns: dict[str, Any] = {name: Value("string") for name in ("nodule_id", "patient_id", "source", "split")}
    columns |= {"variant": Value("int32"), "detailed_map": Value("bool")}
    columns |= {name: Array4D(latent_shape, latent_type) for name in LATENTS}
    columns |= {"ct_hu": Array3D(crop, "int16")} | {name: Array3D(crop, "uint8") for name in MASKS}
    columns["spacing_mm"] = Sequence(Value("float32"), length=3)
    numbers = ("paint_margin_mm", "diameter_mm", *MEASURED, *AUGMENTATION, *RATINGS)
    return Features(columns | {name: Value("float32") for name in numbers})


def save_latent_dataset(rows: Iterable[Mapping[str, Any]], out: Path, features: Features) -> None:
    """Write rows as they come; `out` appears only when all of them are written.

    Args:
        rows: Mappings with the keys of `features`; missing ratings are None or NaN.
        out: Folder to create; must not exist.
        features: Result of :func:`latent_features`.
    Raises: ValueError: If `out` exists, or no row comes.
    """
    if out.exists():
        raise ValueError(f"{out}: exists already; choose another folder or delete it")
    write_rows(rows, out, features)


def load_latents(path: Path, split: str) -> Dataset:
    """Open one split of an encoded dataset, memory-mapped.

    Raises: ValueError: If the folder is no encoded dataset or has no such split.
    """
    remedy = "make one with scripts/encode_latents.py"
    required = (*LATENTS, *MASKS)
    return load_split(path, split, required, "an encoded dataset", remedy)


def read_latent(dataset: Dataset, index: int) -> dict[str, Any]:
    """One row: float32 (C, d, h, w) latents, (S, S, S) CT and masks in their stored types; a missing rating is NaN."""
    row = read_row(dataset, index)
    return row | {name: row[name].astype("float32", copy=False) for name in LATENTS if name in row}

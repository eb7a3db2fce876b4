"""Boxes in the form of COCO (Lin et al. 2014) with a third axis.

`bbox` is [x, y, z, width, height, depth] in voxels of the image file: x, y, z is the first voxel of the nodule, from 0,
and it spans so many voxels, so that x + width is one past its last. The axes are those of the NIfTI file, x first.
`area` is the number of its voxels. Every annotation has millimetres besides: `center_mm` is the centroid of its voxels
in the DICOM patient frame (LPS), `size_mm` the box along the axes of the image, `volume_mm3` its volume.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from imaging.layouts.cases import Nodule
from imaging.layouts.folds import Split
from imaging.layouts.layout import CLASS, Layout, Title, WrittenCase

UNITS = {
    "bbox": "voxels: first x, y, z from 0; width, height, depth along x, y, z of the image file",
    "area": "voxels",
    "center_mm": "mm, x, y, z in the DICOM patient frame (LPS)",
    "size_mm": "mm along x, y, z of the image file",
    "volume_mm3": "mm3",
}


def write_index(folder: Path, title: Title, cases: Sequence[WrittenCase], splits: Sequence[Split]) -> None:
    """Write annotations/all.json, and for each fold fold0_train.json, fold0_val.json and so on, with the same ids."""
    (folder / "annotations").mkdir()
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, case in enumerate(cases, 1):
        images.append(_image(number, case))
        for nodule in case.nodules:
            annotations.append(_annotation(len(annotations) + 1, number, nodule, case))

    def write(name: str, kept: set[int]) -> None:
        content = {
            "info": {"description": title.name, "units": UNITS},
            "categories": [{"id": 1, "name": CLASS, "supercategory": "lesion"}],
            "images": [image for image in images if image["id"] in kept],
            "annotations": [annotation for annotation in annotations if annotation["image_id"] in kept],
        }
        (folder / "annotations" / name).write_text(json.dumps(content, indent=2))

    number_of = {case.case.name: number for number, case in enumerate(cases, 1)}
    write("all.json", set(number_of.values()))
    for fold, split in enumerate(splits):
        for part, names in split._asdict().items():
            write(f"fold{fold}_{part}.json", {number_of[name] for name in names})


def _image(number: int, case: WrittenCase) -> dict[str, Any]:
    width, height, depth = case.size_xyz
    return {
        "id": number,
        "file_name": case.image,
        "width": width,
        "height": height,
        "depth": depth,
        "spacing_mm": case.spacing_xyz_mm,
        "origin_mm": case.origin_xyz_mm,
        "direction": case.direction,
        "fold": case.fold,
        "patient": case.case.patient,
        "synthetic": case.case.synthetic,
    }


def _annotation(number: int, image: int, nodule: Nodule, case: WrittenCase) -> dict[str, Any]:
    first, last = nodule.box_zyx[2::-1], nodule.box_zyx[:2:-1]
    extent = [b - a for a, b in zip(first, last, strict=True)]
    voxel_mm3 = case.spacing_xyz_mm[0] * case.spacing_xyz_mm[1] * case.spacing_xyz_mm[2]
    return {
        "id": number,
        "image_id": image,
        "category_id": 1,
        "iscrowd": 0,
        "bbox": [*first, *extent],
        "area": round(nodule.volume_mm3 / voxel_mm3),
        "center_mm": nodule.center_mm,
        "size_mm": [voxels * mm for voxels, mm in zip(extent, case.spacing_xyz_mm, strict=True)],
        "volume_mm3": nodule.volume_mm3,
        "synthetic": nodule.synthetic,
        "source": nodule.source,
        "requested": dict(nodule.requested),
    }


LAYOUT = Layout(
    image="images/{case}.nii.gz",
    labels=None,
    instances=True,
    write_index=write_index,
    next_step='pycocotools.coco.COCO("{out}/annotations/fold0_train.json")',
)

"""Masks of synthetic lesions as a DICOM segmentation (SEG) of the derived series that shows them."""

import hashlib
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import SimpleITK as sitk
from pydicom.dataset import Dataset

from foundation.atomic import write_atomically
from imaging.files.dicom_identity import made_uid
from imaging.files.dicom_series import LESION, MANUFACTURER
from imaging.lesions.mask import binary_mask

if TYPE_CHECKING:
    import highdicom

SERIES_DESCRIPTION = "Synthetic lesions: masks"
NO_DATE, NO_TIME = "19000101", "000000"  # where the patient's dates are not kept; the attributes must have a value


def write_dicom_seg(
    headers: Sequence[Dataset],
    lesion_masks: Sequence[sitk.Image],
    path: Path,
    paint_mask: sitk.Image | None = None,
    model_sha256: str | None = None,
) -> None:
    """Write masks as segments of one binary segmentation, which may overlap; one segment for each lesion.

    A lesion is a "Nodule" (SNOMED CT 27925004) of the lung. UIDs depend on the series and the masks alone, and the
    dates are those of the series' study, so that the same call writes the same bytes.

    Args:
        headers: Of the derived series, from `imaging.files.dicom_series.write_dicom_series`.
        lesion_masks: At least one, on the grid of the series; 0 and one positive value each.
        path: File to write.
        paint_mask: All that was painted, the lesions with their margins: one more segment, after the lesions.
        model_sha256: Hash of the weights, written as the device's serial number.
    Raises: ValueError: If there is no mask, or one is empty, no mask, or of another size than the series.
    """
    import highdicom as hd

    if not lesion_masks:
        raise ValueError("no lesion_masks, expected at least one")
    images = [*lesion_masks, *([] if paint_mask is None else [paint_mask])]
    size = (int(headers[0].Columns), int(headers[0].Rows), len(headers))
    stack, digest = [], hashlib.sha256()
    for number, image in enumerate(images, 1):
        if image.GetSize() != size:
            raise ValueError(f"mask {number} has {image.GetSize()} voxels (x, y, z), expected the series' {size}")
        mask = binary_mask(sitk.GetArrayViewFromImage(image), f"mask {number}")
        if not mask.any():
            raise ValueError(f"mask {number} is empty, expected at least one voxel above 0")
        digest.update(mask.data)
        stack.append(mask)
    shown = np.flatnonzero(np.any([mask.any(axis=(1, 2)) for mask in stack], axis=0)).tolist()
    series_uid = made_uid("segmentation", str(headers[0].SeriesInstanceUID), digest.hexdigest(), str(model_sha256))
    segmentation = hd.seg.Segmentation(
        source_images=[headers[index] for index in shown],
        pixel_array=np.stack([mask[shown] for mask in stack], axis=-1),
        segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=_descriptions(len(lesion_masks), paint_mask is not None, series_uid),
        series_instance_uid=series_uid,
        series_number=int(headers[0].SeriesNumber) + 1,
        sop_instance_uid=made_uid("instance", series_uid),
        instance_number=1,
        manufacturer=MANUFACTURER,
        manufacturer_model_name=LESION.model,
        software_versions=version("lesion-diffusion"),
        device_serial_number=model_sha256 or "none",
        content_label="SYNTH_LESIONS",
        content_description="Where synthetic lesions were painted",
        series_description=SERIES_DESCRIPTION,
        further_source_images=[header for index, header in enumerate(headers) if index not in shown],
    )
    _make_repeatable(segmentation, headers[0])
    write_atomically(path, lambda temporary: segmentation.save_as(temporary))


def _descriptions(lesions: int, painted: bool, series_uid: str) -> "list[highdicom.seg.SegmentDescription]":
    import highdicom as hd
    from pydicom.sr.codedict import codes

    algorithm = hd.AlgorithmIdentificationSequence(
        name=MANUFACTURER, family=codes.cid7162.ArtificialIntelligence, version=version("lesion-diffusion")
    )
    labels = [f"Synthetic lesion {number}" for number in range(1, lesions + 1)]
    lesion = (codes.SCT.MorphologicallyAbnormalStructure, codes.SCT.Nodule)
    region = (codes.SCT.SpatialAndRelationalConcept, codes.DCM.SelectedRegion)
    kinds = [(label, lesion) for label in labels] + ([("Painted region", region)] if painted else [])
    return [
        hd.seg.SegmentDescription(
            segment_number=number,
            segment_label=label,
            segmented_property_category=category,
            segmented_property_type=kind,
            algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
            algorithm_identification=algorithm,
            tracking_uid=made_uid("tracking", series_uid, str(number)),
            tracking_id=label,
            anatomic_regions=[codes.SCT.Lung],
        )
        for number, (label, (category, kind)) in enumerate(kinds, 1)
    ]


def _make_repeatable(segmentation: Dataset, header: Dataset) -> None:
    """Replace what highdicom draws and what it takes from the clock, and say that the content is synthetic."""
    segmentation.ImageComments = LESION.comment
    for keyword in ("InstanceCreationDate", "InstanceCreationTime", "SeriesDate", "SeriesTime"):
        if keyword in segmentation:
            del segmentation[keyword]
    segmentation.ContentDate, segmentation.ContentTime = header.StudyDate or NO_DATE, header.StudyTime or NO_TIME
    organization = made_uid("dimensions", segmentation.SeriesInstanceUID)
    for item in [*segmentation.DimensionOrganizationSequence, *segmentation.DimensionIndexSequence]:
        item.DimensionOrganizationUID = organization
    for item in segmentation.get("ContributingEquipmentSequence", []):
        if "ContributionDateTime" in item:
            del item.ContributionDateTime

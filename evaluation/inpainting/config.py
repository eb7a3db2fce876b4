"""Options of inpainting into a scan; the module imports nothing heavy, so that scripts show their help at once."""

from dataclasses import dataclass
from typing import Literal

from diffusion.option_types import ShapeKind
from diffusion.sampling.loading import SamplingConfig
from diffusion.sampling.request import is_finite
from foundation.config import ExistingFile, ExistingPath
from imaging.lesions.site_names import check_site, needs_lobes


@dataclass(frozen=True, kw_only=True)
class InpaintConfig(SamplingConfig):
    """Inpainting into a scan; give `mask`, or `lesions`, or `diameter_mm` and `center` (or `site`).

    Attributes:
        ct: DICOM folder, .nii, .nii.gz, .mha or .mhd.
        mask: File with k where the k-th lesion is painted, on the scan's grid.
        lesions: CSV file, a row for each lesion: diameter_mm, x, y, z (voxel index of the centre), seed and attributes;
            or, together with `mask`, the label of its shape there. See `imaging.lesions.table`.
        site: Where a lesion is put that has no place, by seed: auto (as far from the wall as real nodules), free,
            pleural, vessel, fissure, or lobe=RUL (RML, RLL, LUL, LLL); see `imaging.lesions.sites`. "given" puts none.
        lobes: File with the lobes, for the sites fissure and lobe=: a segmentation of TotalSegmentator or lungmask.
        center: Voxel index z,y,x of the lesion's centre.
        center_lps: Instead, the centre in mm x,y,z, to the patient's left, back and head, as in DICOM.
        center_ras: Instead, the centre in mm x,y,z, to the patient's right, front and head, as in NIfTI.
        diameter_mm: Diameter of the sphere that has the lesion's volume.
        shape: Of a lesion without a mask: "real", the outline of a nodule of LIDC-IDRI that was rated as is requested,
            "procedural", or "learned", made for its place by the pipeline of `paired`.
        lobulation: Of the drawn mask, 1 (none) to 5; null takes the attribute of this name.
        spiculation: Likewise.
        sphericity: Likewise, 1 (linear) to 5 (round); of real shapes alone.
        series_uid: Which series, where a DICOM folder holds several.
        output_format: "nifti"; "dicom", a derived series and a segmentation, of a DICOM folder; "both"; or "auto", the
            kind of the input.
        least_dice: Of a solid lesion's own outline with its label. A lesion with less, or one that leaves much of its
            label empty, is painted again with another seed, twice at most, and then left out. null is 0.8 for a
            pipeline with detailed maps, whose masks end where the lesion does, and else 0, which takes any lesion.
        keep_patient: Copy patient, study, dates and private attributes into the DICOM output.
    """

    ct: ExistingPath
    mask: ExistingFile | None = None
    lesions: ExistingFile | None = None
    site: str = "given"
    lobes: ExistingFile | None = None
    center: tuple[float, float, float] | None = None
    center_lps: tuple[float, float, float] | None = None
    center_ras: tuple[float, float, float] | None = None
    diameter_mm: float | None = None
    shape: ShapeKind = "real"
    lobulation: float | None = None
    spiculation: float | None = None
    sphericity: float | None = None
    series_uid: str | None = None
    output_format: Literal["auto", "nifti", "dicom", "both"] = "auto"
    least_dice: float | None = None
    keep_patient: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.least_dice is not None and not 0 <= self.least_dice <= 1:
            raise ValueError(f"least_dice {self.least_dice}, expected a share from 0 to 1")
        if self.diameter_mm is not None and not (is_finite(self.diameter_mm) and self.diameter_mm > 0):
            raise ValueError(f"--diameter-mm {self.diameter_mm:g}, expected a number of mm above 0; pass 12, say")
        for name, what in (("center", "a voxel index z,y,x"), ("center_lps", "mm x,y,z"), ("center_ras", "mm x,y,z")):
            value = getattr(self, name)
            if value is not None and not all(map(is_finite, value)):
                option = name.replace("_", "-")
                raise ValueError(f"--{option} {','.join(map(str, value))}, expected {what}; check it")
        mask_alone = self.mask if self.lesions is None else None  # else it has the shapes that rows name
        sources = [value is not None for value in (mask_alone, self.lesions, self.diameter_mm)]
        places = sum(value is not None for value in (self.center, self.center_lps, self.center_ras))
        chosen = self.site != "given"
        located = places == 1 or (chosen and sources[2])
        if sum(sources) != 1 or (self.diameter_mm is not None) != located or places > 1:
            raise ValueError(
                "give either --mask, or --center z,y,x together with --diameter-mm (or --center-lps x,y,z, or "
                "--center-ras x,y,z), or --diameter-mm with --site auto, or --lesions"
            )
        if chosen and (mask_alone is not None or places):
            raise ValueError(f"--site {self.site} chooses the place; leave out --mask and --center")
        if chosen and needs_lobes(check_site(self.site)) and self.lobes is None:
            raise ValueError(f"--site {self.site} needs --lobes, a segmentation by TotalSegmentator or lungmask")
        if self.output_format in ("dicom", "both") and self.ct.is_file():
            raise ValueError(
                f"--output-format {self.output_format} with --ct {self.ct}: a derived series needs the DICOM folder "
                "that it derives from; pass that, or choose nifti"
            )

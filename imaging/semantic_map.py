"""LSDM's multi-label semantic map of a chest CT: background, body, soft and dense tissue, lung, and the lesion's parts.

The lung is found by k-means on intensity, morphology and marching-squares contours; elsewhere the label follows from
the HU value. A lesion is labelled by what it is made of (`imaging.lesions.composition`), or as a lesion of unspecified
composition. LSDM's own three nodule classes are ratings of malignancy, which no voxel shows; here a rating is an
attribute of the denoiser (`diffusion.attributes`).
"""

from collections.abc import Sequence

import numpy as np
from scipy import ndimage
from scipy.cluster.vq import kmeans2
from skimage.morphology import isotropic_closing
from skimage.segmentation import clear_border

LABELS = (
    "background",
    "body",  # -400 to 0 HU
    "soft_tissue",  # 0 to 200 HU
    "high_dense",  # from 200 HU
    "lung",
    "nonsolid_part",  # of a lesion: ground glass
    "lesion",  # of unspecified composition
    "solid_part",
)
HU_EDGES = (-400.0, 0.0, 200.0)
LABEL_HU = (-1000.0, -80.0, 50.0, 310.0, -840.0, -590.0, 15.0, -5.0)  # air, and medians over LIDC-IDRI crops
LUNG = LABELS.index("lung")
FIRST_NODULE = LABELS.index("nonsolid_part")  # this label and those that follow are the lesion's
CLOSING_MM = 5.0  # closes vessels at the hilum and nodules on the pleura; small beside the mediastinum
SMALLEST_SHARE = 0.1  # of the largest air space: below it is bowel gas, an airway's end or noise
OPEN_AIR_HU = -950.0  # mean of air outside the body lies below it, of lung above
THRESHOLD_RANGE_HU = (-600.0, -300.0)  # k-means means nothing on a crop of lung alone or of tissue alone
KMEANS_SAMPLES = 50_000
KNOWN_FROM_MM = 1.5  # from the lesion: its own blurred border is nearer


def tissue_threshold_hu(ct_hu: np.ndarray, valid_mask: np.ndarray | None = None) -> float:
    """HU halfway between the two k-means centres (air-like and tissue-like) of a chest CT.

    Only the central half of each slice is looked at, so that the air around the patient does not pull the air-like
    centre down.

    Args:
        ct_hu: (D, H, W), HU.
        valid_mask: Same shape, 0 on padding; None if there is none.
    Raises: ValueError: If all values are equal.
    """
    quarter_h, quarter_w = ct_hu.shape[1] // 4, ct_hu.shape[2] // 4
    half = np.s_[:, quarter_h : ct_hu.shape[1] - quarter_h, quarter_w : ct_hu.shape[2] - quarter_w]
    centre = ct_hu[half] if valid_mask is None else ct_hu[half][valid_mask[half] > 0]
    values = np.clip(centre.ravel()[:: max(1, centre.size // KMEANS_SAMPLES)], -1024, 400).astype(np.float64)
    if len(values) == 0 or values.min() == values.max():
        raise ValueError(f"sampled values are all {values[:1]} HU, expected a chest CT with air and tissue")
    start = np.array([[values.min()], [values.max()]])
    centres, _ = kmeans2(values[:, None], start, minit="matrix", iter=20)
    return float(centres.mean())


def lung_mask(
    ct_hu: np.ndarray, spacing_mm: Sequence[float], whole_scan: bool = True, valid_mask: np.ndarray | None = None
) -> np.ndarray:
    """Lung with its vessels, airways and enclosed nodules.

    Air by the k-means threshold; air that reaches the border of a slice is outside the patient; the large connected
    spaces stay; on each slice they are closed by a disc and their outer marching-squares contours are filled.

    Args:
        ct_hu: (D, H, W), HU.
        spacing_mm: (z, y, x), mm.
        whole_scan: False for a crop, whose lung may reach the border; there, air outside the body is told from lung
            by its mean HU.
        valid_mask: Same shape as `ct_hu`, 0 on padding, which is no lung; None if there is none.
    Returns: bool (D, H, W); all False where the image has no lung.
    """
    try:
        air = ct_hu < np.clip(tissue_threshold_hu(ct_hu, valid_mask), *THRESHOLD_RANGE_HU)
    except ValueError:  # an image of one value
        return np.zeros(ct_hu.shape, dtype=bool)
    if valid_mask is not None:
        air &= valid_mask > 0
    if whole_scan:
        for air_slice in air:
            air_slice[:] = clear_border(air_slice)
    lung = _large_spaces(air, ct_hu, whole_scan)
    for lung_slice in lung:
        if lung_slice.any():
            _close_and_fill(lung_slice, CLOSING_MM, spacing_mm[1:])
    return lung if valid_mask is None else lung & (valid_mask > 0)


def semantic_map(
    ct_hu: np.ndarray,
    lung: np.ndarray,
    lesion_mask: np.ndarray | None = None,
    solid_mask: np.ndarray | None = None,
) -> np.ndarray:
    """One label of `LABELS` for each voxel.

    Args:
        ct_hu: (D, H, W), HU.
        lung: bool, same shape, from `lung_mask`.
        lesion_mask: Lesion, same shape, non-zero inside; None for a scan without.
        solid_mask: Its solid part, same shape (`imaging.lesions.composition.solid_part`); None leaves the composition
            unspecified.
    Returns: uint8 (D, H, W), index into `LABELS`.
    Raises: ValueError: If the shapes differ.
    """
    for name, array in (("lung", lung), ("lesion_mask", lesion_mask), ("solid_mask", solid_mask)):
        if array is not None and array.shape != ct_hu.shape:
            raise ValueError(f"{name} has shape {array.shape}, expected that of ct_hu {ct_hu.shape}")
    labels = np.zeros(ct_hu.shape, np.uint8)
    for edge_hu in HU_EDGES:  # np.digitize would give eight bytes a voxel
        labels += ct_hu >= edge_hu
    # The rim of half-filled voxels at the pleura belongs to the lung; it would be a string of background otherwise.
    rim = ndimage.binary_dilation(lung) & (labels == LABELS.index("background")) & (ct_hu > OPEN_AIR_HU)
    labels[lung.astype(bool) | rim] = LUNG
    if lesion_mask is not None:
        label_lesion(labels, lesion_mask, solid_mask)
    return labels


def label_lesion(labels: np.ndarray, lesion_mask: np.ndarray, solid_mask: np.ndarray | None = None) -> None:
    """Write a lesion into a map, in place. Arguments as in :func:`semantic_map`."""
    inside = np.asarray(lesion_mask) > 0
    if solid_mask is None:
        labels[inside] = LABELS.index("lesion")
        return
    solid = np.asarray(solid_mask) > 0
    labels[inside & solid] = LABELS.index("solid_part")
    labels[inside & ~solid] = LABELS.index("nonsolid_part")


def inpainting_map(
    ct_hu: np.ndarray,
    lesion_mask: np.ndarray,
    paint_mask: np.ndarray,
    spacing_mm: Sequence[float],
    valid_mask: np.ndarray | None = None,
    *,
    solid_mask: np.ndarray | None = None,
    detailed_map: bool = False,
) -> np.ndarray:
    """The semantic map of a crop that is painted; it does not reveal what the lesion's place held.

    The lung is found on the crop, in training as in use. The painted region around the lesion gets the label of the
    nearest voxel outside it.

    With `detailed_map`, what lies in the painted region `KNOWN_FROM_MM` from the lesion keeps its own label, and
    what is dense in the lung (vessels, from -400 HU) is labelled by its HU, not as lung. So the denoiser can lead
    vessels and the wall through the painted margin to the lesion.

    Args:
        ct_hu: (D, H, W), HU.
        lesion_mask, paint_mask: Same shape, 0 or 1.
        spacing_mm: (z, y, x).
        valid_mask, solid_mask: As :func:`lung_mask` and :func:`semantic_map`.
        detailed_map: Whether the map shows vessels, and the painted margin.
    Returns: uint8 (D, H, W), index into `LABELS`.
    """
    lung = lung_mask(ct_hu, spacing_mm, whole_scan=False, valid_mask=valid_mask)
    labels = semantic_map(ct_hu, lung & (ct_hu < HU_EDGES[0]) if detailed_map else lung)
    hidden = (np.asarray(paint_mask) > 0) | (np.asarray(lesion_mask) > 0)
    if hidden.all():
        raise ValueError("all of the crop is painted, and nothing is left to map; pass semantic_map")
    if detailed_map:
        sampling = [float(mm) for mm in spacing_mm]
        hidden &= ndimage.distance_transform_edt(np.asarray(lesion_mask) == 0, sampling=sampling) <= KNOWN_FROM_MM
        hidden |= np.asarray(lesion_mask) > 0
    nearest = ndimage.distance_transform_edt(hidden, return_distances=False, return_indices=True)
    labels = labels[tuple(nearest)]
    label_lesion(labels, lesion_mask, solid_mask)
    return labels


def _large_spaces(air: np.ndarray, ct_hu: np.ndarray, whole_scan: bool) -> np.ndarray:
    components, count = ndimage.label(air, output=np.int32)
    if count == 0:
        return air
    sizes = np.zeros(count + 1, np.int64)
    for plane in components:  # by plane, because bincount makes an int64 copy
        sizes += np.bincount(plane.ravel(), minlength=count + 1)
    sizes[0] = 0
    keep = np.zeros(count + 1, dtype=bool)
    large = np.flatnonzero(sizes >= SMALLEST_SHARE * sizes.max())
    if whole_scan:
        keep[large] = True
    else:
        keep[large] = ndimage.mean(ct_hu, components, large) > OPEN_AIR_HU
    return keep[components]


def _close_and_fill(image: np.ndarray, radius_mm: float, spacing_mm: Sequence[float]) -> None:
    """Closing by a disc, then all that its outer contours enclose; in place, in the bounding box of the lung.

    Filling the holes of a binary image is the same as filling its marching-squares contours, and much faster.
    """
    box = ndimage.find_objects(image.astype(np.uint8))[0]
    pad = int(np.ceil(radius_mm / min(spacing_mm))) + 1  # so that the box's border does not stop the disc
    closed = isotropic_closing(np.pad(image[box], pad), radius_mm, spacing=tuple(spacing_mm))
    image[box] = ndimage.binary_fill_holes(closed)[pad:-pad, pad:-pad]

"""Shapes of real nodules, one of which gives a lesion without a mask its form.

A mask decides how lobulated or spiculated a lesion looks, whatever is requested of the network. So a request for a
character chooses the shape: one real outline of about the same diameter whose readers rated it so. It is scaled by at
most `MOST_SCALE`, turned in the plane and mirrored, which no reader can tell from another patient's nodule.

An outline is what at least half of the readers enclosed, on a grid of 1 mm. It is blurred by `SMOOTHING_MM` and cut at
the level that gives the requested volume, so that it has no steps on a finer grid. Where the readers drew on thick
slices, its steps along z are smoothed first (:func:`without_steps`). `benchmarks/quality/shapes.md` judges the result.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, get_args

import numpy as np
import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from scipy import ndimage
from torch import Tensor

from autoencoder.aligned_model import AlignedModel
from diffusion.option_types import ShapeKind
from imaging.boxes import mask_box
from imaging.lesions.shapes import (
    axes_mm,
    box_around,
    check_center,
    check_diameter,
    check_spacing,
    nodule_mask,
    paste_box,
)

if TYPE_CHECKING:
    import SimpleITK as sitk

    from imaging.dataset.shape_files import NoduleShape

CHOSEN_BY = ("lobulation", "spiculation", "sphericity", "texture")  # mean ratings, 1 to 5
USUAL = {"lobulation": 2.0, "spiculation": 1.5}  # of a procedural shape where nothing is requested
MOST_SCALE = 1.15  # a small nodule made large is no large nodule
ALIKE, NEAREST = 0.5, 12  # ratings within which all shapes are drawn from; shapes that are drawn from at least
DIAMETER_COUNTS = 0.5  # the farthest diameter counts as half of a rating
SMOOTHING_MM = 0.5  # Gaussian sigma; more makes shapes smoother than outlines at half maximum, less makes them rougher
THICK_MM, SLICE_SMOOTHING = 2.0, 0.4  # slices from which steps along z are smoothed, by so many slices (sigma)
MOST_SHAPES, MOST_BYTES, LARGEST = 20_000, 2**24, 100  # of a component; voxels along an axis


class Chosen(NamedTuple):
    """A shape and how it is placed: with the centre and the diameter, all that is needed to draw it again.

    Attributes:
        number: Of the shape in its component.
        scale: Requested diameter over the shape's own.
        turn_deg: Rotation in the plane, from x to y.
        mirrored: Along z and along x.
    """

    number: int
    scale: float
    turn_deg: float
    mirrored: tuple[bool, bool]


class LesionShapes(AlignedModel, ModelMixin, ConfigMixin):
    """Outlines of real nodules with their ratings; made by :meth:`of`.

    Args:
        shapes: Number N of outlines.
        packed_bytes: Of their voxels, eight in a byte.
        record: Where they come from: `patients`, `left_out` (patients by split), `source`.
    Raises: ValueError: If a number is out of bounds.
    """

    @register_to_config
    def __init__(self, shapes: int, packed_bytes: int, record: dict[str, Any] | None = None) -> None:
        super().__init__()
        for name, value, most in (("shapes", shapes, MOST_SHAPES), ("packed_bytes", packed_bytes, MOST_BYTES)):
            if not (isinstance(value, int) and 1 <= value <= most):
                raise ValueError(f"{name} {value!r} of a component of shapes, expected 1 to {most}; save it again")
        self.packed: Tensor
        self.extent: Tensor
        self.ratings: Tensor
        self.register_buffer("packed", torch.zeros(packed_bytes, dtype=torch.uint8))
        self.register_buffer("extent", torch.ones((shapes, 3), dtype=torch.uint8))
        self.register_buffer("ratings", torch.ones((shapes, len(CHOSEN_BY))))

    @classmethod
    def of(
        cls, outlines: Sequence[np.ndarray], ratings: np.ndarray, record: dict[str, Any] | None = None
    ) -> "LesionShapes":
        """Keep outlines.

        Args:
            outlines: Bool (D, H, W) each, 1 mm, z y x, not empty; see :func:`without_steps`.
            ratings: (N, 4), as `CHOSEN_BY`.
            record: As for the class.
        """
        packed = [np.packbits(np.asarray(outline, bool).ravel()) for outline in outlines]
        made = cls(shapes=len(outlines), packed_bytes=sum(map(len, packed)), record=record)
        made.packed.copy_(torch.from_numpy(np.concatenate(packed)))
        made.extent.copy_(torch.tensor([outline.shape for outline in outlines]))
        made.ratings.copy_(torch.as_tensor(ratings))
        made.check()
        return made

    @classmethod
    def of_nodules(cls, shapes: "Sequence[NoduleShape]", record: dict[str, Any] | None = None) -> "LesionShapes":
        """Keep the outlines of a folder, without steps, and their ratings."""
        outlines = [without_steps(shape.outline, shape.slice_mm) for shape in shapes]
        ratings = [[shape.ratings[name] for name in CHOSEN_BY] for shape in shapes]
        return cls.of(outlines, np.array(ratings), record)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, **kwargs: Any) -> Any:
        """Load as `AlignedModel` does. Raises ValueError, too, if the numbers contradict each other."""
        loaded = super().from_pretrained(pretrained_model_name_or_path, **kwargs)
        try:
            (loaded[0] if isinstance(loaded, tuple) else loaded).check()
        except ValueError as error:
            raise ValueError(f"{pretrained_model_name_or_path}: {error}") from error
        return loaded

    def check(self) -> None:
        """Raise ValueError unless extents, voxels and ratings can be those of nodules."""
        extent, ratings = self.extent.cpu().numpy().astype(int), self.ratings.float()
        if extent.min() < 1 or extent.max() > LARGEST or self._ends()[-1] != len(self.packed):
            raise ValueError(
                f"shapes of {extent.min()} to {extent.max()} voxels do not fill {len(self.packed)} bytes, expected 1 "
                f"to {LARGEST} voxels that do; is the file damaged?"
            )
        if not bool(((ratings >= 1) & (ratings <= 5.01)).all()):
            raise ValueError("ratings of shapes are not all from 1 to 5; is the file damaged?")
        if not (self.diameter_mm() > 0).all():
            raise ValueError("a shape has no voxel; is the file damaged?")

    def outline(self, number: int) -> np.ndarray:
        """One outline, bool (D, H, W), z y x, 1 mm."""
        extent, ends = self.extent[number].tolist(), self._ends()
        start = int(ends[number - 1]) if number else 0
        bits = np.unpackbits(self.packed[start : int(ends[number])].cpu().numpy(), count=int(np.prod(extent)))
        return bits.reshape(extent).astype(bool)

    def diameter_mm(self) -> np.ndarray:
        """Of the spheres that have the outlines' volumes, (N,)."""
        if getattr(self, "_diameter_mm", None) is None:
            ones = np.concatenate([[0], np.cumsum(np.bitwise_count(self.packed.cpu().numpy()), dtype=np.int64)])
            self._diameter_mm = np.cbrt(6 / np.pi * np.diff(ones[np.concatenate([[0], self._ends()])]))
        return np.asarray(self._diameter_mm)

    def _ends(self) -> np.ndarray:
        """One past each outline's last byte."""
        return np.cumsum(-(-self.extent.cpu().numpy().astype(np.int64).prod(1) // 8))

    def choose(self, diameter_mm: float, requests: Mapping[str, float], rng: np.random.Generator) -> Chosen:
        """Choose one of the shapes that a request fits, all alike likely, and how it is placed.

        Shapes that would have to be scaled by more than `MOST_SCALE` are out. Without a request all others fit. With
        requests those within `ALIKE` fit, or the `NEAREST`, in the ratings; diameters count a little.

        Args:
            diameter_mm: Of the sphere that has the lesion's volume.
            requests: Ratings by name, from `CHOSEN_BY`; others are not looked at.
            rng: Chooses.
        Raises: ValueError: If no shape is near enough to the diameter, or a rating is out of range.
        """
        for name in CHOSEN_BY:
            if name in requests and not 1 <= requests[name] <= 5:
                raise ValueError(f"{name} {requests[name]}, expected a rating from 1 to 5")
        own = self.diameter_mm()
        apart = np.abs(np.log(own / diameter_mm)) / np.log(MOST_SCALE) if diameter_mm > 0 else np.full(len(own), np.inf)
        near = np.flatnonzero(apart <= 1)
        if not len(near):
            raise ValueError(
                f"diameter_mm {diameter_mm:g}: no real shape is within {100 * (MOST_SCALE - 1):.0f} %, they have "
                f"{own.min():.1f} to {own.max():.1f} mm; choose another diameter, or the shape procedural"
            )
        asked = [column for column, name in enumerate(CHOSEN_BY) if name in requests]
        if asked:
            wanted = np.array([requests[CHOSEN_BY[column]] for column in asked])
            steps = self.ratings.float().cpu().numpy()[near][:, asked] - wanted
            distance = (steps**2).sum(1) + (DIAMETER_COUNTS * apart[near]) ** 2
            order = np.argsort(distance, kind="stable")
            near = near[order[: max(NEAREST, int((distance <= ALIKE**2).sum()))]]
        number = int(near[rng.integers(len(near))])
        mirrored = (bool(rng.integers(2)), bool(rng.integers(2)))
        return Chosen(number, float(diameter_mm / own[number]), float(rng.uniform(0, 360)), mirrored)

    def mask(
        self,
        chosen: Chosen,
        shape: Sequence[int],
        spacing_mm: Sequence[float],
        center_zyx: Sequence[float],
    ) -> np.ndarray:
        """Draw a chosen shape.

        Args:
            chosen: From :meth:`choose`.
            shape, spacing_mm, center_zyx: As for `imaging.lesions.shapes.nodule_mask`.
        Returns: uint8 (D, H, W), 1 inside; face-connected; its volume is that of the diameter to the voxel, before what
            lies outside the array is cut off.
        Raises: ValueError: As `nodule_mask`.
        """
        spacing = check_spacing(spacing_mm)
        center = check_center(shape, center_zyx)
        diameter_mm = chosen.scale * float(self.diameter_mm()[chosen.number])
        check_diameter(diameter_mm, spacing)
        pad = int(np.ceil(4 * SMOOTHING_MM)) + 1
        outline = np.pad(self.outline(chosen.number), pad).astype(np.float32)
        middle = np.array(ndimage.center_of_mass(outline))
        density = ndimage.gaussian_filter(outline, SMOOTHING_MM, mode="constant")
        reach_mm = chosen.scale * float(np.linalg.norm(np.array(outline.shape) / 2))
        offset, count = box_around(center, spacing, reach_mm)
        z, y, x = (axis / chosen.scale for axis in np.ix_(*axes_mm(offset, count, center, spacing)))
        cos, sin = np.cos(np.radians(chosen.turn_deg)), np.sin(np.radians(chosen.turn_deg))
        flip_z, flip_x = (-1.0 if flip else 1.0 for flip in chosen.mirrored)
        own = (flip_z * z, cos * y - sin * x, flip_x * (cos * x + sin * y))
        points = np.stack(np.broadcast_arrays(*(at + mid for at, mid in zip(own, middle, strict=True))))
        level = ndimage.map_coordinates(density, points, order=1, mode="constant")
        solid = of_volume(level, round(np.pi / 6 * diameter_mm**3 / float(np.prod(spacing))))
        return paste_box(solid.astype(np.uint8), offset, shape)


class LearnedShapes:
    """Masks that a paired pipeline makes for the place where they are to lie; its image of the lesion is not used.

    Args:
        pipeline: A `PairedLesionPipeline`.
    """

    def __init__(self, pipeline: Any) -> None:
        self.pipeline = pipeline

    def mask_in(
        self, ct: Any, center_zyx: Sequence[float], diameter_mm: float, requests: Mapping[str, float], seed: int
    ) -> tuple[Any, dict[str, Any]]:
        """One mask, and a record of it.

        Args:
            ct: Scan, or one crop (1, D, H, W) on the model's grid.
            center_zyx, diameter_mm: Of the pipeline's call.
            requests: Ratings by name, from `CHOSEN_BY`; those that the mask's network does not know do nothing.
            seed: Of the noise.
        Returns: The mask, uint8, an image or an array as `ct`; and the record.
        Raises: ValueError: As the pipeline's call, or if the networks make no lesion.
        """
        known = {name: value for name, value in requests.items() if name in self.pipeline.attributes}
        is_crop = isinstance(ct, np.ndarray | Tensor)
        made = self.pipeline(
            torch.as_tensor(ct)[None] if is_crop else ct,
            center_zyx,
            diameter_mm,
            known,
            generator=torch.Generator(self.pipeline.device).manual_seed(seed),
            match_noise=False,
            exact_diameter=True,
            mask_alone=self.pipeline.config["masks_alone"],
        )
        mask = made.lesion_mask[0].cpu().numpy() if is_crop else made.lesion_mask
        voxels = mask if is_crop else _voxels_of(mask)
        if not voxels.any():
            raise ValueError("the paired pipeline made no lesion there; choose another seed, or the shape real")
        return mask, {"kind": "learned", "seed": seed, **known}


def without_steps(outline: np.ndarray, slice_mm: float) -> np.ndarray:
    """An outline whose steps along z are smoothed where its slices are thick; its volume stays.

    The signed distance to the border within each slice is blurred along z, a shape-based interpolation (Raya & Udupa
    1990). The blurred outline itself would have the same level 0.5.

    Args:
        outline: Bool (D, H, W), 1 mm, z y x, not empty.
        slice_mm: Distance of the slices that it was drawn on.
    Returns: Bool, cut to its box.
    """
    if slice_mm <= THICK_MM:
        return outline[mask_box(outline)]
    reach = 2 * slice_mm
    padded = np.pad(outline, int(np.ceil(reach)))
    depth_mm = np.full(padded.shape, -reach)
    for number in np.flatnonzero(padded.any(axis=(1, 2))):
        inner, outer = (ndimage.distance_transform_edt(part) for part in (padded[number], ~padded[number]))
        depth_mm[number] = np.clip(inner - outer, -reach, reach)
    blurred = ndimage.gaussian_filter1d(depth_mm, SLICE_SMOOTHING * slice_mm, axis=0) + reach
    smooth = of_volume(blurred, int(outline.sum()))
    return smooth[mask_box(smooth)]


def drawn_mask_image(
    image: "sitk.Image",
    center_zyx: Sequence[float],
    diameter_mm: float,
    requests: Mapping[str, float],
    seed: int,
    shapes: "LesionShapes | LearnedShapes | None",
) -> "tuple[sitk.Image, dict[str, Any]]":
    """A lesion's mask on the grid of an image: a real or learned shape, or a procedural one where there are no shapes.

    Args:
        image: 3D image whose size and geometry the mask takes; for a learned shape the CT.
        center_zyx, diameter_mm: As for `imaging.lesions.shapes.nodule_mask`.
        requests: Ratings by name; real shapes are chosen by `CHOSEN_BY`, procedural ones have lobulation and
            spiculation, `USUAL` where they are not requested.
        seed: Of the shape.
        shapes: From :func:`shapes_for`.
    Returns: uint8 image, 1 inside; and a record of the shape.
    Raises: ValueError: As `nodule_mask` and :meth:`LesionShapes.choose`.
    """
    import SimpleITK

    if isinstance(shapes, LearnedShapes):
        return shapes.mask_in(image, center_zyx, diameter_mm, requests, seed)
    mask, record = drawn_mask(
        image.GetSize()[::-1], image.GetSpacing()[::-1], center_zyx, diameter_mm, requests, seed, shapes
    )
    result = SimpleITK.GetImageFromArray(mask)
    result.CopyInformation(image)
    return result, record


def drawn_mask(
    shape: Sequence[int],
    spacing_mm: Sequence[float],
    center_zyx: Sequence[float],
    diameter_mm: float,
    requests: Mapping[str, float],
    seed: int,
    shapes: LesionShapes | None,
) -> tuple[np.ndarray, dict[str, Any]]:
    """As :func:`drawn_mask_image`, on an array."""
    if shapes is None:
        ratings = {name: float(requests.get(name, usual)) for name, usual in USUAL.items()}
        mask = nodule_mask(shape, spacing_mm, center_zyx, diameter_mm, seed=seed, **ratings)
        return mask, {"kind": "procedural", "seed": seed, **ratings}
    chosen = shapes.choose(diameter_mm, requests, np.random.default_rng(seed))
    ratings = dict(zip(CHOSEN_BY, shapes.ratings[chosen.number].float().tolist(), strict=True))
    record = {"kind": "real", "seed": seed, **chosen._asdict(), "mirrored": list(chosen.mirrored), **ratings}
    return shapes.mask(chosen, shape, spacing_mm, center_zyx), record


def shapes_for(pipeline: Any, kind: ShapeKind) -> LesionShapes | LearnedShapes | None:
    """The shapes of a pipeline that lesions without a mask are drawn from; None draws procedural ones.

    Learned shapes are those of its attribute `learned_shapes`, which `load_pipeline` sets from `--paired`.

    Raises: ValueError: If the kind is unknown, or there are no learned shapes.
    """
    if kind not in get_args(ShapeKind):
        raise ValueError(f"shape {kind!r}, expected {', '.join(get_args(ShapeKind))}")
    if kind == "learned":
        learned: LearnedShapes | None = getattr(pipeline, "learned_shapes", None)
        if learned is None:
            raise ValueError(
                "shape learned needs a paired pipeline: pass --paired FOLDER, or in Python set "
                "pipeline.learned_shapes = LearnedShapes(PairedLesionPipeline.from_pretrained(FOLDER))"
            )
        return learned
    found: LesionShapes | None = pipeline.shapes if kind == "real" else None
    return found


def missing_shapes(pipeline: Any, kind: ShapeKind) -> str:
    """What to tell a user who gets procedural shapes and did not choose them; "" where there is nothing to tell."""
    if kind != "real" or pipeline.shapes is not None:
        return ""
    return (
        "this pipeline has no shapes of real nodules, so lesions without a mask get procedural ones; "
        "scripts/prepare_shapes.py makes shapes, and --shape procedural silences this"
    )


def met_by_shape(shapes: LesionShapes | LearnedShapes | None) -> tuple[str, ...]:
    """The attributes that the choice of a shape meets."""
    return tuple(USUAL) if shapes is None else CHOSEN_BY


def _voxels_of(image: "sitk.Image") -> np.ndarray:
    import SimpleITK

    return np.asarray(SimpleITK.GetArrayViewFromImage(image))


def of_volume(level: np.ndarray, voxels: int) -> np.ndarray:
    """The largest face-connected part above the highest level that gives it so many voxels."""
    order = np.sort(level[level > 0])[::-1]
    low, high = min(voxels, len(order)) - 1, len(order) - 1
    part = _largest(level >= order[low])  # all in one piece, as a rule
    while part.sum() < voxels and low < high:
        middle = (low + high) // 2
        part = _largest(level >= order[middle])
        low, high = (middle + 1, high) if part.sum() < voxels else (low, middle)
        part = _largest(level >= order[low])
    return part


def _largest(inside: np.ndarray) -> np.ndarray:
    labels, count = ndimage.label(inside)
    return labels == 1 + np.bincount(labels.ravel())[1:].argmax() if count > 1 else inside

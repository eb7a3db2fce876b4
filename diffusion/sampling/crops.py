"""Crops on the model's grid, made from tensors and pasted back; `scan_crop` does the same for a whole scan."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from imaging.compositing import composite, edge_weight
from imaging.files.hounsfield import check_hu
from imaging.lesions.mask import binary_mask, grown_mask
from imaging.window import AIR_HU

SAME_SPACING = 0.01  # relative; the same grid to a hundredth


@dataclass(frozen=True)
class Crops:
    """What the model sees, and what it may paint; all (B, 1, D, H, W).

    Attributes:
        ct_hu: HU. Where `valid_mask` is 0, the nearest voxel of the scan is repeated.
        lesion_mask: 1 where the lesion is.
        paint_mask: 1 where something is painted: the lesion and a margin around it.
        valid_mask: 0 where the crop reaches outside its scan.
        semantic_map: Labels of `imaging.semantic_map.LABELS`; None lets the pipeline make the map.
        shows_map: Whether `ct_hu` is the map drawn as a CT (`conditioning.map_as_hu`): then nothing of it is blanked.
    """

    ct_hu: Tensor
    lesion_mask: Tensor
    paint_mask: Tensor
    valid_mask: Tensor
    semantic_map: Tensor | None = None
    shows_map: bool = field(default=False, kw_only=True)

    def __len__(self) -> int:
        return len(self.ct_hu)

    def repeated(self, count: int) -> "Crops":
        """Each crop `count` times, one after the other."""
        if count == 1:
            return self
        given = (self.ct_hu, self.lesion_mask, self.paint_mask, self.valid_mask, self.semantic_map)
        many = [None if one is None else one.repeat_interleave(count, 0) for one in given]
        return Crops(*many, shows_map=self.shows_map)  # type: ignore[arg-type]


@dataclass(frozen=True)
class TensorCrops(Crops):
    """Crops that a user gave as tensors or arrays; the result has the same type.

    Attributes:
        given: The CT as it was given.
        weight_masks: The painted regions without the limits of the scan, which decide the blending, uint8 (B, D, H, W).
        spacing_mm: Of the model's grid.
    """

    given: Any = None
    weight_masks: Any = None
    spacing_mm: float = 1.0

    def paste(self, made_hu: Tensor, blend_mm: float, output_type: str) -> np.ndarray | Tensor:
        """The crops with what was made, blended in; outside the painted region every bit is the given one.

        Args:
            made_hu: (B n, 1, D, H, W), n versions of each crop, HU.
            blend_mm: Depth of the blending from the border of the painted region inwards.
            output_type: "input", "pt" or "np".
        Returns: (B n, 1, D, H, W), of the type of the given CT.
        """
        count = len(made_hu) // len(self)
        ct_hu = self.ct_hu.cpu()
        volumes = ct_hu.float().numpy() if ct_hu.dtype in (torch.float16, torch.bfloat16) else ct_hu.numpy()
        spacing_mm = np.full(3, self.spacing_mm)
        # where the scan ends, there is nothing to blend with
        weights = [edge_weight(mask, spacing_mm, blend_mm) for mask in self.weight_masks]
        weights = [weight * valid for weight, valid in zip(weights, self.valid_mask[:, 0].numpy(), strict=True)]
        painted = []
        for n, made in enumerate(made_hu[:, 0].cpu().numpy()):
            before = volumes[n // count, 0]
            painted.append(composite(before, made - np.maximum(before, AIR_HU), weights[n // count]))
        result = torch.from_numpy(np.stack(painted)[:, None]).to(self.ct_hu)
        return result.numpy() if self._as_array(output_type) else result

    def painted(self, output_type: str) -> np.ndarray | Tensor:
        """The painted regions, uint8 (B, 1, D, H, W)."""
        return self.paint_mask.numpy() if self._as_array(output_type) else self.paint_mask

    def _as_array(self, output_type: str) -> bool:
        return output_type == "np" or (output_type == "input" and isinstance(self.given, np.ndarray))


def crops_of_tensors(
    ct: np.ndarray | Tensor,
    mask: Any,
    margin_mm: float,
    own_mm: float,
    multiple: int,
    spacing_mm: Any = None,
    semantic_map: Any = None,
    valid_mask: Any = None,
) -> TensorCrops:
    """Check crops that a user gives, and say what is painted in them.

    Args:
        ct: HU, (B, 1, D, H, W).
        mask: The lesions, same shape.
        margin_mm: Width of what is painted around them.
        own_mm: Spacing of the model's grid.
        multiple: D, H and W are multiples of it.
        spacing_mm: Of the crops, (3,) or (B, 3); None is the model's.
        semantic_map, valid_mask: As :class:`Crops`, or None.
    Raises: ValueError: If shapes, values or the spacing do not fit.
    """
    ct_hu = torch.as_tensor(ct)
    lesion_mask = torch.from_numpy(binary_mask(torch.as_tensor(mask).cpu().numpy()))
    check_crops(ct_hu, lesion_mask, multiple)
    check_hu(ct_hu.float().cpu().numpy(), "ct", crop=True)
    check_spacing(spacing_mm, own_mm, len(ct_hu))
    valid = torch.ones_like(lesion_mask)
    if valid_mask is not None:
        valid = torch.from_numpy(binary_mask(torch.as_tensor(valid_mask).cpu().numpy(), "valid_mask"))
    semantic = None if semantic_map is None else torch.as_tensor(semantic_map)
    for name, given in (("valid_mask", valid), ("semantic_map", semantic)):
        if given is not None and given.shape != ct_hu.shape:
            raise ValueError(f"{name} has shape {tuple(given.shape)}, ct {tuple(ct_hu.shape)}; must be equal")
    grown = np.stack([grown_mask(lesion, margin_mm, 3 * (own_mm,)) for lesion in lesion_mask[:, 0].numpy()])
    paint_mask = torch.from_numpy(grown[:, None]) * valid
    return TensorCrops(ct_hu, lesion_mask, paint_mask, valid, semantic, ct, grown, own_mm)


def check_crops(ct_hu: Tensor, lesion_mask: Tensor, multiple: int) -> None:
    """Raise ValueError unless these are (B, 1, D, H, W), edges a multiple of `multiple`, finite, and no mask empty."""
    if ct_hu.ndim != 5 or ct_hu.shape[1] != 1 or any(edge % multiple for edge in ct_hu.shape[2:]):
        raise ValueError(
            f"ct has shape {tuple(ct_hu.shape)}, expected (B, 1, D, H, W) with D, H, W multiples of {multiple}; "
            "pass a SimpleITK.Image to have the crop made"
        )
    if lesion_mask.shape != ct_hu.shape:
        raise ValueError(f"mask has shape {tuple(lesion_mask.shape)}, ct {tuple(ct_hu.shape)}; they must be equal")
    if not torch.isfinite(ct_hu.float()).all():
        raise ValueError("ct holds NaN or infinite values; replace them with HU first")
    empty = (lesion_mask.flatten(1) == 0).all(dim=1).nonzero().flatten().tolist()
    if empty:
        raise ValueError(f"mask of volume {empty[0]} is empty; it says where the lesion is painted")


def check_spacing(spacing_mm: Any, own: float, batch: int) -> None:
    """Raise ValueError unless a spacing, (3,) or (B, 3), z, y, x, is that of the model, `own`, along every axis."""
    if spacing_mm is None:
        return
    spacing = torch.as_tensor(spacing_mm, dtype=torch.float64)
    if spacing.shape not in ((3,), (batch, 3)) or not (spacing > 0).all():
        raise ValueError(f"spacing_mm {spacing_mm}, expected three positive numbers (z, y, x), or three per volume")
    if not ((spacing / own - 1).abs() <= SAME_SPACING).all():
        raise ValueError(
            f"spacing_mm {spacing.tolist()}: the model has learnt {own:g} mm along every axis; resample the crop, "
            "or pass a SimpleITK.Image to have that done"
        )


def check_batch(generator: Any, latents: Tensor | None, shape: Sequence[int]) -> None:
    """Raise ValueError unless there is one generator or as many as lesions, and the first noise, if any, has `shape`.

    Args:
        generator, latents: Of the call.
        shape: (B, C, d, h, w) of the latent.
    """
    if isinstance(generator, list) and len(generator) != shape[0]:
        raise ValueError(f"{len(generator)} generators for {shape[0]} volumes; give one, or one per volume")
    if latents is not None and tuple(latents.shape) != tuple(shape):
        raise ValueError(
            f"latents have shape {tuple(latents.shape)}, expected {tuple(shape)}: (lesions, channels, d, h, w) of the "
            "model's latent"
        )

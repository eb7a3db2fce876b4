"""`RandInsertNoduled`: lesions in a MONAI training."""

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from diffusion.transforms.arguments import Labels, Pool, check_how, inserted, pool_of
from diffusion.transforms.pool import Request
from foundation.config import SHIPPED_PIPELINE

try:
    from monai.data import MetaTensor
    from monai.transforms import MapTransform, RandomizableTransform
    from monai.utils import TransformBackends, convert_to_dst_type
except ImportError as error:
    raise ImportError("RandInsertNoduled needs MONAI: pip install 'monai>=1.4,<2'") from error


class RandInsertNoduled(RandomizableTransform, MapTransform):
    """Put lung nodules into a CT and its label map.

    The nodules come from a pool that the pipeline makes once; in training, no network runs. Each gets a new place in
    the lung, as real nodules lie (`imaging.lesions.wall_gaps`), and is one of its sixteen mirror images. The noise is
    that of the CT. Where there is no room, in a patch without lung for example, nothing changes.

    Put it after `Spacingd` and the cropping, and before intensities are scaled and before `RandAffined` and the like.

    Args:
        keys: Of the image and of its label; or of the image alone. Both are (1, X, Y, Z) on one grid.
        prob: Probability that nodules are put in.
        pipeline, diameter_mm, attributes: Of the pool, see `PoolSettings`.
        pool: How many nodules are made; or a pool's folder, or a `LesionPool`.
        lesions: Least and largest number of nodules that are put in.
        labels: "semantic", all nodules have `label_value`; or "instance", each the next number.
        label_value: Of a nodule in a semantic label map.
        spacing_mm: Of images that carry no affine, along their axes.
        allow_missing_keys: Whether an item without the image or the label is left as it is.
        making: `cache_dir`, `background`, `device`, as `lesion_pool`; `scans`, `steps`, `seed`, as `PoolSettings`.
    Raises: ValueError: If an argument is out of range; in a call, if the image is not in HU or a shape does not fit.
    """

    backend = [TransformBackends.TORCH]  # noqa: RUF012 - as MONAI has it

    def __init__(
        self,
        keys: Sequence[Hashable] | Hashable = ("image", "label"),
        prob: float = 0.3,
        pipeline: str = SHIPPED_PIPELINE,
        diameter_mm: tuple[float, float] = (4.0, 20.0),
        attributes: Mapping[str, Request] | None = None,
        pool: Pool = 200,
        lesions: tuple[int, int] = (1, 1),
        labels: Labels = "semantic",
        label_value: int = 1,
        spacing_mm: Sequence[float] | None = None,
        allow_missing_keys: bool = False,
        **making: Any,
    ) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        RandomizableTransform.__init__(self, prob)
        if len(self.keys) not in (1, 2):
            raise ValueError(f"keys {self.keys}, expected that of the image and that of its label")
        self.lesions = check_how(lesions, labels, label_value)
        self.label_value = None if labels == "instance" else label_value
        self.spacing_mm = None if spacing_mm is None else [float(mm) for mm in spacing_mm]
        self.pool = pool_of(pool, pipeline, diameter_mm, attributes, making)
        self._seed = 0

    def randomize(self, data: Any = None) -> None:
        """Draw whether nodules are put in, and the seed of all else."""
        super().randomize(None)
        if self._do_transform:
            self._seed = int(self.R.randint(2**31))

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The item with nodules, if they are put in; the given item stays as it is."""
        result = dict(data)
        self.randomize()
        missing = [key for key in self.keys if key not in result]
        if missing and not self.allow_missing_keys:
            raise KeyError(f"{missing[0]!r} is not in the item, which has {', '.join(map(repr, result))}")
        if missing or not self._do_transform:
            return result
        copies = [_copy(result[key], key) for key in self.keys]
        seed, affine = self._seed, self._affine(result[self.keys[0]])
        label = copies[1][0] if len(copies) > 1 else None
        if inserted(copies[0][0], label, affine, self.pool, self.lesions, self.label_value, seed):
            for key, copy in zip(self.keys, copies, strict=True):
                result[key] = convert_to_dst_type(copy, result[key])[0]  # with its affine and its history
        return result

    def _affine(self, image: Any) -> np.ndarray:
        if self.spacing_mm is not None:
            return np.diag(self.spacing_mm)
        if not isinstance(image, MetaTensor):
            raise ValueError(
                f"{self.keys[0]!r} is a {type(image).__name__} without an affine; pass spacing_mm, or load it "
                "by LoadImaged"
            )
        return image.affine.cpu().numpy()


def _copy(value: Any, key: Hashable) -> np.ndarray:
    """The values to write into; a MetaTensor's `clone` would take longer to copy what is beside them."""
    if not isinstance(value, np.ndarray | torch.Tensor):
        raise ValueError(
            f"{key!r} is a {type(value).__name__}, expected an image; put LoadImaged before this transform"
        )
    if value.ndim != 4 or value.shape[0] != 1:
        raise ValueError(
            f"{key!r} has the shape {tuple(value.shape)}, expected (1, X, Y, Z); put EnsureChannelFirstd before this "
            "transform, and those that make a channel for each class behind it"
        )
    plain = value.as_tensor() if isinstance(value, MetaTensor) else value
    return (plain.detach().cpu().numpy() if isinstance(plain, torch.Tensor) else plain).copy(order="K")

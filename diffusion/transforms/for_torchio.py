"""`RandomInsertNodule`: lesions in a TorchIO training."""

from collections.abc import Mapping
from typing import Any

from diffusion.transforms.arguments import Labels, Pool, check_how, inserted, pool_of
from diffusion.transforms.pool import LesionPool, Request
from foundation.config import SHIPPED_PIPELINE

try:
    from torchio import LabelMap, ScalarImage, Subject
    from torchio.transforms import Transform
    from torchio.transforms.augmentation import RandomTransform
except ImportError as error:
    raise ImportError("RandomInsertNodule needs TorchIO: pip install 'torchio>=0.20,<2'") from error


class RandomInsertNodule(RandomTransform):
    """Put lung nodules into a CT and its label map; as `diffusion.transforms.for_monai.RandInsertNoduled`.

    Put it after `ToCanonical`, `Resample` and the cropping, and before intensities are scaled. What was put in is in
    the subject's history as `InsertNodule`, which gives the same again.

    Args:
        p: Probability that nodules are put in.
        pipeline, diameter_mm, attributes, pool, lesions, labels, label_value, making: As `RandInsertNoduled`.
        image, label: Names of the subject's images; None takes the first `ScalarImage` and the first `LabelMap`.
        kwargs: Further arguments of `torchio.Transform`, `copy` for example.
    Raises: ValueError: As `RandInsertNoduled`.
    """

    def __init__(
        self,
        p: float = 0.3,
        pipeline: str = SHIPPED_PIPELINE,
        diameter_mm: tuple[float, float] = (4.0, 20.0),
        attributes: Mapping[str, Request] | None = None,
        pool: Pool = 200,
        lesions: tuple[int, int] = (1, 1),
        labels: Labels = "semantic",
        label_value: int = 1,
        image: str | None = None,
        label: str | None = None,
        copy: bool = True,
        **making: Any,
    ) -> None:
        super().__init__(p=p, copy=copy)
        self.lesions = check_how(lesions, labels, label_value)
        self.label_value = None if labels == "instance" else label_value
        self.image, self.label = image, label
        self.pool = pool_of(pool, pipeline, diameter_mm, attributes, making)

    def apply_transform(self, subject: Subject) -> Subject:
        """The subject with nodules, where there is room."""
        fixed = InsertNodule(
            self.pool, self._get_random_seed(), self.lesions, self.label_value, self.image, self.label, copy=self.copy
        )
        transformed: Subject = fixed(subject)
        return transformed


class InsertNodule(Transform):
    """What `RandomInsertNodule` did once.

    Args:
        pool: Or its folder.
        seed: Decides which nodules, and where.
        lesions, label_value, image, label: As `RandomInsertNodule`; a `label_value` of None numbers instances.
        kwargs: Of `torchio.Transform`.
    """

    def __init__(
        self,
        pool: Any,
        seed: int,
        lesions: tuple[int, int] = (1, 1),
        label_value: int | None = 1,
        image: str | None = None,
        label: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.pool = pool if isinstance(pool, LesionPool) else LesionPool(pool)
        self.seed, self.lesions, self.label_value, self.image, self.label = seed, lesions, label_value, image, label
        self.args_names = ["pool", "seed", "lesions", "label_value", "image", "label"]

    def apply_transform(self, subject: Subject) -> Subject:
        """The subject with nodules, where there is room."""
        image, label = _named(subject, self.image, ScalarImage), _named(subject, self.label, LabelMap)
        if image is None:
            raise ValueError(f"the subject has no image {self.image or ''}; it has {', '.join(subject)}")
        given = [one for one in (image, label) if one is not None]
        for one in given:
            if one.num_channels != 1:
                raise ValueError(f"an image of {one.num_channels} channels, expected one channel")
        arrays = [one.data.numpy()[0].copy() for one in given]
        labels = arrays[1] if label is not None else None
        affine = image.affine
        if inserted(arrays[0], labels, affine, self.pool, self.lesions, self.label_value, self.seed):
            for one, array in zip(given, arrays, strict=True):
                one.set_data(array[None])
        return subject


def _named(subject: Subject, name: str | None, kind: type) -> Any:
    """The image of a name, or the first of a kind; None where there is none."""
    if name is not None:
        return subject.get(name)
    return next((one for one in subject.get_images(intensity_only=False) if type(one) is kind), None)

"""Options of a set of synthetic lesions; the module imports nothing heavy, so that scripts show their help at once."""

from dataclasses import dataclass
from typing import Literal

from diffusion.sampling.loading import SamplingConfig
from foundation.config import ExistingFolder

RATED = ("malignancy", "lobulation", "spiculation", "texture")  # what a guide can be requested


@dataclass(frozen=True, kw_only=True)
class SyntheticSetConfig(SamplingConfig):
    """What to inpaint; lesion k of a nodule depends on the seed, its row and k alone.

    Attributes:
        data: Prepared dataset that gives scans and masks; the rows of `out`, a new one, keep their split.
        split: "train", "validation" or "test".
        lesions: Masks of the split to use, evenly spaced; null takes all.
        samples: Lesions for each mask; with more than one, sample k of a nodule is called <nodule>_seed<k>.
        batch_size: Lesions at a time.
        site: Where lesions are painted: "own", each over the real lesion of its mask, or "free", into lesion-free lung
            of another patient of the split. A mask for which no such place is found is left out. "whole" makes the
            whole crop from its semantic map; the pipeline must have been trained for it (whole_share).
        own_ratings: Ratings requested as readers gave them to the real lesion of each mask, such as malignancy,texture;
            a lesion without one is not requested it.
    """

    data: ExistingFolder
    split: str = "test"
    lesions: int | None = None
    samples: int = 1
    batch_size: int = 8
    site: Literal["own", "free", "whole"] = "own"
    own_ratings: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.samples < 1 or self.batch_size < 1 or (self.lesions is not None and self.lesions < 1):
            raise ValueError(
                f"samples {self.samples}, batch_size {self.batch_size}, lesions {self.lesions}: expected at least 1 of "
                "each"
            )
        unknown = [name for name in self.own_ratings or () if name not in RATED]
        if unknown:
            raise ValueError(f"own_ratings {', '.join(unknown)}: expected some of {', '.join(RATED)}")

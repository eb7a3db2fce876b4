"""Statistics of real lesions: a population to draw attributes from, and a measure of how plausible a lesion is.

The distance of a lesion to real ones is that of Mahalanobis (1936), d² = (z - μ)ᵀ Σ⁻¹ (z - μ). z holds the lesion's
figures of appearance and the logarithm of its volume, each standardised and limited. μ and Σ are those of the training
lesions. Σ is shrunk towards a multiple of the identity (Ledoit & Wolf 2004), because there are forty figures of only a
few hundred lesions.

The plausibility of a lesion is the rank of its distance among lesions of other patients, p = (1 + #{dᵢ ≥ d}) / (1 + n).
This is the p-value of conformal prediction (Vovk, Gammerman & Shafer 2005). So a threshold of 0.05 refuses one real
lesion in twenty. benchmarks/speed/synthesize.md says what it finds: a blob of one value, a missing lesion or calcium
throughout, but not a little too much blur or noise.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save
from sklearn.covariance import LedoitWolf

from evaluation.lesions.appearance import appearance_matrix, volume_mm3
from evaluation.lesions.lesion_sets import Lesion, load_lesions
from foundation.atomic import write_atomically
from imaging.dataset.nodules import load_nodules
from imaging.lesions.measured_attributes import MEASURED, measured_attributes

SHIPPED = Path(__file__).with_name("real_lesions.safetensors")  # of the shipped pipeline's training patients
RATED = ("malignancy", "lobulation", "spiculation", "texture")
CHARACTER = ("diameter_mm", *RATED, *MEASURED)  # what a lesion can be requested
FARTHEST = 6.0  # standard deviations of a figure; kurtosis and the like have long tails
LEAST = 100  # lesions, for forty figures; and held-out ones, for a threshold of a hundredth


@dataclass(frozen=True)
class RealLesions:
    """Figures of the training lesions of a prepared dataset, N of them, and distances of n held-out ones.

    Attributes:
        names: Of the F figures, log volume last.
        mean: (F,).
        deviation: (F,), above 0.
        centre: (F,), μ of the standardised and limited figures.
        precision: (F, F), Σ⁻¹.
        held_out: (n,), distances of the validation lesions, ascending.
        character: (N, 9), columns as `CHARACTER`; NaN where not rated.
        equivalent_mm: (N,), diameter of the sphere that has the mask's volume; readers' diameters may be others.
    """

    names: tuple[str, ...]
    mean: np.ndarray
    deviation: np.ndarray
    centre: np.ndarray
    precision: np.ndarray
    held_out: np.ndarray
    character: np.ndarray
    equivalent_mm: np.ndarray

    def distances(self, lesions: list[Lesion]) -> np.ndarray:
        """How far lesions are from the training lesions, (M,), no unit.

        Raises: ValueError: If the file was made with other figures than are measured now.
        """
        figures, names = figures_of(lesions)
        if names != self.names:
            raise ValueError(
                "the reference was made with other figures of appearance; make it again with measure_real_lesions.py"
            )
        off = _limited(figures, self.mean, self.deviation) - self.centre
        return np.sqrt(np.einsum("nf,fg,ng->n", off, self.precision, off))

    def plausibility(self, distances: np.ndarray) -> np.ndarray:
        """Share of real lesions that are as far or farther, in (0, 1]; uniform for real lesions of other patients."""
        nearer = np.searchsorted(self.held_out, distances, side="left")
        return (1 + len(self.held_out) - nearer) / (1 + len(self.held_out))


def figures_of(lesions: list[Lesion]) -> tuple[np.ndarray, tuple[str, ...]]:
    """(M, F) figures of appearance and log volume in log mm³, and their names."""
    figures, names = appearance_matrix(lesions)
    return np.column_stack([figures, np.log([volume_mm3(lesion) for lesion in lesions])]), (*names, "log_volume")


def measure_real_lesions(data: Path) -> RealLesions:
    """Measure the training and the validation split of a prepared dataset.

    Raises: ValueError: If it is none, or either split has fewer than 100 lesions.
    """
    splits = {split: load_lesions(data, split)[0] for split in ("train", "validation")}
    for split, lesions in splits.items():
        if len(lesions) < LEAST:
            raise ValueError(f"{data}: {len(lesions)} lesions in split {split!r}, expected at least {LEAST}")
    train, held_out = splits.values()
    figures, names = figures_of(train)
    mean, deviation = figures.mean(0), np.maximum(figures.std(0), 1e-9)
    fitted = LedoitWolf().fit(_limited(figures, mean, deviation))

    nodules = load_nodules(data, "train")
    rated = {name: np.asarray(nodules[name], float) for name in ("diameter_mm", *RATED)}
    row = {name: number for number, name in enumerate(nodules["nodule_id"])}
    character = [
        [rated[name][row[lesion.name]] for name in rated]
        + list(measured_attributes(lesion.ct_hu, lesion.lesion_mask).values())
        for lesion in train
    ]
    equivalent_mm = np.cbrt(6 * np.asarray(nodules["volume_mm3"], float) / np.pi)
    real = RealLesions(
        names=names,
        mean=mean,
        deviation=deviation,
        centre=fitted.location_,
        precision=fitted.precision_,
        held_out=np.empty(0),
        character=np.array(character),
        equivalent_mm=equivalent_mm[[row[lesion.name] for lesion in train]],
    )
    return RealLesions(**{**vars(real), "held_out": np.sort(real.distances(held_out))})


def save_real_lesions(path: Path, real: RealLesions, record: Mapping[str, str]) -> None:
    """Write a safetensors file; it appears complete or not at all.

    Args:
        path: File.
        real: Measured.
        record: What is known of where it comes from.
    """
    arrays = {name: np.ascontiguousarray(array) for name, array in vars(real).items() if name != "names"}
    content = save(arrays, {**record, "names": ",".join(real.names), "character": ",".join(CHARACTER)})
    write_atomically(path, lambda temporary: temporary.write_bytes(content))


def load_real_lesions(path: Path = SHIPPED) -> RealLesions:
    """Read what `save_real_lesions` wrote.

    Raises: ValueError: If the file is none of these.
    """
    try:
        with safe_open(path, "numpy") as file:
            said = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
        if said["character"] != ",".join(CHARACTER):
            raise ValueError(f"describes {said['character']}")
        return RealLesions(names=tuple(said["names"].split(",")), **arrays)
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise ValueError(
            f"{path}: no reference of real lesions ({error}); make one with scripts/measure_real_lesions.py"
        ) from error


def _limited(figures: np.ndarray, mean: np.ndarray, deviation: np.ndarray) -> np.ndarray:
    return np.clip((figures - mean) / deviation, -FARTHEST, FARTHEST)

"""Translation tasks whose truth is known: one kind of CT is simulated from real scans, of which the other kind are."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from imaging.acquisition import quantum_noise, soft_kernel
from imaging.dataset.nodules import load_nodules, read_nodule
from imaging.dataset.scan_volumes import save_scans

Task = Literal["dose", "kernel"]
KINDS: Mapping[Task, tuple[str, str]] = {"dose": ("low_dose", "full_dose"), "kernel": ("soft", "sharp")}  # A and B
VALID = 0.9  # share of a crop that is scan; the others are small boxes in padding
BANK = 128  # voxels along each axis of the noise that crops are cut from


class Case(NamedTuple):
    """A held-out crop in both kinds.

    Attributes:
        name: Of the nodule.
        kinds: HU of A and of B, (D, H, W).
        lesion_mask, valid_mask: (D, H, W), bool.
    """

    name: str
    kinds: tuple[np.ndarray, np.ndarray]
    lesion_mask: np.ndarray
    valid_mask: np.ndarray


class Simulation:
    """Makes kind A of a scan of kind B.

    Args:
        task: "dose", kind A has quantum noise added; "kernel", a softer kernel.
        seed: Of the noise.
        noise_hu: Standard deviation of the added noise, HU.
        half_at_per_mm: Of the kernel; see `imaging.acquisition.soft_kernel`.
    """

    def __init__(self, task: Task, seed: int, noise_hu: float = 40.0, half_at_per_mm: float = 0.3) -> None:
        self.task, self.random = task, np.random.default_rng(seed)
        self.noise_hu, self.half_at_per_mm = noise_hu, half_at_per_mm
        self.bank = quantum_noise(3 * (BANK,), self.random) if task == "dose" else np.zeros(0)

    def __call__(self, ct_hu: np.ndarray, spacing_mm: float = 1.0) -> np.ndarray:
        """(D, H, W), HU -> whole HU, as scanners store them; the noise is another at each call."""
        if self.task == "kernel":
            made = soft_kernel(ct_hu, spacing_mm, self.half_at_per_mm)
        else:
            made = ct_hu + self.noise_hu * self.noise(ct_hu.shape)
        return np.rint(made).astype(np.float32)

    def noise(self, shape: tuple[int, ...]) -> np.ndarray:
        """Cut from the bank at a random place and turned over at random; repeated for a larger scan."""
        starts = [int(self.random.integers(max(BANK - size, 0) + 1)) for size in shape]
        flipped = np.flip(self.bank, tuple(axis for axis in range(3) if self.random.random() < 0.5))
        for axis, (start, size) in enumerate(zip(starts, shape, strict=True)):
            flipped = flipped.take(np.arange(start, start + size), axis, mode="wrap")
        return flipped


def crops(data: Path, split: str) -> Iterator[dict[str, Any]]:
    """Rows of the prepared dataset that are scan nearly everywhere."""
    dataset = load_nodules(data, split)
    for index in range(len(dataset)):
        row = read_nodule(dataset, index)
        if (np.asarray(row["valid_mask"]) > 0).mean() >= VALID:
            yield row


def save_unpaired(data: Path, out: Path, task: Task, seed: int) -> None:
    """Write `out`/a and `out`/b, prepared scans of the training split: half the patients in A, the others in B."""
    rows = list(crops(data, "train"))
    patients = sorted({str(row["patient_id"]) for row in rows})
    chosen = np.random.default_rng(seed).permutation(len(patients))[: len(patients) // 2]
    in_a = {patients[number] for number in chosen}
    simulate = Simulation(task, seed)
    spacing = float(rows[0]["spacing_mm"][0])
    for name in ("a", "b"):
        if not (out / name).exists():
            own = [row for row in rows if (str(row["patient_id"]) in in_a) == (name == "a")]
            volumes = (np.asarray(row["ct_hu"], np.float32) for row in own)
            made = [simulate(volume, spacing) if name == "a" else volume for volume in volumes]
            save_scans(zip([str(row["nodule_id"]) for row in own], made, strict=True), out / name, spacing)


def held_out(data: Path, task: Task, seed: int) -> list[Case]:
    """The crops of the validation split in both kinds."""
    simulate = Simulation(task, seed + 1)  # other noise than in training
    cases = []
    for row in crops(data, "validation"):
        ct_hu = np.asarray(row["ct_hu"], np.float32)
        masks = (np.asarray(row[name]) > 0 for name in ("lesion_mask", "valid_mask"))
        cases.append(Case(str(row["nodule_id"]), (simulate(ct_hu, float(row["spacing_mm"][0])), ct_hu), *masks))
    return cases

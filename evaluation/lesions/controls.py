"""Real lesions with a known fault: what a detector must find, beside what it must not.

Each control changes a real lesion and its rim and keeps its surroundings, as inpainting does. A figure that stays good
on a control whose fault can be seen is not good enough to judge synthetic lesions.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
from scipy.ndimage import distance_transform_edt
from skimage.restoration import denoise_wavelet, estimate_sigma
from tqdm.auto import tqdm

from evaluation.autoencoders.matched_blur import blur_valid
from evaluation.autoencoders.reconstruction import reconstruct
from evaluation.lesions.lesion_sets import Lesion
from imaging.window import to_hu, to_norm

BLURS_MM = (0.3, 0.5, 1.0)
BLEND_MM = 3.0  # outside the mask, over which the change fades out: the pipeline's usual painted margin
RECONSTRUCTED = "real, encoded and decoded"


def control_sets(real: Sequence[Lesion], vae: Any = None) -> Iterator[tuple[str, list[Lesion]]]:
    """Label and the real lesions with one fault each: reconstructed, blurred, without noise; one set at a time.

    Args:
        real: The lesions; each control has them in the same order.
        vae: From `autoencoder.loading.load_autoencoder`; None leaves the reconstruction out.
    """
    changes: dict[str, Callable[[Lesion], np.ndarray]] = {}
    if vae is not None:
        changes[RECONSTRUCTED] = partial(reconstructed, vae=vae)
    changes |= {f"real, blurred {sigma_mm:g} mm": partial(blurred, sigma_mm=sigma_mm) for sigma_mm in BLURS_MM}
    changes["real, without noise"] = without_noise
    for label, change in changes.items():
        yield label, [changed_lesion(lesion, change(lesion)) for lesion in tqdm(real, label, leave=False)]


def changed_lesion(lesion: Lesion, changed_hu: np.ndarray) -> Lesion:
    """The lesion with other HU in its mask, fading into its own over `BLEND_MM` outside.

    Args:
        lesion: Real.
        changed_hu: (D, H, W).
    """
    ct_hu, lesion_mask, valid_mask = lesion.ct_hu, lesion.lesion_mask, lesion.valid_mask
    outside_mm = distance_transform_edt(~lesion_mask, sampling=lesion.spacing_mm)
    weight = np.clip(1 - outside_mm / BLEND_MM, 0, 1) * valid_mask
    made_hu = (ct_hu + weight * (changed_hu - ct_hu)).astype(np.float32)
    return Lesion(lesion.name, lesion.patient_id, made_hu, lesion_mask, valid_mask, lesion.spacing_mm)


def blurred(lesion: Lesion, sigma_mm: float) -> np.ndarray:
    """The CT after a Gaussian of that standard deviation, (D, H, W) HU."""
    return blur_valid(lesion.ct_hu, lesion.valid_mask, sigma_mm, lesion.spacing_mm)


def without_noise(lesion: Lesion) -> np.ndarray:
    """The CT after BayesShrink of its wavelet coefficients (scikit-image), (D, H, W) HU."""
    ct_hu = np.asarray(lesion.ct_hu, np.float64)
    sigma = max(float(estimate_sigma(ct_hu)), 1e-3)
    return denoise_wavelet(ct_hu, sigma=sigma, wavelet="db2", mode="soft", method="BayesShrink", rescale_sigma=False)


def reconstructed(lesion: Lesion, vae: Any) -> np.ndarray:
    """The CT encoded and decoded, (D, H, W) HU; padded at its edges to a multiple of the autoencoder's factor."""
    window = (vae.config["window_width"], vae.config["window_level"])
    beyond = [(0, -size % vae.factor) for size in lesion.ct_hu.shape]
    ct_norm = np.pad(to_norm(np.asarray(lesion.ct_hu, np.float32), *window), beyond, mode="edge")
    made = reconstruct(vae, ct_norm)[tuple(slice(size) for size in lesion.ct_hu.shape)]
    return to_hu(made, *window)

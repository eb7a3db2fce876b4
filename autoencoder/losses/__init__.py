"""Texture losses on decoded images, restricted to the lesion; the time policies say when each counts.

Every loss takes (pred, target, mask) of shape (B, 1, D, H, W) and returns a scalar, or one value per sample with
`reduction="none"`. All are zero for an empty mask, independent of what lies outside the mask, differentiable in the
prediction, and computed in float32 also under autocast.
"""

from autoencoder.losses.cooccurrence import DIRECTIONS_13, cooccurrence_loss, direction_offsets
from autoencoder.losses.dog import dog_loss
from autoencoder.losses.gabor import FREQUENCIES_PER_MM, GaborBank, gabor_loss
from autoencoder.losses.wavelet import wavelet_texture_loss

__all__ = [
    "DIRECTIONS_13",
    "FREQUENCIES_PER_MM",
    "GaborBank",
    "cooccurrence_loss",
    "direction_offsets",
    "dog_loss",
    "gabor_loss",
    "wavelet_texture_loss",
]

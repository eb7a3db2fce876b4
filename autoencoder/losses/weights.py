"""The weight of each loss of stage 1, as a config names it; imports no torch."""

from dataclasses import dataclass


@dataclass(frozen=True)
class LossWeights:
    """Weight of each loss of stage 1; L1 always has weight 1, and a loss of weight 0 is not computed.

    Attributes:
        kl: KL divergence per voxel (KL autoencoder).
        commitment: Distance of the latent from its codes (VQ autoencoder).
        wavelet: Wavelet texture loss, eq. 10-11.
        lpips: Perceptual distance of random slices in the three planes.
        lesion: Squared error in the lesion; all lesions count the same. L1 alone makes small bright lesions too dark,
            because its minimum is the median.
        adversarial: Patch discriminator; 1 gives it the same gradient norm as the image losses together.
        adversarial_start: Step at which the discriminator starts to learn.
        adversarial_head_start: Steps from then on that it learns before it teaches the autoencoder.
    """

    kl: float = 1e-6
    commitment: float = 0.25
    wavelet: float = 0.0
    lpips: float = 0.0
    lesion: float = 0.0
    adversarial: float = 0.0
    adversarial_start: int = 2000
    adversarial_head_start: int = 250

"""The weight of each loss of stage 1, as a config names it; imports no torch."""

from dataclasses import dataclass


@dataclass(frozen=True)
class LossWeights:
    """Weight of each loss of stage 1 beside L1, which counts 1; a loss of weight 0 is not computed.

    Attributes:
        kl: KL divergence per voxel (KL autoencoder).
        commitment: Distance of the latent from its codes (VQ autoencoder).
        wavelet: Wavelet texture loss, eq. 10-11.
        lpips: Perceptual distance of random slices in the three planes.
        lesion: Squared error in the lesion, each lesion counting alike: its minimum is the mean, where that of L1 is
            the median, which leaves small bright lesions too dark.
        adversarial: Patch discriminator; 1 lets it pull as strongly as the reconstruction losses together.
        adversarial_start: Step from which on it takes part; before that, neither of the two is trained by it.
    """

    kl: float = 1e-6
    commitment: float = 0.25
    wavelet: float = 0.0
    lpips: float = 0.0
    lesion: float = 0.0
    adversarial: float = 0.0
    adversarial_start: int = 2000

"""Stage 1: ct_norm <-> latent."""

from autoencoder.identity import IdentityAutoencoder
from autoencoder.kl import AutoencoderKL3D

__all__ = ["AutoencoderKL3D", "IdentityAutoencoder"]

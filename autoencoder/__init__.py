"""Stage 1: ct_norm <-> latent."""

from autoencoder.identity import IdentityAutoencoder
from autoencoder.kl import AutoencoderKL3D
from autoencoder.vq import VQAutoencoder3D

__all__ = ["AutoencoderKL3D", "IdentityAutoencoder", "VQAutoencoder3D"]

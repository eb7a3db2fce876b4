"""The autoencoder that does nothing: pixel-space diffusion through the same code as latent diffusion."""

from typing import Any

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.autoencoders.vae import DecoderOutput, DiagonalGaussianDistribution
from diffusers.models.modeling_outputs import AutoencoderKLOutput
from torch import Tensor

from autoencoder.aligned_model import AlignedModel


class IdentityAutoencoder(AlignedModel, ModelMixin, ConfigMixin):
    """latent = ct_norm; the interface of :class:`autoencoder.kl.AutoencoderKL3D` with factor 1 and one channel."""

    factor = 1
    decoder_margin = encoder_margin = 0
    is_local = gives_gradients = True

    @register_to_config
    def __init__(
        self,
        latent_channels: int = 1,
        window_width: float = 1500.0,
        window_level: float = -400.0,
        latents_mean: list[float] | None = None,
        latents_std: list[float] | None = None,
    ) -> None:
        super().__init__()
        if latent_channels != 1:
            raise ValueError(f"latent_channels {latent_channels}: the identity has exactly 1")
        self.register_buffer("_anchor", torch.zeros(1))  # carries device and dtype: there are no parameters

    def encode(self, sample: Tensor, return_dict: bool = True) -> Any:
        """(B, 1, D, H, W) -> `AutoencoderKLOutput` with mean = sample and std = 0."""
        parameters = torch.cat([sample, torch.zeros_like(sample)], dim=1)
        posterior = DiagonalGaussianDistribution(parameters, deterministic=True)
        return AutoencoderKLOutput(latent_dist=posterior) if return_dict else (posterior,)

    def decode(self, z: Tensor, return_dict: bool = True) -> Any:
        """(B, 1, D, H, W) -> `DecoderOutput.sample`, the same tensor."""
        return DecoderOutput(sample=z) if return_dict else (z,)

    def latent_shape(self, ct_shape: tuple[int, ...]) -> tuple[int, ...]:
        """The CT's own shape."""
        return tuple(ct_shape)

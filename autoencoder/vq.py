"""Stage 1: the VQ autoencoder, whose latent cells are entries of a learned codebook."""

from dataclasses import dataclass
from typing import Any

import torch
from diffusers import ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.autoencoders.vae import DecoderOutput, DiagonalGaussianDistribution
from diffusers.utils import BaseOutput
from torch import Tensor

from autoencoder.aligned_model import AlignedModel
from autoencoder.networks.codebook import EmaCodebook
from autoencoder.networks.encoder_decoder import Autoencoder3D
from autoencoder.networks.presets import Norm, Stem


@dataclass
class VQEncoderOutput3D(BaseOutput):
    """`latents`, (B, C, d, h, w), before quantisation, as in Diffusers' `VQModel`; `latent_dist`, the same values as a
    distribution without spread, so that everything that takes a KL autoencoder takes this one as well."""

    latents: Tensor
    latent_dist: DiagonalGaussianDistribution


class VQAutoencoder3D(AlignedModel, Autoencoder3D, ModelMixin):
    """3D vector-quantised autoencoder (van den Oord et al. 2017) with the interface of Diffusers' `VQModel`.

    The latent handed out is the one before quantisation, and `decode` quantises (Rombach et al. 2022, section 3.1): a
    diffusion model works on a continuous latent, and what it makes is put on the codebook.

    Args:
        channels: Width of each level, at 1/2, 1/4, ... of the resolution; the factor is 2 ** len(channels).
        blocks_per_level: Residual blocks at each level, in the encoder and in the decoder.
        latent_channels: Channels of the latent and of the codes.
        codebook_size: Number of codes.
        codebook_decay: Of the codes' moving average, per training step.
        stem, norm, mid_attention, window_width, window_level, latents_mean, latents_std: As in `AutoencoderKL3D`.
    Raises: ValueError: If `stem` or `norm` is unknown or `channels` is empty.
    """

    @register_to_config
    def __init__(
        self,
        channels: tuple[int, ...] = (32, 96),
        blocks_per_level: int = 2,
        latent_channels: int = 4,
        codebook_size: int = 1024,
        codebook_decay: float = 0.99,
        stem: Stem = "haar",
        norm: Norm = "voxel_rms",
        mid_attention: bool = False,
        window_width: float = 1500.0,
        window_level: float = -400.0,
        latents_mean: list[float] | None = None,
        latents_std: list[float] | None = None,
    ) -> None:
        super().__init__()
        self.build(channels, blocks_per_level, 1, latent_channels, stem, norm, mid_attention)
        self.codebook = EmaCodebook(codebook_size, latent_channels, codebook_decay)

    def encode(self, sample: Tensor, return_dict: bool = True) -> Any:
        """The latent before quantisation.

        Args:
            sample: ct_norm, (B, 1, D, H, W), each of D, H, W divisible by `factor`.
        Returns: :class:`VQEncoderOutput3D`, or a tuple of the latents.
        Raises: ValueError: If a size is not divisible by the factor, or the input has not one channel.
        """
        self.check_ct(sample)
        latents = self.encoder(sample)
        if not return_dict:
            return (latents,)
        parameters = torch.cat([latents, torch.zeros_like(latents)], dim=1)
        return VQEncoderOutput3D(latents, DiagonalGaussianDistribution(parameters, deterministic=True))

    def quantise(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        """(codes (B, C, d, h, w), their indices int64 (B, d, h, w)); the gradient passes straight through the codes."""
        indices = self.codebook.nearest(latents)
        codes = self.codebook.lookup(indices).to(latents.dtype)
        return latents + (codes - latents).detach(), indices

    def decode(self, z: Tensor, force_not_quantize: bool = False, return_dict: bool = True) -> Any:
        """latent (B, latent_channels, d, h, w) -> quantised -> `DecoderOutput.sample`, ct_norm (B, 1, fd, fh, fw)."""
        self.check_latent(z)
        ct_norm = self.decoder(z if force_not_quantize else self.quantise(z)[0])
        return DecoderOutput(sample=ct_norm) if return_dict else (ct_norm,)

    def forward(self, sample: Tensor, valid_cells: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Encode, quantise and decode; what training calls. In training mode the codebook follows the batch first.

        Args:
            sample: ct_norm, (B, 1, D, H, W).
            valid_cells: (B, 1, d, h, w), 0 where a cell has only padding: the codebook does not learn those.
        Returns: (reconstruction, latents before quantisation, indices).
        """
        latents = self.encode(sample).latents
        if self.training:
            self.codebook.update(latents, valid_cells)
        codes, indices = self.quantise(latents)
        return self.decoder(codes), latents, indices

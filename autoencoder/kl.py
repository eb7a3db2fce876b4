"""Stage 1: the KL autoencoder between windowed CT and latent."""

from typing import Any

from diffusers import ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.autoencoders.vae import DecoderOutput, DiagonalGaussianDistribution
from diffusers.models.modeling_outputs import AutoencoderKLOutput
from torch import Tensor

from autoencoder.aligned_model import AlignedModel
from autoencoder.networks.encoder_decoder import Autoencoder3D
from autoencoder.networks.presets import Norm, Stem


class AutoencoderKL3D(AlignedModel, Autoencoder3D, ModelMixin):
    """3D variational autoencoder with the interface of Diffusers' `AutoencoderKL`.

    The first factor of two is an orthonormal Haar transform, so no convolution runs at full resolution; every norm is
    per voxel, so encoder and decoder are local operators (a window with margin equals the window of the whole).

    Args:
        channels: Width of each level, at 1/2, 1/4, ... of the resolution; the factor is 2 ** len(channels).
        blocks_per_level: Residual blocks at each level, in the encoder and in the decoder.
        latent_channels: Channels of the latent.
        stem: "haar", or "conv" for a learned stride-2 convolution in its place.
        norm: "voxel_rms", or "group" for group norm over space, which makes it no local operator.
        mid_attention: Self-attention over all cells of the lowest level, in both halves; no local operator either.
        window_width, window_level: The HU window that `ct_norm` = [-1, 1] stands for.
        latents_mean, latents_std: Per channel, measured on the training set (the Diffusers convention); None until
            then. The diffusion model works on (latent - mean) / std.
    Raises: ValueError: If `stem` or `norm` is unknown or `channels` is empty.
    Examples:
        >>> import torch
        >>> vae = AutoencoderKL3D(channels=(8, 16), blocks_per_level=1)
        >>> ct_norm = torch.zeros(1, 1, 16, 16, 24)
        >>> with torch.no_grad():
        ...     latent = vae.encode(ct_norm).latent_dist.mode()
        ...     reconstruction = vae.decode(latent).sample
        >>> vae.factor, tuple(latent.shape), tuple(reconstruction.shape)
        (4, (1, 4, 4, 4, 6), (1, 1, 16, 16, 24))
    """

    @register_to_config
    def __init__(
        self,
        channels: tuple[int, ...] = (32, 96),
        blocks_per_level: int = 2,
        latent_channels: int = 4,
        stem: Stem = "haar",
        norm: Norm = "voxel_rms",
        mid_attention: bool = False,
        window_width: float = 1500.0,
        window_level: float = -400.0,
        latents_mean: list[float] | None = None,
        latents_std: list[float] | None = None,
    ) -> None:
        super().__init__()
        self.build(channels, blocks_per_level, 2, latent_channels, stem, norm, mid_attention)

    def encode(self, sample: Tensor, return_dict: bool = True) -> Any:
        """Posterior of the latent.

        Args:
            sample: ct_norm, (B, 1, D, H, W), each of D, H, W divisible by `factor`.
        Returns: `AutoencoderKLOutput` whose `latent_dist` has `mean`, `std`, `sample()`, `mode()`, each
            (B, latent_channels, D/f, H/f, W/f); or a tuple of it.
        Raises: ValueError: If a size is not divisible by the factor, or the input has not one channel.
        """
        self.check_ct(sample)
        posterior = DiagonalGaussianDistribution(self.encoder(sample))
        return AutoencoderKLOutput(latent_dist=posterior) if return_dict else (posterior,)

    def decode(self, z: Tensor, return_dict: bool = True) -> Any:
        """latent (B, latent_channels, d, h, w) -> `DecoderOutput.sample`, ct_norm (B, 1, fd, fh, fw)."""
        self.check_latent(z)
        ct_norm = self.decoder(z)
        return DecoderOutput(sample=ct_norm) if return_dict else (ct_norm,)

    def forward(self, sample: Tensor, noise: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Encode, draw the latent and decode; what training calls.

        Args:
            sample: ct_norm, (B, 1, D, H, W).
            noise: Standard normal, of the latent's shape, for the reparametrised draw; None takes the mean.
        Returns: (reconstruction, posterior mean, posterior log-variance).
        """
        posterior = self.encode(sample).latent_dist
        latent = posterior.mean if noise is None else posterior.mean + posterior.std * noise
        return self.decode(latent).sample, posterior.mean, posterior.logvar

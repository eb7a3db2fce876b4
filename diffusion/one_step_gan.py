"""The non-diffusion baseline of the texture-loss proposal: a GAN that makes the lesion in one step.

Its inputs are background, mask and noise. The losses are those of Isola et al. 2017: L1 and a patch discriminator, here
with hinge losses. The generator is the U-Net of the diffusion model. With SPADE it is a SPADE GAN (Park et al. 2019),
without SPADE the conditional GAN. In training, the U-Net runs at the noisiest step, where its input is pure noise. For
inference, a sampler takes one step of an x0-predicting U-Net.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from autoencoder.latents import unstandardise
from autoencoder.losses.adversarial import hinge_losses
from autoencoder.networks.discriminator import PatchDiscriminator3D, patch_weights
from diffusion.conditioning import mask_coverage
from diffusion.stage_two import unet_output

L1_WEIGHT = 10.0  # beside the adversarial loss; Isola et al. take 100 on images of another scale


class OneStepGAN(nn.Module):
    """The generator with its discriminator; forward gives the loss of a batch, as `StageTwo` does.

    Args:
        unet: `SPADEUNet3D`.
        discriminator: Sees the decoded crop, real around the painted region.
    """

    def __init__(self, unet: nn.Module, discriminator: PatchDiscriminator3D) -> None:
        super().__init__()
        self.unet, self.discriminator = unet, discriminator

    def forward(
        self,
        vae: Any,
        scheduler: Any,
        batch: Mapping[str, Tensor],
        x0: Tensor,
        noise: Tensor,
        timesteps: Tensor,
        statistics: bool = False,
    ) -> tuple[Tensor, dict[str, Tensor], dict[str, float]]:
        """Loss of a batch; arguments and values as `StageTwo.forward`, with the noisiest step for every timestep."""
        last = torch.full_like(timesteps, scheduler.config["num_train_timesteps"] - 1)
        made = unet_output(self.unet, vae, batch, noise, last)
        painted, valid = (mask_coverage(batch[name], vae.factor) for name in ("paint_mask", "valid_mask"))
        weight = (painted > 0) * valid
        difference = ((made - x0).abs().mean(dim=1, keepdim=True) * weight).flatten(1).sum(1)
        structure = difference / weight.flatten(1).sum(1).clamp_min(1)

        real = vae.decode(unstandardise(x0, vae.config)).sample
        inside = batch["paint_mask"] > 0
        fake = torch.where(inside, vae.decode(unstandardise(made, vae.config)).sample, real)
        adversarial, discrimination = hinge_losses(self.discriminator, real, fake, patch_weights(batch["valid_mask"]))
        total = L1_WEIGHT * structure.mean() + adversarial + discrimination
        each = structure.new_ones(len(x0))
        losses = {"structure": structure, "adversarial": adversarial * each, "discriminator": discrimination * each}
        return total, {name: loss.detach() for name, loss in losses.items()}, {}

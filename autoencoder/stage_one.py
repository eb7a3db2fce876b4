"""One training step of stage 1: all losses of the autoencoder and of its discriminator, in one forward."""

from collections.abc import Mapping

import torch
import torch.distributed as dist
from torch import Tensor, nn

from autoencoder.kl import AutoencoderKL3D
from autoencoder.losses.adversarial import PENALTY, adaptive_weight, relativistic_losses
from autoencoder.losses.basic import commitment_loss, kl_loss, l1_loss, lesion_error, valid_cells
from autoencoder.losses.perceptual import lpips_loss
from autoencoder.losses.wavelet import wavelet_texture_loss
from autoencoder.losses.weights import LossWeights
from autoencoder.networks.codebook import perplexity
from autoencoder.networks.discriminator import PatchDiscriminator3D, patch_weights
from autoencoder.vq import VQAutoencoder3D

LESION_COUNTS = 3.0  # a voxel of a lesion in the adversarial loss; others count 1


class StageOne(nn.Module):
    """The autoencoder with its discriminator; forward gives the loss of a batch.

    Everything happens in `forward`, so that distributed training sees one graph. Autoencoder and discriminator learn
    in the same step: the autoencoder's loss sees the discriminator with its weights held fixed, the discriminator's
    sees the reconstruction held fixed, so one backward pass gives each its own gradient.

    Args:
        autoencoder: `AutoencoderKL3D` or `VQAutoencoder3D`.
        weights: Of the losses.
        discriminator: Needed if `weights.adversarial` is above 0; its one condition is the lesion mask.
        latent_noise: Noise added to the latent before decoding, in standard deviations of its channel over the batch
            (KL autoencoder), so that the decoder forgives a latent that stage 2 has not met exactly.
    Raises: ValueError: If a weight is negative, or the discriminator is missing.
    """

    def __init__(
        self,
        autoencoder: AutoencoderKL3D | VQAutoencoder3D,
        weights: LossWeights,
        discriminator: PatchDiscriminator3D | None = None,
        latent_noise: float = 0.0,
    ) -> None:
        super().__init__()
        for name, value in vars(weights).items():
            if value < 0:
                raise ValueError(f"loss weight {name} {value}: expected 0 or more")
        if weights.adversarial > 0 and discriminator is None:
            raise ValueError("an adversarial loss needs a discriminator; pass one or set its weight to 0")
        self.autoencoder, self.weights, self.latent_noise = autoencoder, weights, latent_noise
        self.discriminator = discriminator if weights.adversarial > 0 else None

    def forward(
        self,
        batch: Mapping[str, Tensor],
        noise: Tensor | None,
        step: int,
        perceptual: nn.Module | None = None,
        positions: Tensor | None = None,
        statistics: bool = False,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of a batch.

        Args:
            batch: `ct_norm` and `valid_mask`, (B, 1, D, H, W), and `lesion_mask` if the lesion's or the adversarial
                loss has a weight; voxels without validity have no influence on a loss.
            noise: Standard normal for the KL autoencoder's draw, of the latent's shape; None takes the mean.
            step: Of the run, for the start of the discriminator and then of what it teaches.
            perceptual, positions: Network and cuts of :func:`lpips_loss`, if it has a weight.
            statistics: Also measure the gradient norm of each loss.
        Returns: (scalar to call backward on, unweighted losses and measurements by name). `grad_norm/...` are taken at
            the decoder's last layer, that of KL and commitment, which do not reach it, at the encoder's.
        """
        ct_norm, valid_mask = batch["ct_norm"], batch["valid_mask"]
        cells = valid_cells(valid_mask, self.autoencoder.factor)
        reconstruction, regulariser, measured = self._reconstruct(ct_norm, valid_mask, cells, noise)
        reconstruction = torch.where(valid_mask > 0, reconstruction.float(), ct_norm)  # padding is right by definition
        losses = {"l1": l1_loss(reconstruction, ct_norm, valid_mask)}
        if self.weights.lesion > 0:
            losses["lesion"] = lesion_error(reconstruction, ct_norm, batch["lesion_mask"] * valid_mask)
        if self.weights.wavelet > 0:
            losses["wavelet"] = wavelet_texture_loss(reconstruction, ct_norm, valid_mask, transform="volume")
        if self.weights.lpips > 0:
            if perceptual is None or positions is None:
                raise ValueError(f"lpips {self.weights.lpips}: needs its network and positions; pass both")
            losses["lpips"] = lpips_loss(perceptual, reconstruction, ct_norm, positions)
        image_loss = torch.stack([getattr(self.weights, name, 1.0) * loss for name, loss in losses.items()]).sum()

        total = image_loss + sum(getattr(self.weights, name) * loss for name, loss in regulariser.items())
        if self.discriminator is not None:
            lead = step - self.weights.adversarial_start  # of the discriminator, in steps
            if lead >= 0:
                lesion_mask = batch["lesion_mask"].float()
                counts = valid_mask.float() * (1 + (LESION_COUNTS - 1) * lesion_mask)
                *of_both, penalty = relativistic_losses(
                    self.discriminator, ct_norm, reconstruction, patch_weights(counts), lesion_mask
                )
                share = counts.sum() / _over_processes(counts.sum()).clamp_min(1)  # voxels count alike in all processes
                adversarial, discrimination = (share * loss for loss in of_both)
                total = total + discrimination + PENALTY * penalty
                losses["adversarial"] = adversarial
                measured |= {"discriminator": discrimination, "penalty": penalty}
                if lead >= self.weights.adversarial_head_start:
                    rate = adaptive_weight(self._pull(image_loss), self._pull(adversarial))
                    total = total + self.weights.adversarial * rate * adversarial
                    measured["adaptive_weight"] = rate
            else:  # the same parameters in the graph at every step, which distributed training relies on
                parameters = list(self.discriminator.parameters())
                total = total + 0.0 * torch.stack([parameter.sum() for parameter in parameters]).sum()
        if statistics:
            measured |= {f"grad_norm/{name}": self._pull(loss).norm() for name, loss in losses.items()}
            encoder = self.autoencoder.encoder.conv_out.weight
            trained = regulariser if encoder.requires_grad else {}
            measured |= {f"grad_norm/{n}": self._pull(loss, encoder).norm() for n, loss in trained.items()}
        return total, {name: value.detach() for name, value in (losses | regulariser | measured).items()}

    def _reconstruct(
        self, ct_norm: Tensor, valid_mask: Tensor, cells: Tensor, noise: Tensor | None
    ) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
        """(reconstruction, the latent's own loss, measurements) of either autoencoder."""
        if isinstance(self.autoencoder, VQAutoencoder3D):
            reconstruction, latents, indices = self.autoencoder(ct_norm, cells)
            codebook = self.autoencoder.codebook
            loss = commitment_loss(latents.float(), codebook.lookup(indices), cells)
            return reconstruction, {"commitment": loss}, {"perplexity": perplexity(indices, len(codebook.vectors))}
        if self.latent_noise > 0 and noise is not None:
            posterior = self.autoencoder.encode(ct_norm).latent_dist
            mean, logvar = posterior.mean, posterior.logvar
            spread = self.latent_noise * mean.detach().std(dim=(0, 2, 3, 4), keepdim=True)
            reconstruction = self.autoencoder.decode(mean + (posterior.var + spread.square()).sqrt() * noise).sample
        else:
            reconstruction, mean, logvar = self.autoencoder(ct_norm, noise)
        voxels = valid_mask.sum() / len(valid_mask)  # nats per voxel: the weight does not depend on the patch's size
        return reconstruction, {"kl": kl_loss(mean.float(), logvar.float(), cells) / voxels.clamp(min=1)}, {}

    def _pull(self, loss: Tensor, weight: Tensor | None = None) -> Tensor:
        """Gradient of a loss at the decoder's last layer, averaged over the processes as the optimiser's will be."""
        weight = self.autoencoder.decoder.last_layer if weight is None else weight
        (gradient,) = torch.autograd.grad(loss, weight, retain_graph=True)
        return _over_processes(gradient)


def _over_processes(value: Tensor) -> Tensor:
    """Its mean over the processes, without gradient."""
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        value = value.detach().contiguous() / dist.get_world_size()
        dist.all_reduce(value)
    return value.detach()

"""One training step of stage 2: structure loss on the latent, in the late steps texture losses on the decoded lesion.

METHODS.md A, main method. The texture losses see x̂0 decoded in the latent window around the lesion; the gradient
passes through the frozen decoder into the U-Net.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from autoencoder.latents import unstandardise
from diffusion.conditioning import lesion_neighbourhood, unet_input
from diffusion.gradient_balance import Balance, combined_gradient, gradient_statistics, loss_gradients
from diffusion.lesion_window import decode_windows, lesion_windows
from diffusion.objective import diffusion_loss, predicted_x0, target_of, x0_slope
from diffusion.time_weights import STRUCTURE, ConstantWeights

TextureLoss = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]  # (pred, target, mask, spacing_mm) -> (B,)


class StageTwo(nn.Module):
    """The U-Net with what is learned beside it (time policy, loss parameters); forward gives the loss of a batch.

    Everything happens in `forward`, so that distributed training sees one graph.

    Args:
        unet: `SPADEUNet3D`.
        policy: Time policy whose texture losses are those of `texture`.
        texture: Texture losses by name.
        texture_weights: Size of each texture loss beside the structure loss (λ in eq. 2).
        learned: Modules inside the texture losses that are trained along, such as a `GaborBank`.
        gate: Texture losses are computed for t < gate · T only.
        balance: "none", or how the losses' gradients are balanced; see `diffusion.gradient_balance`.
        background_weight: Weight of the structure loss away from the lesion; its own neighbourhood counts 1.
    Raises: ValueError: If names do not agree or the gate is outside (0, 1].
    """

    def __init__(
        self,
        unet: nn.Module,
        policy: ConstantWeights,
        texture: Mapping[str, TextureLoss],
        texture_weights: Mapping[str, float],
        learned: Sequence[nn.Module] = (),
        gate: float = 0.3,
        balance: Balance = "none",
        background_weight: float = 0.2,
    ) -> None:
        super().__init__()
        if set(texture) != set(texture_weights) or set(texture) != set(policy.texture_losses):
            raise ValueError(f"losses {sorted(texture)}, weights {sorted(texture_weights)}, {policy.texture_losses}")
        if not 0 < gate <= 1:
            raise ValueError(f"gate {gate}: expected a fraction of the steps above 0 and at most 1")
        self.unet, self.policy = unet, policy
        self.texture = dict(texture)
        self.learned = nn.ModuleList(learned)
        self.texture_weights, self.gate, self.balance = dict(texture_weights), gate, balance
        self.background_weight = background_weight

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
        """Loss of a batch.

        Args:
            vae: Frozen autoencoder.
            scheduler: Training scheduler.
            batch: `blanked_latent`, `lesion_mask`, `valid_mask`, `spacing_mm`, and `ct_norm` for texture losses.
            x0, noise: Standardised latent and noise, (B, C, d, h, w).
            timesteps: (B,), integer.
            statistics: Also measure each loss's gradient norm and the cosines between them.
        Returns: (scalar to call backward on, unweighted losses (B,) by name, gradient statistics at x̂0). The gradients
            are taken at the U-Net's output, of which x̂0 is a multiple plus a constant.
        """
        alphas = scheduler.alphas_cumprod
        noisy = scheduler.add_noise(x0, noise, timesteps)
        sample = unet_input(noisy, batch["blanked_latent"], batch["lesion_mask"], vae.factor)
        output = self.unet(sample, timesteps, batch["lesion_mask"], batch["spacing_mm"]).sample.float()

        def losses_of(prediction: Tensor) -> dict[str, Tensor]:
            region = self.policy.structure_mask(batch["lesion_mask"], timesteps, alphas)
            weight = loss_weight(region, batch["valid_mask"], vae.factor, self.background_weight)
            losses = {STRUCTURE: diffusion_loss(prediction, target_of(scheduler, x0, noise, timesteps), weight)}
            return losses | self._texture_losses(vae, scheduler, batch, prediction, noisy, timesteps)

        weights = self.policy(timesteps, alphas)
        weights = {name: w * self.texture_weights.get(name, 1.0) for name, w in weights.items()}
        measured: dict[str, float] = {}
        if self.balance == "none" and not (statistics and self.texture):
            losses = losses_of(output)
            total = self._total(losses, weights, timesteps, len(alphas))
        else:  # gradients per loss are taken at a leaf, and reach the U-Net combined
            leaf = output.detach().requires_grad_(True)
            losses = losses_of(leaf)
            gradients = loss_gradients(losses, leaf)
            slope = x0_slope(scheduler, timesteps).view(-1, 1, 1, 1, 1)
            measured = gradient_statistics({name: gradient / slope for name, gradient in gradients.items()})
            pull = combined_gradient(gradients, weights, self.balance)
            total = (output * pull).sum() + self._total(losses, weights, timesteps, len(alphas))
        return total, {name: loss.detach() for name, loss in losses.items()}, measured

    def _texture_losses(
        self, vae: Any, scheduler: Any, batch: Mapping[str, Tensor], output: Tensor, noisy: Tensor, timesteps: Tensor
    ) -> dict[str, Tensor]:
        """Each texture loss (B,), zero for samples above the gate."""
        if not self.texture:
            return {}
        late = (timesteps < self.gate * len(scheduler.alphas_cumprod)).nonzero().flatten()
        values = {name: output.new_zeros(len(output)) for name in self.texture}
        if len(late):
            x0_hat = predicted_x0(scheduler, output[late], noisy[late], timesteps[late])
            lesion_mask = batch["lesion_mask"][late]
            windows = lesion_windows(lesion_mask, vae.factor, vae.decoder_margin)
            decoded = decode_windows(vae, unstandardise(x0_hat, vae.config), windows)
            target, mask = windows.of_voxels(batch["ct_norm"][late]), windows.of_voxels(lesion_mask)
            for name, loss in self.texture.items():
                values[name] = values[name].index_copy(0, late, loss(decoded, target, mask, batch["spacing_mm"][late]))
        return values

    def _total(
        self, losses: Mapping[str, Tensor], weights: Mapping[str, Tensor], timesteps: Tensor, count: int
    ) -> Tensor:
        late = (timesteps < self.gate * count).float()
        total = torch.stack([(weights[name] * loss).mean() for name, loss in losses.items()]).sum()
        total = total + self.policy.penalty(dict.fromkeys(self.texture, late))
        learned = [parameter for module in (self.policy, self.learned) for parameter in module.parameters()]
        return total + sum((0.0 * parameter.sum() for parameter in learned), total.new_zeros(()))  # same graph always


def loss_weight(lesion_mask: Tensor, valid_mask: Tensor, factor: int, background_weight: float) -> Tensor:
    """Weight of each latent cell, (B, 1, d, h, w): 1 around the lesion, less elsewhere, 0 where a cell has padding."""
    near = lesion_neighbourhood(lesion_mask, factor)
    valid = (F.avg_pool3d(valid_mask.float(), factor) == 1).float()
    return (background_weight + (1 - background_weight) * near) * valid

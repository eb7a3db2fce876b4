"""One training step of stage 2: structure loss on the latent, in the late steps texture losses on the decoded lesion.

The main method of the texture-loss proposal (docs/references.md). The texture losses see x̂0 decoded in the latent
window around the lesion; the gradient passes through the frozen decoder into the U-Net.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from autoencoder.latents import unstandardise
from diffusion.conditioning import condition_of, mask_coverage
from diffusion.lesion_window import decode_windows, lesion_windows
from diffusion.losses.gradient_balance import combined_gradient, gradient_statistics, loss_gradients
from diffusion.losses.structure import structure_loss
from diffusion.losses.texture import TextureLoss, texture_losses
from diffusion.losses.time_weights import STRUCTURE, TIME_POLICIES, ConstantWeights, StepPlan
from diffusion.option_types import Balance, Target, TextureConfig
from diffusion.process import TARGETS, add_noise, alphas_of, network_times, predicted_x0, target_of, x0_slope


class StageTwo(nn.Module):
    """The U-Net with what is learned beside it (time policy, loss parameters); forward gives the loss of a batch.

    Everything happens in `forward`, so that distributed training sees one graph.

    Args:
        unet: `SPADEUNet3D`.
        policy: Time policy whose texture losses are those of `texture`; it alone decides which samples, which region
            and which weight each loss has (`ConstantWeights.plan`).
        texture: Texture losses by name.
        texture_weights: Size of each texture loss beside the structure loss (λ in eq. 2).
        learned: Modules inside the texture losses that are trained along, such as a `GaborBank`.
        balance: "none", or how the losses' gradients are balanced; see `diffusion.losses.gradient_balance`.
        directions: v of `directional_loss`, (K, C), which is then part of the structure loss.
    Raises: ValueError: If names do not agree.
    """

    def __init__(
        self,
        unet: nn.Module,
        policy: ConstantWeights,
        texture: Mapping[str, TextureLoss],
        texture_weights: Mapping[str, float],
        learned: Sequence[nn.Module] = (),
        balance: Balance = "none",
        directions: Tensor | None = None,
    ) -> None:
        super().__init__()
        if set(texture) != set(texture_weights) or set(texture) != set(policy.texture_losses):
            raise ValueError(f"losses {sorted(texture)}, weights {sorted(texture_weights)}, {policy.texture_losses}")
        self.unet, self.policy = unet, policy
        self.texture = dict(texture)
        self.learned = nn.ModuleList(learned)
        self.texture_weights, self.balance = dict(texture_weights), balance
        self.directions: Tensor | None
        self.register_buffer("directions", directions, persistent=False)

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
            batch: `blanked_latent`, `lesion_mask`, `paint_mask`, `valid_mask`, `spacing_mm`; `semantic_map` for a U-Net
                of more than two labels, `ct_norm` for texture losses, `attributes` for a U-Net that has some. Where
                all of a crop is painted, all of it counts in the structure loss.
            x0, noise: Standardised latent and noise, (B, C, d, h, w).
            timesteps: Rows of the schedule, (B,), integer.
            statistics: Also measure each loss's gradient norm and the cosines between them.
        Returns: (scalar to call backward on, whose value is the weighted sum of the losses; unweighted losses (B,) by
            name, 0 for samples they are not computed for; gradient statistics at x̂0). The gradients are taken at the
            U-Net's output, of which x̂0 is a multiple plus a constant.
        """
        noisy = add_noise(scheduler, x0, noise, timesteps)
        output = unet_output(self.unet, vae, batch, noisy, network_times(scheduler, timesteps))

        alphas = alphas_of(scheduler)
        plan = self.policy.plan(timesteps, alphas, batch["lesion_mask"], batch["valid_mask"], vae.factor)
        plan = plan._replace(cells=counted_cells(plan, batch, vae.factor))
        weights = {name: w * self.texture_weights.get(name, 1.0) for name, w in plan.weights.items()}

        def losses_of(prediction: Tensor) -> dict[str, Tensor]:
            target = target_of(scheduler, x0, noise, timesteps)
            structure = structure_loss(prediction, target, plan.cells, self.directions)
            texture = self._texture_losses(vae, scheduler, batch, prediction, noisy, timesteps, plan)
            return {STRUCTURE: structure} | texture

        measured: dict[str, float] = {}
        if self.balance == "none" and not (statistics and self.texture):
            losses = losses_of(output)
            total = self._total(losses, weights, plan)
        else:  # gradients per loss are taken at a leaf, and reach the U-Net combined
            leaf = output.detach().requires_grad_(True)
            losses = losses_of(leaf)
            gradients = loss_gradients(losses, leaf)
            slope = x0_slope(scheduler, timesteps).view(-1, 1, 1, 1, 1)
            measured = gradient_statistics({name: gradient / slope for name, gradient in gradients.items()})
            pulled = (output * combined_gradient(gradients, weights, self.balance)).sum()
            total = self._total(losses, weights, plan) + pulled - pulled.detach()  # its gradient, not its value
        return total, {name: loss.detach() for name, loss in losses.items()}, measured

    def _texture_losses(
        self,
        vae: Any,
        scheduler: Any,
        batch: Mapping[str, Tensor],
        output: Tensor,
        noisy: Tensor,
        timesteps: Tensor,
        plan: StepPlan,
    ) -> dict[str, Tensor]:
        """Each texture loss (B,), zero for the samples that the plan does not compute it for."""
        values = {name: output.new_zeros(len(output)) for name in self.texture}
        late = plan.late.nonzero().flatten()
        if len(late):
            x0_hat = predicted_x0(scheduler, output[late], noisy[late], timesteps[late])
            lesion_mask = batch["lesion_mask"][late]
            windows = lesion_windows(lesion_mask, vae.factor, vae.decoder_margin)
            decoded = decode_windows(vae, unstandardise(x0_hat, vae.config), windows)
            target, mask = windows.of_voxels(batch["ct_norm"][late]), windows.of_voxels(lesion_mask)
            for name, loss in self.texture.items():
                values[name] = values[name].index_copy(0, late, loss(decoded, target, mask, batch["spacing_mm"][late]))
        return values

    def _total(self, losses: Mapping[str, Tensor], weights: Mapping[str, Tensor], plan: StepPlan) -> Tensor:
        total = torch.stack([(weights[name] * loss).mean() for name, loss in losses.items()]).sum()
        total = total + self.policy.penalty(plan.late)
        learned = [parameter for module in (self.policy, self.learned) for parameter in module.parameters()]
        return total + sum((0.0 * parameter.sum() for parameter in learned), total.new_zeros(()))  # same graph always


def unet_output(unet: Any, vae: Any, batch: Mapping[str, Tensor], noisy: Tensor, times: Tensor) -> Tensor:
    """The U-Net's output for a batch as `StageTwo.forward` describes it, float32 (B, C, d, h, w).

    Args:
        unet: `SPADEUNet3D`; with two labels it takes the lesion mask, with more the semantic map.
        vae: Whose latents these are.
        batch: As there.
        noisy: (B, C, d, h, w).
        times: That the U-Net receives, (B,).
    """
    labels = batch["lesion_mask"] if unet.config["num_labels"] == 2 else batch["semantic_map"]
    masks = (batch["lesion_mask"], batch["paint_mask"], batch["valid_mask"])
    condition = condition_of(batch["blanked_latent"], *masks, vae.factor)
    sample = torch.cat([noisy, condition], dim=1)
    return unet(sample, times, labels, attributes=batch.get("attributes")).sample.float()


def counted_cells(plan: StepPlan, batch: Mapping[str, Tensor], factor: int) -> Tensor:
    """Weights of the structure loss, (B, 1, d, h, w): the plan's, or all valid cells where all of a crop is painted."""
    whole = batch["paint_mask"].flatten(1).amin(1) > 0
    return torch.where(whole.view(-1, 1, 1, 1, 1), mask_coverage(batch["valid_mask"], factor), plan.cells)


def stage_two_of(
    unet: Any,
    texture: TextureConfig,
    target: Target = "v",
    background_weight: float = 0.2,
    directions: Tensor | None = None,
) -> StageTwo:
    """The training step with the losses and the time policy that a config names.

    Args:
        unet: `SPADEUNet3D`, to be trained.
        texture: Names and weighs the texture losses.
        target: What the U-Net predicts.
        background_weight: Weight of the structure loss away from the lesion.
        directions: As :class:`StageTwo`.
    Raises: ValueError: If a loss is unknown, or a number out of range.
    """
    losses, learned = texture_losses(texture)
    options: dict[str, Any] = {"gate": texture.gate, "background_weight": background_weight}
    if texture.time_policy == "min_snr":
        options["prediction_type"] = TARGETS[target]
    policy = TIME_POLICIES[texture.time_policy](tuple(losses), **options)
    weights = {name: texture.losses[name] for name in losses}
    return StageTwo(unet, policy, losses, weights, learned, texture.balance, directions)

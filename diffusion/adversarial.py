"""Adversarial diffusion (SynDiff, docs/references.md): a trained stage 2 learns to take few large steps.

The U-Net predicts x̃0 at the few noise levels of `SynDiffScheduler`. A squared error alone makes the mean of all lesions
that fit, which is soft; a discriminator asks for one of them. Beyond SynDiff, which judges latents:

- A second discriminator sees the decoded lesion in its real surroundings.
- The diffusion loss stays as an anchor, so that requested values keep their meaning.
- A share of the steps starts from what the U-Net itself made before, as in sampling (DMD2, docs/references.md). SynDiff
  starts all of them from the real image, so that later calls never learn to mend what earlier ones did.
- The decoder may learn along. The discriminator then compares with the CT itself, and no longer with what the
  autoencoder leaves of it.
"""

from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from autoencoder.latents import unstandardise
from autoencoder.losses.adversarial import relativistic_losses
from autoencoder.networks.discriminator import PatchDiscriminator3D, patch_weights
from diffusion.conditioning import mask_coverage
from diffusion.discriminators import LatentDiscriminator
from diffusion.losses.structure import structure_loss
from diffusion.losses.texture import texture_losses
from diffusion.losses.time_weights import STRUCTURE, ConstantWeights
from diffusion.option_types import AdversarialConfig, TextureConfig
from diffusion.process import add_noise, alphas_of, network_times, predicted_x0, target_of
from diffusion.stage_two import counted_cells, unet_output
from diffusion.syndiff_scheduler import posterior, syndiff_rows

VIEW = 32  # voxels: what the image discriminator sees of a crop at a time
RECONSTRUCTED = 4  # one sample in so many is reconstructed, where the decoder learns along


class AdversarialDiffusion(nn.Module):
    """The U-Net with its discriminators; forward gives the loss of a batch, as `StageTwo` does.

    Args:
        unet: `SPADEUNet3D`, trained.
        config: Steps and weights.
        factor: Voxels per latent cell.
        background_weight: Of the diffusion loss away from the lesion.
        directions: As in `StageTwo`.
        autoencoder: The one that `forward` gets, if its decoder learns along; its encoder stays.
        texture: Names and weighs texture losses of the decoded lesion. They have no gate, because every large step
            predicts a lesion that the next one keeps most of.
    """

    def __init__(
        self,
        unet: Any,
        config: AdversarialConfig,
        factor: int,
        background_weight: float = 0.2,
        directions: Tensor | None = None,
        autoencoder: Any = None,
        texture: TextureConfig | None = None,
    ) -> None:
        super().__init__()
        self.texture, learned = texture_losses(texture or TextureConfig())
        self.texture_weights = dict(texture.losses) if texture else {}
        self.learned = nn.ModuleList(learned)
        self.autoencoder = autoencoder
        if autoencoder is not None:
            autoencoder.decoder.requires_grad_(True)
        self.unet, self.weights = unet, config
        self.policy = ConstantWeights((), background_weight=background_weight)
        networks: dict[str, nn.Module] = {}
        if config.image:
            networks["image"] = PatchDiscriminator3D(conditions=1, steps=config.calls)
        if config.latent:
            networks["latent"] = LatentDiscriminator(config.calls, unet.config["latent_channels"], factor)
        self.discriminators = nn.ModuleDict(networks)
        self.batches: Tensor
        self.register_buffer("batches", torch.zeros((), dtype=torch.long))
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
        """Loss of a batch; arguments and values as `StageTwo.forward`.

        A timestep chooses which of the large steps is taken, all alike often. Generator and discriminators learn in the
        same backward pass: each loss has a gradient for its own network alone.
        """
        alphas = alphas_of(scheduler)
        rows = torch.tensor(syndiff_rows(alphas, self.weights.calls), device=x0.device)
        step = self.weights.calls - 1 - timesteps * self.weights.calls // len(alphas)  # 0 is the noisiest
        t = rows[step]
        noisy = add_noise(scheduler, x0, noise, t)
        simulated = (torch.rand(len(x0), device=x0.device) < self.weights.simulated) & (step > 0)
        if simulated.any():
            noisy = self._simulate(vae, scheduler, batch, noisy, noise, step, rows, simulated)
        output = unet_output(self.unet, vae, batch, noisy, network_times(scheduler, t))
        plan = self.policy.plan(t, alphas, batch["lesion_mask"], batch["valid_mask"], vae.factor)
        cells = counted_cells(plan, batch, vae.factor)
        structure = structure_loss(output, target_of(scheduler, x0, noise, t), cells, self.directions) * ~simulated
        made = predicted_x0(scheduler, output, noisy, t)

        if self.training:
            self.batches += 1
        taught = float(self.batches > self.weights.head_start)
        losses = {STRUCTURE: structure}
        total = self.weights.anchor * structure.mean()
        measured: dict[str, float] = {}
        if self.autoencoder is not None:
            error = reconstruction_error(vae, batch, x0).mean()
            total = total + self.weights.reconstruction * error
            losses["reconstruction"] = error * structure.new_ones(len(x0))
        if self.texture or "image" in self.discriminators:
            learns = self.autoencoder is not None
            real = batch["ct_norm"] if learns else vae.decode(unstandardise(x0, vae.config)).sample
            real, fake = _decoded(vae, batch, real, made)
        for name, loss in self.texture.items():
            losses[name] = loss(fake, real, batch["lesion_mask"], batch["spacing_mm"])
            total = total + self.texture_weights[name] * losses[name].mean()
        for name, network in self.discriminators.items():
            if name == "image":
                pair = _in_view(batch, real, fake)
                more: tuple[Tensor, ...] = (pair.lesion_mask, step)
            else:
                pair = _noisier_pair(alphas[rows].tolist(), vae, batch, x0, made, noisy, step)
                more = (noisy, pair.lesion_mask, step)
            of_generator, of_discriminator, penalty = relativistic_losses(
                network, pair.real, pair.fake, pair.weights, *more
            )
            total = total + taught * getattr(self.weights, name) * of_generator
            total = total + of_discriminator + self.weights.penalty * penalty
            if statistics and not simulated.all():
                pulls = [
                    torch.autograd.grad(loss, output, retain_graph=True)[0].norm()
                    for loss in (of_generator, structure.mean())
                ]
                measured |= {f"{name}_pull": float(pulls[0] / pulls[1])}
            ones = structure.new_ones(len(x0))
            losses |= {f"{name}_generator": of_generator * ones, f"{name}_discriminator": of_discriminator * ones}
            losses |= {f"{name}_penalty": penalty * ones}
        return total, {name: loss.detach() for name, loss in losses.items()}, measured

    @torch.no_grad()
    def _simulate(
        self,
        vae: Any,
        scheduler: Any,
        batch: Mapping[str, Tensor],
        noisy: Tensor,
        noise: Tensor,
        step: Tensor,
        rows: Tensor,
        simulated: Tensor,
    ) -> Tensor:
        """The noisy states, those of the simulated samples replaced by what the U-Net's earlier calls lead to.

        Args:
            vae, scheduler, batch: As in `forward`.
            noisy, noise: (B, C, d, h, w); sampling starts at the noise.
            step: Which large step is taken, (B,).
            rows: Timestep of each large step, (calls,).
            simulated: (B,) bool.
        """
        states = torch.where(simulated.view(-1, 1, 1, 1, 1), noise, noisy)
        signal = alphas_of(scheduler)[rows].tolist()
        for call in range(int(step[simulated].max())):
            chosen = (simulated & (step > call)).nonzero()[:, 0]
            some = {name: value[chosen] for name, value in batch.items() if isinstance(value, Tensor)}
            before, t = states[chosen], rows[call].expand(len(chosen))
            output = unet_output(self.unet, vae, some, before, network_times(scheduler, t))
            of_x0, of_noisy, deviation = posterior(signal[call], signal[call + 1])
            made = predicted_x0(scheduler, output, before, t)
            states[chosen] = of_x0 * made + of_noisy * before + deviation * torch.randn_like(before)
        return states


class _Pair(NamedTuple):
    """Real and generated samples of one shape, the lesion mask beside them, and the weight of each patch size."""

    real: Tensor
    fake: Tensor
    lesion_mask: Tensor
    weights: list[Tensor]


def reconstruction_error(vae: Any, batch: Mapping[str, Tensor], x0: Tensor) -> Tensor:
    """Mean absolute error of decoded real latents in the painted region, ct_norm; of every fourth sample, (B/4,)."""
    painted = (batch["paint_mask"].float() * batch["valid_mask"].float())[::RECONSTRUCTED]
    decoded = vae.decode(unstandardise(x0[::RECONSTRUCTED], vae.config)).sample.float()
    error = (decoded - batch["ct_norm"][::RECONSTRUCTED].clamp(-1, 1)).abs() * painted
    return error.flatten(1).sum(1) / painted.flatten(1).sum(1).clamp_min(1)


def _decoded(vae: Any, batch: Mapping[str, Tensor], real: Tensor, made: Tensor) -> tuple[Tensor, Tensor]:
    """The real and the decoded lesions, the latter in the real surroundings; (B, 1, D, H, W)."""
    painted = batch["paint_mask"].float() * batch["valid_mask"].float()
    real = real.float().clamp(-1, 1)
    return real, torch.where(painted > 0, vae.decode(unstandardise(made, vae.config)).sample.float(), real)


def _in_view(batch: Mapping[str, Tensor], real: Tensor, fake: Tensor) -> _Pair:
    """Both in one random view, (B, 1, V, V, V): a small set of lesions is otherwise learnt by heart."""
    painted = batch["paint_mask"].float() * batch["valid_mask"].float()
    view = _random_view(painted)
    real, fake, mask, painted = (view(volume) for volume in (real, fake, batch["lesion_mask"].float(), painted))
    return _Pair(real, fake, mask, patch_weights(painted))


def _noisier_pair(
    signal: list[float], vae: Any, batch: Mapping[str, Tensor], x0: Tensor, made: Tensor, noisy: Tensor, step: Tensor
) -> _Pair:
    """x_{t-k} drawn from the posterior with the real and with the predicted x0; (B, C, d, h, w)."""
    factors = torch.tensor([posterior(a, b) for a, b in pairwise([*signal, 1.0])]).to(noisy)
    of_x0, of_noisy, deviation = (factors[step][:, i].view(-1, 1, 1, 1, 1) for i in range(3))
    real, fake = (of_x0 * clean + of_noisy * noisy + deviation * torch.randn_like(noisy) for clean in (x0, made))
    painted = batch["paint_mask"].float() * batch["valid_mask"].float()
    return _Pair(real, fake, batch["lesion_mask"].float(), [mask_coverage(painted, vae.factor)])


def _random_view(painted: Tensor) -> Callable[[Tensor], Tensor]:
    """A cube around a random painted voxel of each sample, flipped at random and its axes in the plane exchanged.

    Args:
        painted: (B, 1, D, H, W), 0 or 1.
    Returns: A function (B, C, D, H, W) -> (B, C, V, V, V), with V = `VIEW` or the shortest edge.
    """
    edges = torch.tensor(painted.shape[2:])
    side = int(min(VIEW, *edges))
    starts = []
    for mask in painted[:, 0]:
        voxels = mask.nonzero().cpu()
        centre = voxels[int(torch.rand(()) * len(voxels))] if len(voxels) else edges // 2
        starts.append((torch.minimum((centre - side // 2).clamp_min(0), edges - side)).tolist())
    axes = [axis for axis in (2, 3, 4) if torch.rand(()) < 0.5]
    exchanged = bool(torch.rand(()) < 0.5)

    def view(volume: Tensor) -> Tensor:
        cubes = [
            one[:, z : z + side, y : y + side, x : x + side] for one, (z, y, x) in zip(volume, starts, strict=True)
        ]
        flipped = torch.stack(cubes).flip(axes)
        return flipped.transpose(3, 4) if exchanged else flipped

    return view

"""Time policies: which samples, which region and which weight each loss has at t.

t = 0 is clean and T - 1 the noisiest step. SNR(t) = ᾱ_t / (1 - ᾱ_t). A policy knows one structure loss (L_low, the
mean squared error) and any number of texture losses (L_high). It decides three things:

- its gate: for which samples a texture loss is computed;
- its weights: how much each loss counts at t;
- its region: which latent cells the structure loss sees.

`StageTwo` follows this plan. The overall weight of a loss (λ in eq. 2, 0.3 in the texture-loss proposal) belongs to the
script. Every policy is a module. So policies with and without learned parameters are optimised, checkpointed and logged
in the same way:

    plan = policy.plan(timesteps, scheduler.alphas_cumprod, lesion_mask, valid_mask, factor)
    total = sum((plan.weights[name] * losses[name]).mean() for name in losses) + policy.penalty(plan.late)

A rectified flow has no ᾱ_t, but the same SNR with ᾱ = (1 - σ)² / ((1 - σ)² + σ²).
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from diffusers.models.embeddings import get_timestep_embedding
from torch import Tensor, nn
from torch.nn import functional as F

from diffusion.conditioning import lesion_neighbourhood

STRUCTURE = "structure"
TEXTURE = ("texture",)


class StepPlan(NamedTuple):
    """What one training step computes.

    Attributes:
        late: The samples for which texture losses are computed, bool (B,); the structure loss is for all.
        weights: Weight of each loss for each sample, float32 (B,) by name; 0 where it is not computed.
        cells: Weight of each latent cell in the structure loss, float32 (B, 1, d, h, w).
    """

    late: Tensor
    weights: dict[str, Tensor]
    cells: Tensor


def signal_to_noise(timesteps: Tensor, alphas_cumprod: Tensor, eps: float = 0.0) -> Tensor:
    """SNR(t) = ᾱ_t / (1 - ᾱ_t + ε), eq. 1, float32 (B,).

    Args:
        timesteps: Integer, (B,), 0 (clean) to T - 1.
        alphas_cumprod: The scheduler's ᾱ, (T,).
        eps: Keeps it finite where ᾱ_t = 1.
    Raises: ValueError: If timesteps are not integers in one dimension.
    """
    if timesteps.ndim != 1 or timesteps.is_floating_point():
        raise ValueError(
            f"timesteps of shape {tuple(timesteps.shape)}, {timesteps.dtype}: expected integers (B,), rows of "
            "alphas_cumprod; give the rows, not a flow's times"
        )
    alpha_bar = alphas_cumprod.to(timesteps.device, torch.float32)[timesteps]
    return alpha_bar / (1 - alpha_bar + eps)


class ConstantWeights(nn.Module):
    """Every loss that is computed counts fully; the base of the other policies.

    Args:
        texture_losses: Names of the texture losses; the structure loss is always called "structure".
        gate: Texture losses are computed for t < gate · T; 1 computes them at every t.
        background_weight: Weight of the structure loss away from the lesion; its own neighbourhood counts 1.
    Raises: ValueError: If the gate is outside (0, 1] or the background's weight outside [0, 1].
    """

    def __init__(
        self, texture_losses: Sequence[str] = TEXTURE, gate: float = 1.0, background_weight: float = 0.2
    ) -> None:
        super().__init__()
        if not 0 < gate <= 1:
            raise ValueError(f"gate {gate}: expected a fraction of the steps above 0 and at most 1")
        if not 0 <= background_weight <= 1:
            raise ValueError(f"background_weight {background_weight}: expected a weight from 0 to 1")
        self.texture_losses, self.gate, self.background_weight = tuple(texture_losses), gate, background_weight

    def plan(
        self, timesteps: Tensor, alphas_cumprod: Tensor, lesion_mask: Tensor, valid_mask: Tensor, factor: int
    ) -> StepPlan:
        """Samples, weights and region of every loss for a batch.

        Args:
            timesteps: Integer, (B,), 0 (clean) to T - 1.
            alphas_cumprod: The scheduler's ᾱ, (T,).
            lesion_mask, valid_mask: (B, 1, D, H, W), 0 or 1.
            factor: Voxels per latent cell along each axis.
        Raises: ValueError: If timesteps are not integers in one dimension.
        """
        valid = F.avg_pool3d(valid_mask.float(), factor)  # a cell counts by what the scan has of it
        cells = self.region(lesion_mask, timesteps, alphas_cumprod, factor) * valid
        return StepPlan(self.late(timesteps, len(alphas_cumprod)), self(timesteps, alphas_cumprod), cells)

    def forward(self, timesteps: Tensor, alphas_cumprod: Tensor) -> dict[str, Tensor]:
        """Weight of each loss for each sample, float32 (B,) by name; 0 where the loss is not computed.

        Args:
            timesteps: Integer, (B,), 0 (clean) to T - 1.
            alphas_cumprod: The scheduler's ᾱ, (T,).
        Raises: ValueError: If timesteps are not integers in one dimension.
        """
        low, high = self.low_high(timesteps, alphas_cumprod)
        high = torch.where(self.late(timesteps, len(alphas_cumprod)), high, 0.0)
        return {STRUCTURE: low, **dict.fromkeys(self.texture_losses, high)}

    def late(self, timesteps: Tensor, T: int) -> Tensor:
        """For which samples texture losses are computed, bool (B,); none where there is no texture loss."""
        return (timesteps < self.gate * T) & bool(self.texture_losses)

    def low_high(self, timesteps: Tensor, alphas_cumprod: Tensor) -> tuple[Tensor, Tensor]:
        """w_low(t) and w_high(t), each (B,); what a policy overrides. w_high is cut off above the gate afterwards."""
        one = torch.ones_like(signal_to_noise(timesteps, alphas_cumprod))
        return one, one

    def region(self, lesion_mask: Tensor, timesteps: Tensor, alphas_cumprod: Tensor, factor: int) -> Tensor:
        """Weight of each latent cell in the structure loss, padding apart: float32 (B, 1, d, h, w).

        1 in the cells that touch the lesion and their neighbours, `background_weight` elsewhere.
        """
        return self._around(lesion_mask, factor)

    def penalty(self, late: Tensor | None = None) -> Tensor | float:
        """Term to add to the total so that learned weights do not vanish; 0 but for `UncertaintyWeights`."""
        return 0.0

    def _around(self, lesion_mask: Tensor, factor: int) -> Tensor:
        near = lesion_neighbourhood(lesion_mask, factor)
        return self.background_weight + (1 - self.background_weight) * near


class SnrWeights(ConstantWeights):
    """Eq. 1-2: w_low = 1, w_high = SNR / (SNR + 1); ᾱ_t, but for ε.

    Args:
        texture_losses: Names of the texture losses.
        eps: ε of eq. 1.
        region: `gate` and `background_weight`, as `ConstantWeights`; so in every policy.
    Examples:
        >>> from diffusion.process import training_scheduler
        >>> alphas_cumprod = training_scheduler("v").alphas_cumprod  # T = 1000
        >>> weights = SnrWeights(gate=0.3)(torch.tensor([0, 200, 299, 300]), alphas_cumprod)
        >>> [round(weight, 2) for weight in weights["texture"].tolist()]  # falls with the noise; 0 from the gate on
        [1.0, 0.9, 0.79, 0.0]
        >>> weights["structure"].tolist()
        [1.0, 1.0, 1.0, 1.0]
    """

    def __init__(self, texture_losses: Sequence[str] = TEXTURE, eps: float = 1e-8, **region: float) -> None:
        super().__init__(texture_losses, **region)
        self.eps = eps

    def low_high(self, timesteps: Tensor, alphas_cumprod: Tensor) -> tuple[Tensor, Tensor]:
        """1 and eq. 1."""
        snr = signal_to_noise(timesteps, alphas_cumprod, self.eps)
        return torch.ones_like(snr), snr / (snr + 1)


class MinSnrWeights(ConstantWeights):
    """Min-SNR-γ (Hang et al. 2023, arXiv:2303.09556, section 3.4).

    The squared error of x̂0 is weighted by min(SNR, γ); for the error of the model's own output that is divided by
    SNR (ε), by SNR + 1 (v) or by (1 + √SNR)² (a flow's velocity). Texture losses are functions of x̂0; theirs is
    min(SNR, γ) / γ, which reaches 1.

    Args:
        texture_losses: Names of the texture losses.
        gamma: Where the SNR is cut.
        prediction_type: What the structure loss is the error of: "epsilon", "v_prediction", "sample" or
            "flow_prediction".
    """

    def __init__(
        self,
        texture_losses: Sequence[str] = TEXTURE,
        gamma: float = 5.0,
        prediction_type: str = "epsilon",
        **region: float,
    ) -> None:
        super().__init__(texture_losses, **region)
        if gamma <= 0:
            raise ValueError(f"gamma {gamma}: expected above 0; the paper uses 5")
        if prediction_type not in (known := ("epsilon", "v_prediction", "sample", "flow_prediction")):
            raise ValueError(f"prediction_type {prediction_type!r}: expected one of {', '.join(known)}")
        self.gamma = gamma
        self.prediction_type = prediction_type

    def low_high(self, timesteps: Tensor, alphas_cumprod: Tensor) -> tuple[Tensor, Tensor]:
        """min(SNR, γ) over what the prediction's error is scaled by, and min(SNR, γ) / γ."""
        snr = signal_to_noise(timesteps, alphas_cumprod)
        clipped = snr.clamp(max=self.gamma)
        if self.prediction_type == "epsilon":
            low = (self.gamma / snr).clamp(max=1.0)  # min(SNR, γ) / SNR, also where the SNR is 0
        elif self.prediction_type == "v_prediction":
            low = clipped / (snr + 1)
        elif self.prediction_type == "flow_prediction":
            low = clipped / (1 + snr.sqrt()) ** 2
        else:
            low = clipped
        return low, clipped / self.gamma


class FilmWeights(ConstantWeights):
    """Eq. 3-4: w_high = σ(γ(t) t + β(t)) with (γ, β) = g_φ(t), w_low = 1 - w_high; g_φ is learned.

    Where no texture loss is computed there is nothing to weigh: w_low = 1, and g_φ learns nothing from those samples.

    t in eq. 3 is t / T. g_φ is a small network on a sinusoidal embedding, whose last layer starts at zero, so that
    both weights start at 1/2. As the total is a weighted mean of the losses, descent moves the weight to whichever
    loss is smaller: scale them to like size.
    """

    def __init__(self, texture_losses: Sequence[str] = TEXTURE, hidden: int = 32, **region: float) -> None:
        super().__init__(texture_losses, **region)
        self.hidden = hidden
        self.g = nn.Sequential(nn.Linear(hidden, hidden), nn.SiLU(), nn.Linear(hidden, 2))
        for parameter in self.g[2].parameters():
            nn.init.zeros_(parameter)

    def low_high(self, timesteps: Tensor, alphas_cumprod: Tensor) -> tuple[Tensor, Tensor]:
        """Eq. 3-4 where a texture loss is computed; 1 for structure elsewhere."""
        time = torch.ones_like(signal_to_noise(timesteps, alphas_cumprod)) * timesteps / len(alphas_cumprod)
        with torch.autocast(time.device.type, enabled=False):
            gamma, beta = self.g(get_timestep_embedding(1000 * time, self.hidden)).unbind(dim=1)
        high = torch.sigmoid(gamma * time + beta)
        return torch.where(self.late(timesteps, len(alphas_cumprod)), 1 - high, 1.0), high


class UncertaintyWeights(ConstantWeights):
    """Eq. 5 (Kendall et al. 2018): weight 1 / (2σ²) and penalty ½ log σ² for each loss, σ learned, the same at any t.

    At the optimum σ² is the loss's mean, so each weighted loss is ½. log σ² is what is stored, starting at 0.
    """

    def __init__(self, texture_losses: Sequence[str] = TEXTURE, **region: float) -> None:
        super().__init__(texture_losses, **region)
        self.log_variance = nn.Parameter(torch.zeros(1 + len(self.texture_losses)))

    def forward(self, timesteps: Tensor, alphas_cumprod: Tensor) -> dict[str, Tensor]:
        open_to_all = super().forward(timesteps, alphas_cumprod)  # 1 where a loss is computed, else 0
        weights = 0.5 * torch.exp(-self.log_variance)
        return {name: w * open_to_all[name] for name, w in zip(open_to_all, weights, strict=True)}

    def penalty(self, late: Tensor | None = None) -> Tensor:
        """½ Σ log σ², scalar.

        Args:
            late: The samples for which texture losses were computed, (B,); their penalties count for that share of
                the batch, else σ would shrink for want of losses. None means all.
        """
        structure, texture = self.log_variance[0], self.log_variance[1:].sum()
        return 0.5 * (structure + texture * (1.0 if late is None else late.float().mean()))


class StepAwareMask(ConstantWeights):
    """Step-aware control: in the noisier half of the steps the structure loss sees only the eroded lesion.

    The texture-loss proposal counts t from the start of generation (early is t < T/2). Here t = 0 is clean, so early is
    t >= T/2. Weights are 1. The proposal trains this policy with the squared error alone.

    If erosion would empty a lesion, the whole lesion is kept. Otherwise small nodules would never be trained on early
    steps. A latent cell counts by the share of its lesion voxels that are left. So the rim that erosion removes has no
    weight; this is exact where a cell is a voxel.

    Args:
        texture_losses: Names of the texture losses.
        erosion: Voxels taken off on every side (cube).
        region: `gate` and `background_weight`, as `ConstantWeights`.
    """

    def __init__(self, texture_losses: Sequence[str] = TEXTURE, erosion: int = 1, **region: float) -> None:
        super().__init__(texture_losses, **region)
        if erosion < 1:
            raise ValueError(f"erosion {erosion}: expected at least 1 voxel")
        self.erosion = erosion

    def supervised_mask(self, lesion_mask: Tensor, timesteps: Tensor, alphas_cumprod: Tensor) -> Tensor:
        """The lesion's voxels that the structure loss sees at t, of the mask's shape and type."""
        width = 2 * self.erosion + 1
        eroded = -F.max_pool3d(
            -lesion_mask.float(), width, stride=1, padding=self.erosion
        )  # not from the crop's border
        shrink = eroded.flatten(1).any(dim=1) & (timesteps >= len(alphas_cumprod) / 2)
        return torch.where(shrink.view(-1, 1, 1, 1, 1), eroded.to(lesion_mask.dtype), lesion_mask)

    def region(self, lesion_mask: Tensor, timesteps: Tensor, alphas_cumprod: Tensor, factor: int) -> Tensor:
        """As the base class's, around the lesion that is left; nothing in cells whose lesion voxels are hidden."""
        supervised = self.supervised_mask(lesion_mask, timesteps, alphas_cumprod)
        lesion, left = (F.avg_pool3d(mask.float(), factor) for mask in (lesion_mask, supervised))
        share = torch.where(lesion > 0, left / lesion.clamp_min(torch.finfo(lesion.dtype).tiny), 1.0)
        return self._around(supervised, factor) * share


TIME_POLICIES: dict[str, type[ConstantWeights]] = {
    "constant": ConstantWeights,
    "snr": SnrWeights,
    "min_snr": MinSnrWeights,
    "film": FilmWeights,
    "uncertainty": UncertaintyWeights,
    "step_aware": StepAwareMask,
}


@torch.no_grad()
def weights_over_time(policy: ConstantWeights, alphas_cumprod: Tensor, points: int | None = None) -> dict[str, Tensor]:
    """The policy's weights along t, for a tracker's log or a picture: (points,) by loss.

    Args:
        policy: Any policy; learned ones as they are now.
        alphas_cumprod: The scheduler's ᾱ, (T,).
        points: Number of timesteps, evenly from 0 to T - 1; None takes all.
    """
    T = len(alphas_cumprod)
    timesteps = torch.linspace(0, T - 1, points or T).round().long()
    device = next((parameter.device for parameter in policy.parameters()), torch.device("cpu"))
    weights = policy(timesteps.to(device), alphas_cumprod)
    return {name: weight.cpu() for name, weight in weights.items()}

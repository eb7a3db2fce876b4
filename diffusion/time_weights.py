"""When each loss counts: policies from the timestep and the noise schedule to a weight per loss and per sample.

t = 0 is clean and T - 1 the noisiest step; SNR(t) = ᾱ_t / (1 - ᾱ_t). A policy knows one structure loss (L_low, the
mean squared error) and any number of texture losses (L_high). Its weights say how a loss changes over t; a loss's
overall size (λ in eq. 2, 0.3 in the source) belongs to the script. Every policy is a module, so that those which
learn are optimised, checkpointed and logged in the same way as those which do not:

    weights = policy(timesteps, scheduler.alphas_cumprod)          # {"structure": (B,), "gabor": (B,), ...}
    total = sum((weights[name] * losses[name]).mean() for name in losses) + policy.penalty()

A rectified flow has no ᾱ_t, but the same SNR with ᾱ = (1 - σ)² / ((1 - σ)² + σ²).
"""

from collections.abc import Mapping, Sequence

import torch
from diffusers.models.embeddings import get_timestep_embedding
from torch import Tensor, nn
from torch.nn import functional as F

STRUCTURE = "structure"
TEXTURE = ("texture",)


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
    """Every loss counts fully at every t; the base of the other policies.

    Args:
        texture_losses: Names of the texture losses; the structure loss is always called "structure".
    """

    def __init__(self, texture_losses: Sequence[str] = TEXTURE) -> None:
        super().__init__()
        self.texture_losses = tuple(texture_losses)

    def forward(self, timesteps: Tensor, alphas_cumprod: Tensor) -> dict[str, Tensor]:
        """Weight of each loss for each sample, float32 (B,) by name.

        Args:
            timesteps: Integer, (B,), 0 (clean) to T - 1.
            alphas_cumprod: The scheduler's ᾱ, (T,).
        Raises: ValueError: If timesteps are not integers in one dimension.
        """
        low, high = self.low_high(timesteps, alphas_cumprod)
        return {STRUCTURE: low, **dict.fromkeys(self.texture_losses, high)}

    def low_high(self, timesteps: Tensor, alphas_cumprod: Tensor) -> tuple[Tensor, Tensor]:
        """w_low(t) and w_high(t), each (B,); what a policy overrides."""
        one = torch.ones_like(signal_to_noise(timesteps, alphas_cumprod))
        return one, one

    def structure_mask(self, mask: Tensor, timesteps: Tensor, alphas_cumprod: Tensor) -> Tensor:
        """Region of the structure loss at t, (B, 1, D, H, W) as given; only `StepAwareMask` changes it."""
        return mask

    def penalty(self, active: Mapping[str, Tensor] | None = None) -> Tensor | float:
        """Term to add to the total so that learned weights do not vanish; 0 but for `UncertaintyWeights`."""
        return 0.0


class LateGate(ConstantWeights):
    """Texture losses count only in the late, low-noise steps: w_high = 1 for t < gate * T, else 0."""

    def __init__(self, texture_losses: Sequence[str] = TEXTURE, gate: float = 0.3) -> None:
        super().__init__(texture_losses)
        if not 0 < gate <= 1:
            raise ValueError(f"gate {gate}: expected a fraction of the steps above 0 and at most 1")
        self.gate = gate

    def low_high(self, timesteps: Tensor, alphas_cumprod: Tensor) -> tuple[Tensor, Tensor]:
        low, _ = super().low_high(timesteps, alphas_cumprod)
        return low, (timesteps < self.gate * len(alphas_cumprod)).float()


class SnrWeights(ConstantWeights):
    """Eq. 1-2: w_low = 1, w_high = SNR / (SNR + 1); ᾱ_t, but for ε."""

    def __init__(self, texture_losses: Sequence[str] = TEXTURE, eps: float = 1e-8) -> None:
        super().__init__(texture_losses)
        self.eps = eps

    def low_high(self, timesteps: Tensor, alphas_cumprod: Tensor) -> tuple[Tensor, Tensor]:
        snr = signal_to_noise(timesteps, alphas_cumprod, self.eps)
        return torch.ones_like(snr), snr / (snr + 1)


class MinSnrWeights(ConstantWeights):
    """Min-SNR-γ (Hang et al. 2023, arXiv:2303.09556, section 3.4).

    The squared error of x̂0 is weighted by min(SNR, γ); for the error of the model's own output that is divided by
    SNR (ε) or by SNR + 1 (v). Texture losses are functions of x̂0; theirs is min(SNR, γ) / γ, which reaches 1.

    Args:
        texture_losses: Names of the texture losses.
        gamma: Where the SNR is cut.
        prediction_type: The scheduler's, that is what the structure loss is the error of: "epsilon",
            "v_prediction" or "sample".
    """

    def __init__(
        self, texture_losses: Sequence[str] = TEXTURE, gamma: float = 5.0, prediction_type: str = "epsilon"
    ) -> None:
        super().__init__(texture_losses)
        if gamma <= 0:
            raise ValueError(f"gamma {gamma}: expected above 0; the paper uses 5")
        if prediction_type not in ("epsilon", "v_prediction", "sample"):
            raise ValueError(f"prediction_type {prediction_type!r}: expected epsilon, v_prediction or sample")
        self.gamma = gamma
        self.prediction_type = prediction_type

    def low_high(self, timesteps: Tensor, alphas_cumprod: Tensor) -> tuple[Tensor, Tensor]:
        snr = signal_to_noise(timesteps, alphas_cumprod)
        clipped = snr.clamp(max=self.gamma)
        if self.prediction_type == "epsilon":
            low = (self.gamma / snr).clamp(max=1.0)  # min(SNR, γ) / SNR, also where the SNR is 0
        elif self.prediction_type == "v_prediction":
            low = clipped / (snr + 1)
        else:
            low = clipped
        return low, clipped / self.gamma


class FilmWeights(ConstantWeights):
    """Eq. 3-4: w_high = σ(γ(t) t + β(t)) with (γ, β) = g_φ(t), w_low = 1 - w_high; g_φ is learned.

    t in eq. 3 is t / T. g_φ is a small network on a sinusoidal embedding, whose last layer starts at zero, so that
    both weights start at 1/2. As the total is a weighted mean of the losses, descent moves the weight to whichever
    loss is smaller: scale them to like size.
    """

    def __init__(self, texture_losses: Sequence[str] = TEXTURE, hidden: int = 32) -> None:
        super().__init__(texture_losses)
        self.hidden = hidden
        self.g = nn.Sequential(nn.Linear(hidden, hidden), nn.SiLU(), nn.Linear(hidden, 2))
        for parameter in self.g[2].parameters():
            nn.init.zeros_(parameter)

    def low_high(self, timesteps: Tensor, alphas_cumprod: Tensor) -> tuple[Tensor, Tensor]:
        time = torch.ones_like(signal_to_noise(timesteps, alphas_cumprod)) * timesteps / len(alphas_cumprod)
        with torch.autocast(time.device.type, enabled=False):
            gamma, beta = self.g(get_timestep_embedding(1000 * time, self.hidden)).unbind(dim=1)
        high = torch.sigmoid(gamma * time + beta)
        return 1 - high, high


class UncertaintyWeights(ConstantWeights):
    """Eq. 5 (Kendall et al. 2018): weight 1 / (2σ²) and penalty ½ log σ² for each loss, σ learned, the same at any t.

    At the optimum σ² is the loss's mean, so each weighted loss is ½. log σ² is what is stored, starting at 0.
    """

    def __init__(self, texture_losses: Sequence[str] = TEXTURE) -> None:
        super().__init__(texture_losses)
        self.log_variance = nn.Parameter(torch.zeros(1 + len(self.texture_losses)))

    def forward(self, timesteps: Tensor, alphas_cumprod: Tensor) -> dict[str, Tensor]:
        one = torch.ones_like(signal_to_noise(timesteps, alphas_cumprod))
        weights = 0.5 * torch.exp(-self.log_variance)
        return {name: w * one for name, w in zip((STRUCTURE, *self.texture_losses), weights, strict=True)}

    def penalty(self, active: Mapping[str, Tensor] | None = None) -> Tensor:
        """½ Σ log σ², scalar.

        Args:
            active: For losses that were not computed for every sample (those above a gate), 1 where they were, (B,);
                their penalty counts for that share of the batch, else σ would shrink for want of losses.
        """
        active = active or {}
        terms = [
            0.5 * log_variance * (active[name].float().mean() if name in active else 1.0)
            for name, log_variance in zip((STRUCTURE, *self.texture_losses), self.log_variance, strict=True)
        ]
        return torch.stack(terms).sum()


class StepAwareMask(ConstantWeights):
    """Step-aware control: in the noisier half of the steps the structure loss sees only the eroded lesion.

    The source counts t from the start of generation (early is t < T/2); with t = 0 clean, early is t >= T/2. Weights
    are 1; the source trains with the squared error alone. A mask that erosion would empty is kept whole, or small
    nodules would never be trained on early steps.

    Args:
        texture_losses: Names of the texture losses.
        erosion: Voxels taken off on every side (cube), in the grid of the mask given to `structure_mask`.
    """

    def __init__(self, texture_losses: Sequence[str] = TEXTURE, erosion: int = 1) -> None:
        super().__init__(texture_losses)
        if erosion < 1:
            raise ValueError(f"erosion {erosion}: expected at least 1 voxel")
        self.erosion = erosion

    def structure_mask(self, mask: Tensor, timesteps: Tensor, alphas_cumprod: Tensor) -> Tensor:
        width = 2 * self.erosion + 1
        eroded = -F.max_pool3d(-mask.float(), width, stride=1, padding=self.erosion)  # the crop's border does not erode
        keep = eroded.flatten(1).any(dim=1) & (timesteps >= len(alphas_cumprod) / 2)
        return torch.where(keep.view(-1, 1, 1, 1, 1), eroded.to(mask.dtype), mask)


TIME_POLICIES: dict[str, type[ConstantWeights]] = {
    "constant": ConstantWeights,
    "late_gate": LateGate,
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

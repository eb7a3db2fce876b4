"""Guidance by what can be measured: HU that are requested need no classifier, the decoded lesion says them itself.

At a step the prediction x̂0 is moved by the smallest change of the latent (least squares, near the lesion) after which,
to first order, its decoded lesion has the mean or percentile of HU that was requested. The later steps see the result
as any other prediction and make it a lesion again. It is reconstruction guidance (Ho et al. 2022, eq. 7; Chung et al.
2023) with the step that a linear measurement needs, and without a gradient through the U-Net.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from autoencoder.latents import unstandardise
from diffusion.conditioning import lesion_neighbourhood
from diffusion.lesion_window import decode_windows, lesion_windows
from imaging.lesions.measured_attributes import MEASURED
from imaging.window import AIR_HU, to_norm

PERCENTILES = {"p10_hu": 0.1, "p50_hu": 0.5, "p90_hu": 0.9}  # of `MEASURED`, all but the mean
DAMPING = 1e-3  # of the largest sensitivity: two requests that the latent cannot tell apart are met halfway
RANK_WIDTH = 0.05  # share of the lesion's voxels, standard deviation
NOISIEST = 0.2  # share of the timesteps: steps before it change nothing in what is reached, and cost as much


def measured_guidance(
    wanted: Tensor, names: Sequence[str], lesion_mask: Tensor, vae: Any, scale: float = 1.0
) -> "MeasuredGuidance | None":
    """Guidance by those of a call's requests that are measured; None if there are none, or at scale 0.

    Args:
        wanted: A call's requests, (B, number of `names`), NaN where a volume is not requested one.
        names: Attributes of the columns; others than `MEASURED` are passed over.
        lesion_mask, vae, scale: As :class:`MeasuredGuidance`.
    Raises: ValueError: If the autoencoder is a service, which gives no gradients.
    """
    requested = torch.isfinite(wanted).any(0).tolist()
    columns = [index for index, name in enumerate(names) if name in MEASURED and requested[index]]
    if not columns or scale == 0:
        return None
    if not vae.gives_gradients:
        raise ValueError(
            "HU that are requested are met through the autoencoder's gradient, which a service does not give; load the "
            "pipeline with its own autoencoder, or call with hu_scale=0"
        )
    return MeasuredGuidance(wanted[:, columns], [names[index] for index in columns], lesion_mask, vae, scale)


class MeasuredGuidance:
    """The HU that one call asks for, and how to move a prediction towards them.

    Args:
        wanted: In HU, (B, K), NaN where a volume is not requested it.
        names: Of the K columns, from `MEASURED`.
        lesion_mask: (B, 1, D, H, W), 0 or 1.
        vae: Autoencoder of the latents.
        scale: Share of the difference that a step makes up for; 1 all of it.
    """

    def __init__(self, wanted: Tensor, names: Sequence[str], lesion_mask: Tensor, vae: Any, scale: float) -> None:
        window = (vae.config["window_width"], vae.config["window_level"])
        self.low = float(to_norm(torch.tensor(float(AIR_HU)), *window))  # nothing is painted darker
        self.wanted = to_norm(wanted, *window).clamp(self.low, 1)
        self.names, self.vae, self.scale = names, vae, scale
        self.windows = lesion_windows(lesion_mask, vae.factor, vae.decoder_margin)
        self.inside = self.windows.of_voxels(lesion_mask)[:, 0] > 0
        self.near = lesion_neighbourhood(lesion_mask, vae.factor)

    def covers(self, share: float, last: bool) -> bool:
        """Whether timestep t = share · T is guided: the late ones, and whatever is the last of a call."""
        return last or share < NOISIEST

    def measure(self, decoded: Tensor) -> Tensor:
        """(B, 1, d, h, w), the lesions' windows in ct_norm -> what they have of each attribute, (B, K)."""
        rows = []
        for volume, inside in zip(decoded[:, 0], self.inside, strict=True):
            values = volume[inside].float()
            beyond = values - values.clamp(self.low, 1)
            values = values - beyond.detach()  # its gradient stays: what is beyond the window can come back
            rows.append(torch.stack([_statistic(name, values) for name in self.names]))
        return torch.stack(rows)

    @torch.enable_grad()
    def correction(self, x0_hat: Tensor) -> Tensor:
        """What to add to x̂0: Δ = scale · Jᵀ(JJᵀ + λI)⁻¹(y - m(x̂0)), J the gradients of what is measured, m.

        Args:
            x0_hat: Prediction, standardised, (B, C, d, h, w).
        Returns: Same shape; zero away from the lesion and for volumes that are not requested any HU.
        """
        latent = x0_hat.detach().float().requires_grad_(True)
        decoded = decode_windows(self.vae, unstandardise(latent.to(x0_hat.dtype), self.vae.config), self.windows)
        found = self.measure(decoded)
        requested = torch.isfinite(self.wanted)
        missing = torch.where(requested, self.wanted - found.detach(), 0.0)
        count = len(self.names)
        slopes = [torch.autograd.grad(found[:, k].sum(), latent, retain_graph=k + 1 < count)[0] for k in range(count)]
        J = torch.stack([(slope * self.near).flatten(1) for slope in slopes], dim=1) * requested[..., None]  # (B, K, n)
        gram = J @ J.mT
        damping = DAMPING * gram.diagonal(dim1=1, dim2=2).amax(1).clamp_min(1e-12)
        gram = gram + damping[:, None, None] * torch.eye(count, device=gram.device)
        step = (J.mT @ torch.linalg.solve(gram, missing[..., None]))[..., 0]
        return self.scale * step.view_as(latent).to(x0_hat.dtype)


def _statistic(name: str, values: Tensor) -> Tensor:
    """Of the voxels of one lesion, (n,): the figure itself, and for a percentile the gradient of one that is smoothed.

    A percentile is two voxels' value: moved alone they change places with others, and it stays where it was. So its
    gradient is that of the mean of the order statistics around it, with Gaussian weights over their ranks.
    """
    if name == "mean_hu":
        return values.mean()
    share = PERCENTILES[name]
    ranks = (torch.arange(len(values), device=values.device) + 0.5) / len(values)
    weights = torch.softmax(-((ranks - share) ** 2) / (2 * RANK_WIDTH**2), 0)
    smooth = (weights * values.sort().values).sum()
    return smooth + (torch.quantile(values, share) - smooth).detach()

"""Paired generation (PIG, docs/references.md): a mask and the lesion in it are made together.

Two diffusions run side by side, x of the mask and y of the image. Each step is two steps in a row: model_x sees both
noisy states and gives the mask's clean estimate x̂0; model_y sees *this estimate*, not the noisy mask, and the noisy
image. Here x is the mask on the latent grid (`diffusion.mask_latents`), y is the latent of the CT, and model_y is
stage 2, which knows how to paint a lesion into a mask.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor, nn

from autoencoder.latents import standardise
from diffusion.conditioning import blank, blank_whole, mask_coverage
from diffusion.losses.structure import structure_loss
from diffusion.mask_latents import mask_channels, mask_of_latent
from diffusion.option_types import PairedParts
from diffusion.process import add_noise, network_times, predicted_x0, sampling_rows, target_of
from diffusion.stage_two import unet_output
from imaging.boxes import mask_box
from imaging.semantic_map import FIRST_NODULE, LABELS, LUNG

LEAST_SLACK_MM = 2.0  # between a lesion and the border of its region: its blurred rim is hidden, too
FURTHER = (0.3, 4.0)  # further slack at most: this share of the diameter, and these mm
OFFSET_MM = 2.0  # of the region's centre from the lesion's along an axis, at most
REGION = (0.75, 4.0)  # radius of a region in use: this share of the diameter, and these mm


class Pair(NamedTuple):
    """Mask and image on the latent grid, or what belongs to each of them.

    Attributes:
        mask: (B, `mask_channels`, d, h, w).
        image: (B, C, d, h, w).
    """

    mask: Tensor
    image: Tensor


class PairedDiffusion(nn.Module):
    """Both networks; forward gives the loss of a batch.

    Args:
        mask_unet: model_x, a `SPADEUNet3D` without a map (:func:`mask_conditions` channels are concatenated).
        unet: model_y, a `SPADEUNet3D` of stage 2.
        names: Attributes of the batch.
        background_weight: Weight of both losses outside the region that is painted.
        parts: Which networks are trained. "image" is model_y without any mask: the unconditional diffusion that PIG is
            compared with.
    """

    def __init__(
        self,
        mask_unet: Any,
        unet: Any,
        names: Sequence[str],
        background_weight: float = 0.2,
        parts: PairedParts = "both",
    ) -> None:
        super().__init__()
        self.mask_unet, self.unet = mask_unet.requires_grad_(parts != "image"), unet.requires_grad_(parts != "mask")
        self.columns = [[list(names).index(name) for name in net.config["attributes"]] for net in (mask_unet, unet)]
        self.background_weight, self.parts = background_weight, parts

    def forward(
        self,
        vae: Any,
        scheduler: Any,
        batch: Mapping[str, Tensor],
        clean: Pair,
        noise: Pair,
        timesteps: Tensor,
        given: Tensor,
        hidden: Tensor,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of a batch.

        Args:
            vae: Whose latents these are.
            scheduler: Training scheduler of both diffusions.
            batch: `blanked_latent`, `lesion_mask`, `paint_mask`, `valid_mask`, `background_map`, `attributes`.
            clean, noise: x0 and y0, and their noise.
            timesteps: Rows of the schedule, (B,), the same for mask and image.
            given: Where model_y sees the true mask in place of the estimate, bool (B,).
            hidden: Where model_x does not see the image, bool (B,).
        Returns: (scalar to call backward on; the loss of `mask` and of `image`, (B,) each, of what is trained).
        """
        noisy = Pair(*(add_noise(scheduler, x0, one, timesteps) for x0, one in zip(clean, noise, strict=True)))
        times = network_times(scheduler, timesteps)
        painted, valid = (mask_coverage(batch[name], vae.factor) for name in ("paint_mask", "valid_mask"))
        cells = (self.background_weight + (1 - self.background_weight) * painted) * valid
        of_mask, of_image = (batch["attributes"][:, columns] for columns in self.columns)

        losses, shown = {}, torch.zeros_like(batch["lesion_mask"])
        if self.parts != "image":
            seen_image = torch.where(hidden.view(-1, 1, 1, 1, 1), 0.0, noisy.image)
            output = mask_output(self.mask_unet, batch, Pair(noisy.mask, seen_image), times, of_mask, vae.factor)
            losses["mask"] = structure_loss(output, target_of(scheduler, clean.mask, noise.mask, timesteps), cells)
            shown = mask_of_latent(predicted_x0(scheduler, output.detach(), noisy.mask, timesteps), vae.factor)
            shown = torch.where(given.view(-1, 1, 1, 1, 1), batch["lesion_mask"], shown)
        if self.parts != "mask":
            seen = {**batch, **guided_by(batch, shown), "attributes": of_image}
            if not of_image.shape[1]:
                del seen["attributes"]
            image = unet_output(self.unet, vae, seen, noisy.image, times)
            losses["image"] = structure_loss(image, target_of(scheduler, clean.image, noise.image, timesteps), cells)
        total = torch.stack([loss.mean() for loss in losses.values()]).sum()
        return total, {name: loss.detach() for name, loss in losses.items()}


def mask_conditions(latent_channels: int) -> int:
    """Channels that model_x receives beside the noisy mask: noisy latent, blanked latent, painted and valid share."""
    return 2 * latent_channels + 2


def mask_output(
    mask_unet: Any, batch: Mapping[str, Tensor], noisy: Pair, times: Tensor, attributes: Tensor, factor: int
) -> Tensor:
    """model_x(x_t, y_t, t): the output of the mask's network, float32 (B, `mask_channels`, d, h, w).

    Args:
        mask_unet: model_x.
        batch: `blanked_latent`, `paint_mask`, `valid_mask`.
        noisy: x_t and y_t; 0 in place of an image that is hidden.
        times: That the network receives, (B,) or scalar.
        attributes: (B, those of the network), NaN where unknown.
        factor: Voxels per latent cell.
    """
    shares = [mask_coverage(batch[name], factor).to(noisy.mask) for name in ("paint_mask", "valid_mask")]
    sample = torch.cat([noisy.mask, noisy.image, batch["blanked_latent"].to(noisy.mask), *shares], dim=1)
    known = attributes if attributes.shape[1] else None
    return mask_unet(sample, times, modulation=[], attributes=known).sample.float()


def guided_by(batch: Mapping[str, Tensor], lesion_mask: Tensor) -> dict[str, Tensor]:
    """What stage 2 sees of a mask: itself, and the background's semantic map with the lesion in it."""
    lesion = torch.full_like(batch["background_map"], LABELS.index("lesion"))
    semantic_map = torch.where(lesion_mask > 0, lesion, batch["background_map"])
    return {"lesion_mask": lesion_mask, "semantic_map": semantic_map}


class Step(NamedTuple):
    """What one joint step gives: the state before it, and both clean estimates."""

    state: Pair
    estimate: Pair


class FactorisedSampler:
    """The joint reverse step p(x_{t-1}, y_{t-1} | x_t, y_t) = p_x(x_{t-1} | x_t, y_t) p_y(y_{t-1} | x̂0, y_t).

    Args:
        scheduler: Any Diffusers scheduler whose steps are set; each of the diffusions gets its own copy, because some
            keep what they predicted before.
        predict_mask: (x_t, y_t, t) -> model_x's output.
        predict_image: (x̂0, y_t, t) -> model_y's output.
        options: Of the scheduler's `step`, such as `generator`.
    """

    def __init__(
        self,
        scheduler: Any,
        predict_mask: Callable[[Pair, Tensor], Tensor],
        predict_image: Callable[[Tensor, Tensor, Tensor], Tensor],
        **options: Any,
    ) -> None:
        self.of_mask, self.of_image = copy.deepcopy(scheduler), copy.deepcopy(scheduler)
        self.timesteps = scheduler.timesteps
        self.predict_mask, self.predict_image, self.options = predict_mask, predict_image, options

    def step(self, state: Pair, t: Tensor) -> Step:
        """x_{t-1} and y_{t-1} from x_t and y_t."""
        rows = sampling_rows(self.of_mask, t, len(state.mask))
        output = self.predict_mask(state, t)
        mask = self.of_mask.step(output, t, state.mask, **self.options).prev_sample
        mask_estimate = predicted_x0(self.of_mask, output, state.mask, rows)
        output = self.predict_image(mask_estimate, state.image, t)
        image = self.of_image.step(output, t, state.image, **self.options).prev_sample
        image_estimate = predicted_x0(self.of_image, output, state.image, rows)
        return Step(Pair(mask, image), Pair(mask_estimate, image_estimate))


def region_batch(
    batch: Mapping[str, Tensor], vae: Any, draws: Tensor, whole_share: float, empty: Tensor | None
) -> dict[str, Tensor]:
    """A batch of encoded nodules with a region in each crop in which mask and lesion are to be made.

    The region is a ball around the lesion, neither centred on it nor as large as it, so that it does not tell where
    the border is. Some crops are painted altogether, and nothing of them is known.

    Args:
        batch: `ct_norm`, `lesion_mask`, `semantic_map`, `valid_mask`, `spacing_mm`, as of `LatentNodules`.
        vae: Encodes what is left of the CT.
        draws: Uniform in [0, 1), (B, 5 or more).
        whole_share: Share of the samples that are painted altogether.
        empty: Standardised latent of a blank crop, (1, C, d, h, w); None where that share is 0.
    Returns: The batch with `paint_mask`, `blanked_latent` and `background_map`.
    """
    lesion = batch["lesion_mask"]
    spacing_mm = float(batch["spacing_mm"][0, 0])
    paint_mask = torch.cat([_ball_around(one[None], draw, spacing_mm) for one, draw in zip(lesion, draws, strict=True)])
    paint_mask = paint_mask * batch["valid_mask"]
    blanked = standardise(vae.encode(blank(batch["ct_norm"], paint_mask)).latent_dist.mode().float(), vae.config)
    maps = np.stack([without_lesion(one) for one in batch["semantic_map"][:, 0].cpu().numpy()])[:, None]
    made = {
        **batch,
        "paint_mask": paint_mask,
        "blanked_latent": blanked,
        "background_map": torch.from_numpy(maps).to(lesion.device),
    }
    if empty is None:
        return made
    whole = (draws[:, 0] < whole_share).to(lesion.device)
    lung = torch.full_like(made["background_map"], LUNG)
    made["background_map"] = torch.where(whole.view(-1, 1, 1, 1, 1), lung, made["background_map"])
    return blank_whole(made, whole, empty)


def ball(shape: Sequence[int], center: Sequence[float], radius: float) -> Tensor:
    """A ball, uint8 (1, 1, D, H, W); centre (z, y, x) and radius in voxels."""
    axes = [(torch.arange(edge) - at) ** 2 for edge, at in zip(shape, center, strict=True)]
    squares = axes[0][:, None, None] + axes[1][:, None] + axes[2]
    return (squares <= radius**2).to(torch.uint8)[None, None]


def _ball_around(lesion_mask: Tensor, draw: Tensor, spacing_mm: float) -> Tensor:
    """A ball that holds a lesion, (1, 1, D, H, W), with slack and offset; `draw` is uniform, its 2nd to 5th count."""
    voxels = lesion_mask[0, 0].nonzero().cpu().float()
    center = voxels.mean(0) + (2 * draw[1:4].cpu() - 1) * OFFSET_MM / spacing_mm
    farthest = float((voxels - center).norm(dim=1).max())
    diameter_mm = float((6 / torch.pi * len(voxels)) ** (1 / 3)) * spacing_mm
    slack_mm = LEAST_SLACK_MM + float(draw[4]) * (FURTHER[0] * diameter_mm + FURTHER[1])
    return ball(lesion_mask.shape[2:], center.tolist(), farthest + slack_mm / spacing_mm).to(lesion_mask.device)


def without_lesion(semantic_map: np.ndarray) -> np.ndarray:
    """A semantic map (D, H, W) whose lesion has the labels of the nearest voxels outside it."""
    lesion = semantic_map >= FIRST_NODULE
    if not lesion.any():
        return semantic_map
    filled = semantic_map.copy()
    box = mask_box(lesion, 1)  # the nearest voxel outside touches the lesion
    nearest = ndimage.distance_transform_edt(lesion[box], return_distances=False, return_indices=True)
    filled[box] = semantic_map[box][tuple(nearest)]
    return filled


def fits_mask_unet(mask_unet: Any, latent_channels: int, factor: int) -> bool:
    """Whether a network can be model_x of an autoencoder."""
    own = (mask_unet.config["latent_channels"], mask_unet.config["condition_channels"])
    return own == (mask_channels(factor), mask_conditions(latent_channels)) and not mask_unet.config["map_channels"]

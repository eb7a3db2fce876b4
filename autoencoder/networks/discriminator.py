"""The patch discriminator of CT, of stage 1 and stage 2: judges texture and edges against those of a real scan."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from autoencoder.networks.blocks import Conv3d
from autoencoder.networks.haar import HaarTransform3D

MEANS, DETAILS = 2.0, 18.0  # Haar bands times these: mottling of 20 HU shall not vanish beside the lung's edge
PATCH_CELLS = (2, 4)  # voxels that a logit of each patch size stands for, along each axis


class PatchBlock(nn.Module):
    """Convolution, the step's embedding, LeakyReLU; a normalisation would hide how strong a texture is.

    Args:
        given, made: Channels of input and output.
        steps: How many steps there are to tell apart; with 1 there is no embedding.
        stride: 1, or 2 to halve the resolution.
    """

    def __init__(self, given: int, made: int, steps: int = 1, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv3d(given, made, 4, 2, 1) if stride == 2 else Conv3d(given, made, 3, padding=1)
        self.step = nn.Embedding(steps, made) if steps > 1 else None
        if self.step is not None:
            nn.init.zeros_(self.step.weight)

    def forward(self, h: Tensor, step: Tensor | None = None) -> Tensor:
        """(B, given, d, h, w) and, with several steps, which one, (B,) -> (B, made, d, h, w) or half the size."""
        h = self.conv(h)
        if self.step is not None:
            h = h + self.step(step)[:, :, None, None, None]
        return F.leaky_relu(h, 0.2)


class PatchDiscriminator3D(nn.Module):
    """Real or generated, judged in patches of two sizes (Isola et al. 2017, in 3D): texture and edge, and shape.

    It sees the Haar bands, the detail amplified, and has no normalisation: both would otherwise hide texture that is
    weak beside the anatomy.

    Args:
        channels: Width at half and at a quarter of the resolution.
        conditions: Volumes that are given along, such as the lesion mask.
        steps: Steps of a diffusion that it tells apart; 1 for images that are none of a diffusion's.
    """

    gains: Tensor

    def __init__(self, channels: tuple[int, int] = (32, 64), conditions: int = 0, steps: int = 1) -> None:
        super().__init__()
        fine, coarse = channels
        self.haar = HaarTransform3D()
        gains = torch.tensor([MEANS, *7 * [DETAILS]]).view(1, 8, 1, 1, 1)
        self.register_buffer("gains", gains, persistent=False)
        self.fine = nn.ModuleList([PatchBlock(8 * (1 + conditions), fine, steps), PatchBlock(fine, fine, steps)])
        self.coarse = nn.ModuleList([PatchBlock(fine, coarse, steps, 2), PatchBlock(coarse, coarse, steps)])
        self.heads = nn.ModuleList([Conv3d(fine, 1, 3, padding=1), Conv3d(coarse, 1, 3, padding=1)])

    def forward(self, ct_norm: Tensor, condition: Tensor | None = None, step: Tensor | None = None) -> list[Tensor]:
        """Logits, high for real, (B, 1, D/2, H/2, W/2) with 14 voxels in sight and (B, 1, D/4, H/4, W/4) with 32.

        Args:
            ct_norm: (B, 1, D, H, W), even D, H, W.
            condition: (B, conditions, D, H, W), 0 to 1; None without conditions.
            step: Which step, 0 is the noisiest, (B,); None without steps.
        """
        with torch.autocast(ct_norm.device.type, enabled=False):  # differences of neighbours would be rounded away
            h = self.gains * self.haar(ct_norm.float())
            if condition is not None:
                h = torch.cat([h, self.haar(condition.float()) - 0.5], dim=1)
        logits = []
        for blocks, head in zip((self.fine, self.coarse), self.heads, strict=True):
            for block in blocks:
                h = block(h, step)
            logits.append(head(h))
        return logits


def patch_weights(voxel_weights: Tensor) -> list[Tensor]:
    """Mean weight of the voxels behind each logit of both patch sizes: (B, 1, D, H, W) -> shapes of the logits."""
    return [F.avg_pool3d(voxel_weights.float(), cells) for cells in PATCH_CELLS]

"""A small 3D network of our own whose 32 features describe a nodule: the space of the 3D Fréchet distance.

It was trained by `scripts/train_nodule_net.py` (seed 0, 400 steps) on nine tenths of the training patients of 871
LIDC-IDRI nodules, resampled to 1 mm, to tell the readers' ratings, the diameter, and how much blur and noise a nodule
was given; so it sees both what readers see and texture. On the other tenth, Spearman's rho is 0.97 for the diameter,
0.71 for malignancy, 0.4 to 0.76 for the other ratings, 0.56 for blur and 0.50 for noise. No nodule of the test split
was read. The weights lie beside this file and are checked by hash.
"""

import hashlib
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor, nn

from evaluation.lesions.lesion_sets import Lesion, lesion_cube

WEIGHTS = Path(__file__).with_name("nodule_net.safetensors")
SHA256 = "17399742c75ea8d499bafe6fbe4ea4e83f5f048ea9f627eac4b22d5911417e97"
RIM = 2  # voxels of context kept around the mask: enough to see the border's sharpness, too little for the background
FEATURES = 32
BANDS = 3


class NoduleNet(nn.Module):
    """Three bands of the image and four convolutions, pooled over the lesion, and a linear map to 32 features.

    The bands are the image and what averages of 3 and 5 voxels take from it, so that noise and blur need not be learned
    from ratings. Of each channel the mean and the logarithm of the standard deviation over the lesion are kept: a
    texture's strength is a second moment. Pooling over the lesion and not over the cube keeps a 5 mm nodule's texture
    as visible as a 30 mm one's.

    Args:
        targets: Number of values predicted in training.
        channels: Of the four stages, at 1, 2, 4 and 8 mm.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, targets: int, channels: tuple[int, int, int, int] = (12, 24, 48, 64)) -> None:
        super().__init__()
        inputs = (BANDS, *channels[:-1])
        self.stages = nn.ModuleList(
            nn.Conv3d(i, o, 3, stride=1 if n == 0 else 2, padding=1)
            for n, (i, o) in enumerate(zip(inputs, channels, strict=True))
        )
        self.embed = nn.Linear(2 * (BANDS + sum(channels)), FEATURES)
        self.heads = nn.Linear(FEATURES, targets)
        self.register_buffer("mean", torch.zeros(FEATURES))
        self.register_buffer("std", torch.ones(FEATURES))

    def embedding(self, ct_norm: Tensor, lesion_mask: Tensor) -> Tensor:
        """(B, 1, D, H, W) `ct_norm` with -1 beyond the rim, and the mask -> (B, 32), before standardisation."""
        x, mask = _bands(ct_norm), lesion_mask.to(ct_norm)
        pooled = [_pool(x, mask)]
        for stage in self.stages:
            x = F.silu(stage(x))
            if mask.shape[2:] != x.shape[2:]:
                mask = F.max_pool3d(mask, 2)  # a voxel is lesion if any of its eight is, so none vanishes
            pooled.append(_pool(x, mask))
        return self.embed(torch.cat(pooled, 1))

    def forward(self, ct_norm: Tensor, lesion_mask: Tensor) -> Tensor:
        """Training's predictions, (B, targets), each standardised over the training set."""
        return self.heads(F.silu(self.embedding(ct_norm, lesion_mask)))

    def features(self, ct_norm: Tensor, lesion_mask: Tensor) -> Tensor:
        """(B, 32), each with mean 0 and standard deviation 1 over the training nodules."""
        return (self.embedding(ct_norm, lesion_mask) - self.mean) / self.std


def _bands(ct_norm: Tensor) -> Tensor:
    """(B, 1, ...) -> (B, 3, ...): the image, and its details of one and of two voxels, brought to a like scale."""
    smooth = F.avg_pool3d(ct_norm, 3, 1, 1, count_include_pad=False)
    smoother = F.avg_pool3d(smooth, 3, 1, 1, count_include_pad=False)
    return torch.cat([ct_norm, 4 * (ct_norm - smooth), 4 * (smooth - smoother)], 1)


def _pool(x: Tensor, mask: Tensor) -> Tensor:
    """(B, C, ...) -> (B, 2C): mean and log standard deviation over the mask."""
    volume = mask.sum((2, 3, 4))
    mean = (x * mask).sum((2, 3, 4)) / volume
    variance = ((x - mean[..., None, None, None]) ** 2 * mask).sum((2, 3, 4)) / volume
    return torch.cat([mean, 0.5 * torch.log(variance + 1e-4)], 1)


def load_nodule_net(path: Path = WEIGHTS, sha256: str | None = SHA256) -> NoduleNet:
    """The trained network in evaluation mode.

    Args:
        path: safetensors file.
        sha256: Expected hash of the file; None skips the check (for weights of your own).
    Raises: ValueError: If the file is missing, has another hash or does not fit the network.
    """
    if not path.is_file():
        raise ValueError(f"{path}: missing; reinstall the package or train it with scripts/train_nodule_net.py")
    content = path.read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if sha256 is not None and found != sha256:
        raise ValueError(f"{path}: SHA-256 {found}, expected {sha256}; the file was changed, reinstall the package")
    try:
        state = load(content)
        network = NoduleNet(targets=state["heads.bias"].numel())
        network.load_state_dict(state)
    except (SafetensorError, KeyError, RuntimeError) as error:
        raise ValueError(f"{path}: not weights of the nodule network ({error})") from error
    return network.eval().requires_grad_(False)


def nodule_features(
    network: NoduleNet, lesions: list[Lesion], device: str | torch.device = "cpu", batch: int = 32
) -> np.ndarray:
    """Features of each lesion in its 32 mm cube, (N, 32) float64, no unit."""
    network = network.to(device)
    rows = []
    for start in range(0, len(lesions), batch):
        cubes, masks = zip(*(lesion_cube(lesion, rim=RIM) for lesion in lesions[start : start + batch]), strict=True)
        ct_norm = torch.from_numpy(np.stack(cubes)).unsqueeze(1).to(device)
        mask = torch.from_numpy(np.stack(masks)).unsqueeze(1).to(device)
        with torch.inference_mode():
            rows.append(network.features(ct_norm, mask).double().cpu().numpy())
    return np.concatenate(rows)

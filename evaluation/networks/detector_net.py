"""A small 3D network that tells made lesions from real ones: the detector that sees what no figure describes.

Where both sets share masks and surroundings only detail differs, and few pairs teach little: so the network receives
the high-pass part of the CT beside the CT itself, and every batch holds each lesion with its counterpart of the same
mask.
"""

from collections.abc import Sequence

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from sklearn.model_selection import GroupKFold
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm.auto import tqdm

from evaluation.lesions.lesion_sets import Lesion, lesion_cube
from imaging.window import to_hu

SIDE = 24  # voxels of 1 mm: a lesion and its rim; of the largest the middle
DETAIL_MM, DETAIL_HU = 1.0, 100.0  # Gaussian whose residual is detail; its unit
FOLDS, EPOCHS, BATCH_PAIRS = 3, 24, 8


class DetectorNet(nn.Module):
    """(B, 3, S, S, S): CT, its detail and the mask -> one logit each, higher for made lesions.

    Group normalisation, because a batch of pairs is small; pooled over the mask and 2 voxels around it, by mean and by
    maximum.
    """

    def __init__(self, width: int = 16) -> None:
        super().__init__()

        def block(given: int, made: int, stride: int) -> nn.Sequential:
            return nn.Sequential(nn.Conv3d(given, made, 3, stride, 1), nn.GroupNorm(4, made), nn.SiLU())

        self.body = nn.Sequential(
            block(3, width, 1),
            block(width, 2 * width, 2),
            block(2 * width, 2 * width, 1),
            block(2 * width, 4 * width, 2),
        )
        self.head = nn.Sequential(nn.Dropout(0.3), nn.Linear(8 * width, 1))

    def forward(self, cubes: Tensor) -> Tensor:
        """Logits, (B,)."""
        features = self.body(cubes)
        near = F.max_pool3d(cubes[:, 2:], 5, stride=1, padding=2)
        near = F.adaptive_max_pool3d(near, features.shape[2:])
        mean = (features * near).flatten(2).sum(2) / near.flatten(2).sum(2).clamp_min(1)
        most = torch.where(near > 0, features, torch.finfo(features.dtype).min).flatten(2).amax(2)
        return self.head(torch.cat([mean, most], dim=1))[:, 0]


def network_scores(real: Sequence[Lesion], made: Sequence[Lesion], seed: int = 0, epochs: int = EPOCHS) -> np.ndarray:
    """Logits of networks trained without the lesion's patient: N real lesions and then N made ones, (2 N,).

    Args:
        real, made: N lesions each, made[i] in the mask of real[i].
        seed: Of folds, weights, batches and flips.
        epochs: Passes over the pairs in each fold.
    """
    cubes = torch.stack([torch.from_numpy(_cube(lesion)) for lesion in [*real, *made]])
    count, groups = len(real), np.unique([lesion.patient_id for lesion in real], return_inverse=True)[1]
    scores = np.zeros(2 * count)
    folds = GroupKFold(FOLDS, shuffle=True, random_state=seed).split(np.arange(count), groups=groups)
    with tqdm(total=FOLDS * epochs, desc="detector network") as bar:
        for train, test in folds:
            network = _trained(cubes, count, train, seed, epochs, bar)
            with torch.no_grad():
                rows = np.concatenate([test, count + test])
                scores[rows] = _symmetric(network, cubes[rows]).numpy()
    return scores


def _trained(cubes: Tensor, count: int, train: np.ndarray, seed: int, epochs: int, bar: tqdm) -> DetectorNet:
    """A network trained on the pairs `train`; ends at a learning rate of zero."""
    random = np.random.default_rng(seed)
    torch.manual_seed(seed)
    network = DetectorNet()
    steps = epochs * -(-len(train) // BATCH_PAIRS)
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
    for _ in range(epochs):
        order = random.permutation(train)
        for start in range(0, len(order), BATCH_PAIRS):
            pairs = order[start : start + BATCH_PAIRS]
            rows = np.concatenate([pairs, count + pairs])
            flips = [int(axis) for axis in np.flatnonzero(random.random(3) < 0.5) + 2]
            batch = cubes[rows].flip(flips)
            batch = batch.transpose(3, 4) if random.random() < 0.5 else batch
            target = (torch.from_numpy(rows) >= count).float()
            loss = F.binary_cross_entropy_with_logits(network(batch), target)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        bar.update()
    return network.eval()


def _symmetric(network: DetectorNet, cubes: Tensor) -> Tensor:
    """Mean logit over four flips."""
    return torch.stack([network(cubes.flip(axes)) for axes in ([], [2], [3], [4])]).mean(0)


def _cube(lesion: Lesion) -> np.ndarray:
    """(3, S, S, S) float32: ct_norm, its detail in units of 100 HU, and the mask."""
    ct_norm, mask = lesion_cube(lesion, SIDE)
    ct_hu = to_hu(ct_norm)
    detail = (ct_hu - gaussian_filter(ct_hu, DETAIL_MM)) / DETAIL_HU
    return np.stack([ct_norm, detail, mask]).astype(np.float32)

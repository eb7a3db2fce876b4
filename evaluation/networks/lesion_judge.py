"""A judge of a lesion's attributes that shares nothing with a guide: small MLPs on figures of the finished image.

A guide is a convolutional network on noisy latents. Its gradient can make lesions that only a similar network calls
malignant. This judge sees noise-free images, in HU, as the figures of `evaluation.lesions.appearance`. It was trained
on real nodules only (`scripts/train_judge.py`).

Its output is a sum of two parts. The first knows only the mask's volume, which predicts ratings well (AUROC 0.9 for
malignancy in LIDC-IDRI). The second was trained on top of the first. So it is what the image adds at equal size: for
malignancy, the logarithm of the likelihood ratio p(image | malignant, volume) / p(image | benign, volume). Lesions in
one mask differ in the second part only.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from evaluation.lesions.appearance import appearance_matrix, volume_mm3
from evaluation.lesions.lesion_sets import Lesion
from foundation.atomic import write_atomically

CLASSES = "malignancy"  # judged as a logit of malignant against benign; everything else as a rating from 1 to 5
JUDGED = ("malignancy", "spiculation", "lobulation", "texture")
WEIGHTS, RECORD = "judge.safetensors", "judge.json"
FARTHEST = 4.0  # standard deviations; figures beyond what real nodules show are taken as this far


class LesionJudge(nn.Module):
    """An average of small networks on standardised figures, and a line in log volume.

    Args:
        attributes: What is judged.
        features: Names of the figures, in order.
        members: Networks, each from its own seed.
        width: Hidden units of each.
        dropout: On the hidden units; half of it on the inputs.
    """

    mean: Tensor
    std: Tensor
    size_slope: Tensor
    size_offset: Tensor
    unit: Tensor

    def __init__(
        self,
        attributes: Sequence[str],
        features: Sequence[str],
        members: int = 8,
        width: int = 32,
        dropout: float = 0.3,
    ) -> None:
        super().__init__()
        self.attributes, self.features = tuple(attributes), tuple(features)
        self.settings: dict[str, Any] = {"members": members, "width": width, "dropout": dropout}
        inputs, outputs = len(features) + 1, len(attributes)
        self.members = nn.ModuleList(
            nn.Sequential(
                nn.Dropout(dropout / 2),
                nn.Linear(inputs, width),
                nn.SiLU(),
                nn.Dropout(dropout),
                nn.Linear(width, outputs),
            )
            for _ in range(members)
        )
        self.register_buffer("mean", torch.zeros(inputs))
        self.register_buffer("std", torch.ones(inputs))
        self.register_buffer("size_slope", torch.zeros(outputs))
        self.register_buffer("size_offset", torch.zeros(outputs))
        self.register_buffer("unit", torch.ones(outputs))  # of each output, so that all are learnt at one scale

    def inputs(self, features: Tensor, log_volume: Tensor) -> Tensor:
        """Figures (N, F) and log volume in log mm³ (N,) -> standardised and limited, (N, F + 1)."""
        values = torch.cat([features, log_volume[:, None]], dim=1)
        return ((values - self.mean) / self.std).clamp(-FARTHEST, FARTHEST)

    def size_part(self, log_volume: Tensor) -> Tensor:
        """What volume alone says, (N, attributes): a logit or a rating."""
        return log_volume[:, None] * self.size_slope + self.size_offset

    def forward(self, features: Tensor, log_volume: Tensor) -> Tensor:
        """What the image adds, (N, attributes), in the same units."""
        inputs = self.inputs(features, log_volume)
        return torch.stack([member(inputs) for member in self.members]).mean(0) * self.unit


@dataclass(frozen=True)
class Judgement:
    """What a judge says of N lesions; logits of malignant for malignancy, else ratings.

    Attributes:
        attributes: Columns of the arrays.
        appearance: What the image adds, (N, A).
        size: What the volume says, (N, A).
    """

    attributes: tuple[str, ...]
    appearance: np.ndarray
    size: np.ndarray

    def added(self, attribute: str) -> np.ndarray:
        """What the image adds for one attribute, (N,)."""
        return self.appearance[:, self.attributes.index(attribute)]

    def whole(self, attribute: str) -> np.ndarray:
        """What image and volume say together, (N,)."""
        return self.added(attribute) + self.size[:, self.attributes.index(attribute)]


def judge_lesions(judge: LesionJudge, lesions: list[Lesion]) -> Judgement:
    """Judge lesions, real or made.

    Args:
        judge: From `load_judge`.
        lesions: At least one.
    Raises: ValueError: If the judge was trained on other figures than are measured now.
    """
    features, names = appearance_matrix(lesions)
    if names != judge.features:
        raise ValueError("the judge was trained on other figures of appearance; train it again with train_judge.py")
    log_volume = np.log([volume_mm3(lesion) for lesion in lesions])
    judge.eval()
    with torch.inference_mode():
        given = torch.from_numpy(features).float(), torch.from_numpy(log_volume).float()
        appearance, size = judge(*given), judge.size_part(given[1])
    return Judgement(judge.attributes, appearance.double().numpy(), size.double().numpy())


def save_judge(folder: Path, judge: LesionJudge, record: Mapping[str, Any]) -> None:
    """Write weights and record; the folder appears complete or not at all.

    Args:
        folder: Of the judge.
        judge: Trained.
        record: What is known of its training, as plain types.
    """

    def write(temporary: Path) -> None:
        temporary.mkdir()
        save_file({name: tensor.contiguous() for name, tensor in judge.state_dict().items()}, temporary / WEIGHTS)
        own = {"attributes": judge.attributes, "features": judge.features, "settings": judge.settings}
        (temporary / RECORD).write_text(json.dumps({**own, **record}, indent=1) + "\n")

    write_atomically(folder, write)


def load_judge(folder: Path) -> tuple[LesionJudge, dict[str, Any]]:
    """The judge in evaluation mode, and the record of its training.

    Raises: ValueError: If the folder holds no judge.
    """
    try:
        record = json.loads((folder / RECORD).read_text())
        judge = LesionJudge(record["attributes"], record["features"], **record["settings"])
        judge.load_state_dict(load_file(folder / WEIGHTS))
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        raise ValueError(f"{folder}: holds no judge ({error}); train one with scripts/train_judge.py") from error
    return judge.eval().requires_grad_(False), record

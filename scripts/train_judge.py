"""Train the judge that scripts/evaluate_guidance.py uses (a minute on one free CPU core).

    uv run scripts/train_judge.py --data data/nodules --out runs/judge

The judge learns from real nodules of the training split only. Its inputs are measured figures of the noise-free image
(see `evaluation.networks.lesion_judge`). It is tested on the validation split. The figures are printed and saved.
"""

from dataclasses import asdict, dataclass

from foundation.config import ExistingFolder, OutputFolder, Seed, config_dict, launch, read_arguments
from imaging.dataset.label_policy import LabelPolicy


@dataclass(frozen=True)
class TrainJudgeConfig:
    """What to train on, and for how long.

    Attributes:
        data: Prepared dataset; the judge trains on its training split and is tested on its validation split.
        out: Folder for the judge.
        label_policy: Which mean malignancy is benign and malignant; see `imaging.dataset.label_policy`.
        members: Number of networks; the judge averages over them.
        width: Hidden units of each network.
        dropout: Dropout on the hidden units; half of it on the inputs.
        epochs: Passes over all nodules at once.
        learning_rate: Peak of the one-cycle schedule.
        weight_decay: Weight decay of the weights.
        repeats: Resamples of the figures' intervals.
        seed: Seed of weights and dropout; differs from the guide's.
        threads: CPU threads; null takes the default of `foundation.threads`.
    """

    data: ExistingFolder
    out: OutputFolder
    label_policy: LabelPolicy = "exclude_between"
    members: int = 8
    width: int = 32
    dropout: float = 0.3
    epochs: int = 100
    learning_rate: float = 1e-2
    weight_decay: float = 0.1
    repeats: int = 500
    seed: Seed = 1000
    threads: int | None = None


ARGUMENTS = read_arguments(TrainJudgeConfig, __name__)

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression
from torch.optim.lr_scheduler import OneCycleLR
from tqdm import trange

from evaluation.guided.judge_figures import judge_rows, malignant_or_not, ratings_of
from evaluation.lesions.appearance import appearance_matrix, volume_mm3
from evaluation.lesions.lesion_sets import load_lesions
from evaluation.networks.lesion_judge import CLASSES, JUDGED, LesionJudge, judge_lesions, save_judge
from imaging.lesions.measured_attributes import MEASURED, measured_attributes
from imaging.window import WINDOW_LEVEL, WINDOW_WIDTH

HU_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)  # what is later requested: the range of real nodules


def main(config: TrainJudgeConfig) -> None:
    """Load, fit the part of size, train what the image adds, examine, save."""
    torch.manual_seed(config.seed)
    lesions, left_out = load_lesions(config.data, "train")
    held_out, left_out_too = load_lesions(config.data, "validation")
    print(f"{len(lesions)} nodules; left out: {'; '.join(left_out + left_out_too) or 'none'}")
    features, names = appearance_matrix(lesions)
    log_volume = np.log([volume_mm3(lesion) for lesion in lesions])
    ratings = ratings_of(config.data, "train", lesions, JUDGED)
    truth = {n: malignant_or_not(r, config.label_policy) if n == CLASSES else r for n, r in ratings.items()}
    attributes = [name for name in JUDGED if np.nanstd(truth[name]) > 0]
    for name in [name for name in JUDGED if name not in attributes]:
        print(f"{name}: not judged, its ratings are all alike or missing")
    if not attributes:
        raise ValueError(f"{config.data}: no rated training nodules that differ; a judge has nothing to learn")

    judge = LesionJudge(attributes, names, config.members, config.width, config.dropout)
    fit_size(judge, truth, features, log_volume)
    train(judge, truth, features, log_volume, config)
    judgement = judge_lesions(judge, held_out)
    known = ratings_of(config.data, "validation", held_out, attributes)
    rows, notes = judge_rows(judgement, held_out, known, config.label_policy, "validation", config.repeats, config.seed)
    for row in rows:
        reach = "" if row.low is None else f" ({row.low:.2f} to {row.high:.2f})"
        equal = "" if row.equal_size is None else f"; at equal volume {row.equal_size:.3f}"
        alone = f"of volume alone {row.size_only:.3f}"
        print(f"held-out {row.attribute}: {row.measure} {row.value:.3f}{reach}, {alone}{equal}")
    for note in notes:
        print(note)
    brightest = WINDOW_LEVEL + WINDOW_WIDTH / 2  # beyond it models of this project produce nothing
    hu = [measured_attributes(np.minimum(lesion.ct_hu, brightest), lesion.lesion_mask) for lesion in lesions]
    record = {
        "settings_of_training": config_dict(config),
        "label_policy": config.label_policy,
        "held_out": [asdict(row) for row in rows],
        "hu_quantiles": {name: np.quantile([h[name] for h in hu], HU_QUANTILES).round().tolist() for name in MEASURED},
        "patients": sorted({lesion.patient_id for lesion in lesions}),
    }
    save_judge(config.out, judge, record)
    print(f"saved: {config.out}")


def fit_size(judge: LesionJudge, truth: dict[str, np.ndarray], features: np.ndarray, log_volume: np.ndarray) -> None:
    """Standardise the inputs, and fit what volume alone says: a logistic line for classes, else a line."""
    inputs = np.concatenate([features, log_volume[:, None]], axis=1)
    spread = inputs.std(axis=0)
    judge.mean.copy_(torch.from_numpy(inputs.mean(axis=0)))
    judge.std.copy_(torch.from_numpy(np.where(spread > 1e-6, spread, 1.0)))
    for column, name in enumerate(judge.attributes):
        known = ~np.isnan(truth[name])
        volume, y = log_volume[known], truth[name][known]
        if name == CLASSES:
            line = LogisticRegression(C=100.0).fit(volume[:, None], y > 0)
            slope, offset, unit = line.coef_[0, 0], line.intercept_[0], 1.0
        else:
            slope, offset = np.polyfit(volume, y, 1)
            unit = max((y - slope * volume - offset).std(), 1e-3)
        judge.size_slope[column], judge.size_offset[column], judge.unit[column] = slope, offset, unit


def train(
    judge: LesionJudge,
    truth: dict[str, np.ndarray],
    features: np.ndarray,
    log_volume: np.ndarray,
    config: TrainJudgeConfig,
) -> None:
    """Train each member on all nodules; the part of size is fixed, so the members learn what the image adds."""
    inputs = judge.inputs(torch.from_numpy(features).float(), torch.from_numpy(log_volume).float())
    size = judge.size_part(torch.from_numpy(log_volume).float())
    wanted = torch.from_numpy(np.stack([truth[name] for name in judge.attributes], axis=1)).float()
    known = ~wanted.isnan()
    judge.train()
    optimizer = torch.optim.AdamW(judge.members.parameters(), weight_decay=config.weight_decay)
    schedule = OneCycleLR(optimizer, max_lr=config.learning_rate, total_steps=config.epochs)
    progress = trange(config.epochs, desc="judge")
    for _ in progress:
        loss = torch.zeros(())
        for member in judge.members:
            said = size + member(inputs) * judge.unit
            for column, name in enumerate(judge.attributes):
                s, y = said[known[:, column], column], wanted[known[:, column], column]
                if name == CLASSES:
                    loss = loss + F.binary_cross_entropy_with_logits(s, y)
                else:
                    loss = loss + F.mse_loss(s, y) / judge.unit[column] ** 2 / 2
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        progress.set_postfix(loss=f"{loss.item() / len(judge.members):.3f}")


if __name__ == "__main__":
    launch(main, ARGUMENTS)

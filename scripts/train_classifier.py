"""Train the attribute classifiers on noisy lesions, and add them to a pipeline as its guide.

uv run scripts/train_classifier.py --config configs/classifier.yaml --data data/latents \\
    --pipeline runs/ldm/pipeline --out runs/classifier
The same command continues an interrupted run. The guided pipeline is saved in <out>/pipeline. A report on held-out
nodules is saved in <out>/report.
"""

from dataclasses import asdict, dataclass, field
from typing import Literal

from foundation.config import ModelSource, config_dict, launch, read_arguments
from imaging.dataset.label_policy import LabelPolicy
from training.config import TrainingConfig

Head = Literal["malignancy", "lobulation", "spiculation", "texture"]


@dataclass(frozen=True)
class ClassifierModelConfig:
    """Arguments of `NoduleClassifier3D`.

    Attributes:
        space: Input of the classifier: "latent", or "decoded", the image decoded from the noisy latent, which costs a
            decoding at every guided step.
        cells: Edge of the crop around the lesion, in latent cells.
        channels: Width of each level.
        blocks_per_level: Residual blocks at each level.
        dropout: Dropout on the pooled features.
        sees_mask: Whether the lesion's mask is an input.
    """

    space: Literal["latent", "decoded"] = "latent"
    cells: int = 8
    channels: tuple[int, ...] = (32, 64, 128)
    blocks_per_level: int = 1
    dropout: float = 0.1
    sees_mask: bool = True


@dataclass(frozen=True)
class ClassifierConfig(TrainingConfig):
    """The guide.

    Attributes:
        pipeline: Folder or repository of the pipeline that gets the guide. It is not changed; the guided one goes to
            `out`.
        heads: Attributes to learn: malignancy in two classes, the others as ratings.
        model: The classifier.
        label_policy: Which mean malignancy is benign and malignant; see `imaging.dataset.label_policy`.
        control: Train a control with shuffled labels beside it. Without a control, an attribute is guided if its
            classifier is better than chance.
        shuffles: Number of shuffles that the control learns at the same time.
        allow: Attributes that are guided even if their classifier does not beat the control.
        guidance_range: Shares of the timesteps that are guided, low <= t / T < high.
        resamples: Bootstrap resamples of the intervals.
    """

    pipeline: ModelSource = "runs/ldm/pipeline"
    heads: tuple[Head, ...] = ("malignancy", "lobulation", "spiculation", "texture")
    model: ClassifierModelConfig = field(default_factory=ClassifierModelConfig)
    label_policy: LabelPolicy = "exclude_between"
    control: bool = True
    shuffles: int = 8
    allow: tuple[Head, ...] = ()
    guidance_range: tuple[float, float] = (0.0, 0.8)
    resamples: int = 1000

    def __post_init__(self) -> None:
        if not self.heads or len(set(self.heads)) < len(self.heads) or not set(self.allow) <= set(self.heads):
            raise ValueError(
                f"heads {list(self.heads)}, allow {list(self.allow)}: expected different heads, and allow among them"
            )
        if self.shuffles < 1:
            raise ValueError(f"shuffles {self.shuffles}: expected at least 1; control false trains no control")


ARGUMENTS = read_arguments(ClassifierConfig, __name__)

import numpy as np
import torch
from accelerate.utils import set_seed
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from diffusion import LesionInpaintPipeline
from diffusion.process import add_noise, network_times
from diffusion.sampling.request import check_range
from evaluation.reports.classifier_report import save_classifier_report
from evaluation.statistics.attribute_figures import AttributeFigures, attribute_figures
from evaluation.statistics.resampled import auroc, spearman
from foundation.draws import generator
from guidance import MultiClassifierGuidance, NoduleClassifier3D
from guidance.classifier_training import (
    CLASSES,
    ClassifierTraining,
    attribute_targets,
    balanced_weights,
    control_name,
    shuffled_targets,
)
from training.data import LatentNodules
from training.draws import diffusion_draw, normal
from training.run import TrainingRun

JUDGED_AT = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9)  # shares of T at which the held-out nodules are told
NOISE_DRAWS = 4  # of each held-out nodule for the report; the curves have one
JUDGED_BATCH = 32


class LabelledNodules(Dataset):
    """Encoded nodules with the targets of the heads, and those of the control's.

    Args:
        config: Of the run.
        split: "train" or "validation".
    Raises: ValueError: If a head's attribute has fewer than two levels in the split.
    """

    def __init__(self, config: ClassifierConfig, split: str) -> None:
        self.nodules = LatentNodules(config.data, split)
        names = ["nodule_id", "patient_id", "diameter_mm", *config.heads]
        columns = self.nodules.latents.select_columns(names).to_pandas()
        ratings = {name: columns[name].tolist() for name in config.heads}
        self.patients: list[str] = columns["patient_id"].tolist()
        self.log_volumes = 3 * np.log(columns["diameter_mm"].to_numpy())  # up to a constant
        self.heads = config.heads
        self.targets = attribute_targets(ratings, config.label_policy)
        for name, column in zip(config.heads, self.targets.T, strict=True):
            levels, counts = np.unique(np.rint(column[np.isfinite(column)]), return_counts=True)
            if len(levels) < 2:
                found = dict(zip(levels.tolist(), counts.tolist(), strict=True))
                raise ValueError(
                    f"{config.data}: {split} has {name} {found} (level: nodules; label policy {config.label_policy}); "
                    f"two levels are needed: leave {name} out of heads, or add nodules"
                )
        numbers = range(config.shuffles if config.control else 0)
        nodules = columns["nodule_id"].tolist()
        self.shuffled = [shuffled_targets(self.targets, nodules, generator(config.seed, "labels", k)) for k in numbers]

    def __len__(self) -> int:
        return len(self.nodules)

    def __getitem__(self, item: tuple[int, int]) -> dict:
        """A row of `LatentNodules` with `targets` and `control_targets`, by head."""
        row = self.nodules[item]
        row["targets"] = dict(zip(self.heads, torch.from_numpy(self.targets[item[0]]), strict=True))
        row["control_targets"] = {
            control_name(name, k): torch.tensor(targets[item[0], index])
            for index, name in enumerate(self.heads)
            for k, targets in enumerate(self.shuffled)
        }
        return row


def main(config: ClassifierConfig) -> None:
    """Train, evaluate, checkpoint and save."""
    set_seed(config.seed)
    check_range(config.guidance_range)
    pipeline = LesionInpaintPipeline.from_pretrained(config.pipeline)
    train, watched = LabelledNodules(config, "train"), LabelledNodules(config, "validation")
    classifier = NoduleClassifier3D(
        classes={name: CLASSES[name] for name in config.heads if name in CLASSES},
        regressions=[name for name in config.heads if name not in CLASSES],
        latent_channels=pipeline.unet.config["latent_channels"],
        **asdict(config.model),
    )
    model = ClassifierTraining(classifier, config.shuffles if config.control else 0)
    scheduler, T = pipeline.scheduler, pipeline.scheduler.config["num_train_timesteps"]

    run = TrainingRun(config)
    run.prepare(model, {"control": config.learning_rate} if config.control else None)  # its gradient is its own
    vae = pipeline.vae.to(run.device).requires_grad_(False)
    for batch in run.batches(train, balanced_weights(train.targets).tolist()):
        x0, noise, rows = diffusion_draw(batch, T, config.seed, run.device)
        loss, losses = run.model(vae, scheduler, on_device(batch, run.device), x0, noise, rows)
        run.update(loss, losses)

        if run.evaluation_due():
            with run.averaged() as averaged:
                scores = held_out_scores(averaged, watched, vae, scheduler, 1, run.device)
                run.log(curves(scores, watched, T))
    if run.finished:
        figures: dict[str, AttributeFigures] = {}  # stays empty in the processes that do not save

        def guided_pipeline(averaged: ClassifierTraining) -> LesionInpaintPipeline:
            figures.update(held_out_figures(averaged, pipeline, watched, config))
            return guided(pipeline, averaged, figures, config)

        run.save("pipeline", guided_pipeline)
        if figures:
            refused = pipeline.guide.refused
            save_classifier_report(config.out / "report", figures, refused, config_dict(config))
            for name, reason in refused.items():
                print(f"{name}: will not be guided ({reason})")


def on_device(batch: dict, device: torch.device) -> dict:
    """The batch with its targets on the device, too."""
    moved = {
        name: {head: values.to(device) for head, values in batch[name].items()}
        for name in ("targets", "control_targets")
    }
    return {**batch, **moved}


@torch.no_grad()
def held_out_scores(
    model: ClassifierTraining, watched: LabelledNodules, vae, scheduler, draws: int, device: torch.device
) -> dict[str, np.ndarray]:
    """What every head says of the held-out nodules: probability of the second class, or rating.

    Returns: Head, those of the control among them -> (levels `JUDGED_AT`, draws of noise, N); noise from a fixed seed.
    """
    T = scheduler.config["num_train_timesteps"]
    said: dict[str, list[list[list[Tensor]]]] = {}
    for first in range(0, len(watched), JUDGED_BATCH):
        numbers = range(first, min(first + JUDGED_BATCH, len(watched)))
        batch = default_collate([watched.nodules[(number, number)] for number in numbers])
        x0, mask = batch["latent_mean"].to(device), batch["lesion_mask"].to(device)
        for level, share in enumerate(JUDGED_AT):
            rows = torch.full((len(x0),), int(share * T), device=device)
            for draw in range(draws):
                noise = normal(x0.shape[1:], draw, "noise", torch.tensor(numbers), device)
                noisy, times = add_noise(scheduler, x0, noise, rows), network_times(scheduler, rows)
                own, control = model.said(noisy, times, mask, vae)
                for name, value in {**own, **control}.items():
                    scores = value.float().softmax(1)[:, 1] if value.ndim == 2 else value.float()
                    lists = said.setdefault(name, [[[] for _ in range(draws)] for _ in JUDGED_AT])
                    lists[level][draw].append(scores.cpu())
    return {
        name: np.array([[torch.cat(parts).numpy() for parts in draws_of] for draws_of in levels])
        for name, levels in said.items()
    }


def curves(scores: dict[str, np.ndarray], watched: LabelledNodules, T: int) -> dict[str, float]:
    """AUROC or Spearman of each head by timestep, for the log; undefined ones are left out."""
    values = {}
    for index, name in enumerate(watched.heads):
        truth = watched.targets[:, index]
        known = np.isfinite(truth)
        measure, label = (auroc, "auroc") if name in CLASSES else (spearman, "spearman")
        for share, figure in zip(JUDGED_AT, measure(scores[name][:, 0, known], truth[known]), strict=True):
            if np.isfinite(figure):
                values[f"held_out/{name}_{label}_t{int(share * T)}"] = float(figure)
    return values


def held_out_figures(
    model: ClassifierTraining, pipeline: LesionInpaintPipeline, watched: LabelledNodules, config: ClassifierConfig
) -> dict[str, AttributeFigures]:
    """What is known of each head on the held-out nodules, beside the control's."""
    device = next(model.parameters()).device
    scheduler = pipeline.scheduler
    scores = held_out_scores(model, watched, pipeline.vae, scheduler, NOISE_DRAWS, device)
    T = scheduler.config["num_train_timesteps"]
    low, high = config.guidance_range
    decisive = [int(share * T) for share in JUDGED_AT if low <= share < high] or [int(share * T) for share in JUDGED_AT]
    figures: dict[str, AttributeFigures] = {}
    for index, name in enumerate(config.heads):
        control = [scores[control_name(name, k)] for k in range(config.shuffles)] if config.control else None
        figures[name] = attribute_figures(
            scores[name],
            None if control is None else np.concatenate(control, axis=1),
            watched.targets[:, index],
            watched.patients,
            [int(share * T) for share in JUDGED_AT],
            decisive,
            name in CLASSES,
            config.resamples,
            config.seed,
            watched.log_volumes,
        )
    return figures


def guided(
    pipeline: LesionInpaintPipeline,
    model: ClassifierTraining,
    figures: dict[str, AttributeFigures],
    config: ClassifierConfig,
) -> LesionInpaintPipeline:
    """The pipeline with the classifier and its figures as its guide."""
    guide = MultiClassifierGuidance.of(
        [model.classifier],
        guidance_range=list(config.guidance_range),
        figures={name: f.for_guide() for name, f in figures.items()},
        allowed=list(config.allow),
    )
    pipeline.register_modules(guide=guide.cpu())
    return pipeline.to("cpu")


if __name__ == "__main__":
    launch(main, ARGUMENTS)

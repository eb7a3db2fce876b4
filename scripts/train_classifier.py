"""Train the malignancy classifier on noisy latents, and add it to a pipeline as its guide.

uv run scripts/train_classifier.py --config configs/classifier.yaml --data data/latents \
    --pipeline runs/ldm/pipeline --out runs/classifier
The same command continues an interrupted run. The guided pipeline is saved in <out>/pipeline.
"""

from dataclasses import dataclass, field

from foundation.config import ModelSource, launch, read_arguments
from imaging.dataset.label_policy import LabelPolicy, malignancy_label
from training.config import TrainingConfig


@dataclass(frozen=True)
class ClassifierModelConfig:
    """Arguments of `NoduleClassifier3D`.

    Attributes:
        channels: Width of each level.
        blocks_per_level: Residual blocks at each level.
        dropout: On the pooled features.
    """

    channels: tuple[int, ...] = (32, 64, 128)
    blocks_per_level: int = 1
    dropout: float = 0.1


@dataclass(frozen=True)
class ClassifierConfig(TrainingConfig):
    """The guide.

    Attributes:
        pipeline: Folder or repository of the pipeline that receives the guide; it is not changed, the guided one goes
            to `out`.
        model: The classifier.
        label_policy: Which mean malignancy is benign and malignant; see `imaging.dataset.label_policy`.
    """

    pipeline: ModelSource = "runs/ldm/pipeline"
    model: ClassifierModelConfig = field(default_factory=ClassifierModelConfig)
    label_policy: LabelPolicy = "exclude_between"


ARGUMENTS = read_arguments(ClassifierConfig, __name__)

import numpy as np
import torch
from accelerate.utils import set_seed
from sklearn.metrics import balanced_accuracy_score, roc_auc_score
from torch.nn import functional as F

from diffusion import LesionInpaintPipeline
from diffusion.conditioning import mask_coverage
from guidance import ClassifierGuidance, NoduleClassifier3D
from training.data import LatentNodules
from training.draws import diffusion_draw, normal
from training.run import TrainingRun

CLASSES = {"malignancy": ["benign", "malignant"]}
JUDGED_AT = (0, 250, 500)  # timesteps at which the held-out nodules are classified


def main(config: ClassifierConfig) -> None:
    """Train, evaluate, checkpoint and save."""
    set_seed(config.seed)
    pipeline = LesionInpaintPipeline.from_pretrained(config.pipeline)
    train, labels = labelled(config, "train")
    watched, watched_labels = labelled(config, "validation")
    latent_channels = pipeline.unet.config["latent_channels"]
    classifier = NoduleClassifier3D(
        CLASSES, latent_channels, tuple(config.model.channels), config.model.blocks_per_level, config.model.dropout
    )
    scheduler, factor = pipeline.scheduler, pipeline.vae.factor
    class_of = {name: index for index, name in enumerate(CLASSES["malignancy"])}
    weights = [1 / labels.count(label) for label in labels]  # both classes are drawn equally often

    run = TrainingRun(config)
    run.prepare(classifier)
    for batch in run.batches(train, weights):
        x0, noise, t = diffusion_draw(batch, len(scheduler.alphas_cumprod), config.seed, run.device)
        wanted = [class_of[malignancy_label(float(rating), config.label_policy)] for rating in batch["malignancy"]]
        target = torch.tensor(wanted, device=run.device)
        coverage = mask_coverage(batch["lesion_mask"], factor)
        logits = run.model(scheduler.add_noise(x0, noise, t), t, coverage)["malignancy"]
        loss = F.cross_entropy(logits, target)
        run.update(loss, {"accuracy": (logits.argmax(1) == target).float().mean()})

        if run.evaluation_due():
            with run.averaged() as averaged:
                run.log(
                    evaluate(averaged, watched, [class_of[label] for label in watched_labels], scheduler, factor, run)
                )
    if run.finished:
        run.save("pipeline", lambda averaged: guided(pipeline, averaged))


def labelled(config: ClassifierConfig, split: str) -> tuple[LatentNodules, list[str]]:
    """The nodules of a split that the policy calls benign or malignant, with their labels; ValueError without both."""
    latents = LatentNodules(config.data, split, ("malignancy",))
    ratings = latents.latents["malignancy"]
    names = [malignancy_label(rating, config.label_policy) for rating in ratings]
    kept = [index for index, name in enumerate(names) if name]
    if {names[index] for index in kept} != set(CLASSES["malignancy"]):
        found = {name: names.count(name) for name in CLASSES["malignancy"]}
        raise ValueError(f"{config.data}: {split} has {found} under policy {config.label_policy}; both are needed")
    latents.keep(kept)
    return latents, [names[index] for index in kept]


@torch.no_grad()
def evaluate(
    model, watched: LatentNodules, targets: list[int], scheduler, factor: int, run: TrainingRun
) -> dict[str, float]:
    """AUC and balanced accuracy on the held-out nodules at the timesteps `JUDGED_AT`; noise from a fixed seed."""
    values = {}
    for t in JUDGED_AT:
        scores = []
        for position in range(len(watched)):
            row = watched[(position, position)]
            x0 = row["latent_mean"][None].to(run.device)
            noise = normal(x0.shape[1:], 0, "noise", torch.tensor([position]), run.device)
            step = torch.tensor([t], device=run.device)
            noisy = scheduler.add_noise(x0, noise, step) if t else x0
            logits = model(noisy, step, mask_coverage(row["lesion_mask"][None].to(run.device), factor))["malignancy"]
            scores.append(logits.softmax(1)[0, 1].item())
        values[f"held_out_auc_t{t}"] = float(roc_auc_score(targets, scores))
        values[f"held_out_balanced_accuracy_t{t}"] = float(balanced_accuracy_score(targets, np.array(scores) > 0.5))
    return values


def guided(pipeline: LesionInpaintPipeline, classifier: NoduleClassifier3D) -> LesionInpaintPipeline:
    """The pipeline with the classifier as its guide."""
    guide = ClassifierGuidance.of(classifier, num_train_timesteps=len(pipeline.scheduler.alphas_cumprod))
    pipeline.register_modules(guide=guide.cpu())
    return pipeline


if __name__ == "__main__":
    launch(main, ARGUMENTS)

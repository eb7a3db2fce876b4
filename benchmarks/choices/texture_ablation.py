"""Do the texture losses help? One stage-2 model trained on with and without each, judged on held-out lesions.

    uv run benchmarks/choices/texture_ablation.py --data data/joined --latents data/latents \
        --vae runs/shipped/vae_2/model --pipeline runs/shipped/ldm_1/pipeline --out runs/ablation

Every variant starts from the same weights, takes equal steps with the same draws, and inpaints the same masks from the
same noise; the table is that of benchmarks/quality/lesion_table.py, with its tests against training on without any.
Gradients are balanced to equal norm (`balance: norm`), so a weight says how strongly a loss pulls beside the structure
loss.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from foundation.command import run_script, script_settings
from foundation.config import launch, parse_config

LESION_TABLE = Path(__file__).parents[1] / "quality/lesion_table.py"


@dataclass(frozen=True)
class AblationConfig:
    """The comparison.

    Attributes:
        data: Prepared dataset.
        latents: The same, encoded.
        vae: Autoencoder of the latents.
        pipeline: Where every variant starts.
        out: Folder for runs, synthetic sets and the report; what is finished there is not done again.
        steps: Further training steps of each variant.
        batch_size: Of training.
        learning_rate: Peak.
        weight: Weight of the loss under test after balancing.
        gate: Texture losses are on for t < gate * T.
        split: Whose masks are inpainted; "test" once, at the end.
        sampling_steps: Denoising steps.
        samples: Lesions for each mask.
        lesions: Masks of the split, evenly spaced; null takes all.
        variants: Keys of VARIANTS to compare.
    """

    data: Path
    latents: Path
    vae: Path
    pipeline: Path
    out: Path
    steps: int = 150
    batch_size: int = 8
    learning_rate: float = 1e-4
    weight: float = 0.5
    gate: float = 0.3
    split: str = "validation"
    sampling_steps: int = 16
    samples: int = 1
    lesions: int | None = None
    variants: tuple[str, ...] = (
        "none",
        "gabor",
        "cooccurrence",
        "wavelet",
        "distribution",
        "adversarial",
        "both_border",
    )


VARIANTS: dict[str, tuple[str, ...]] = {
    "none": (),
    "gabor": ("gabor",),
    "cooccurrence": ("cooccurrence",),
    "wavelet": ("wavelet",),
    "dog": ("dog",),
    "gabor_cooccurrence_wavelet": ("gabor", "cooccurrence", "wavelet"),
    "distribution": ("gabor_distribution",),
    "adversarial": ("adversarial",),
    "both_border": ("gabor_distribution", "adversarial", "border"),
}


def main(config: AblationConfig) -> None:
    """Train on, then inpaint, measure and print the table."""
    shape = json.loads((config.pipeline / "unet/config.json").read_text())
    run = {
        "data": config.latents,
        "vae": config.vae,
        "initial": config.pipeline,
        "steps": config.steps,
        "batch_size": config.batch_size,
        "learning_rate": config.learning_rate,
        "warmup_steps": 10,
        "ema_decay": 0.98,
        "evaluate_every": config.steps,
    }
    free = script_settings("train_ldm", {**run, "out": config.out})["model"]
    run |= {f"model.{name}": shape[name] for name in free}
    sets: dict[str, Path] = {}
    for variant in config.variants:
        if variant not in VARIANTS:
            raise ValueError(f"variant {variant}, expected one of {', '.join(VARIANTS)}")
        losses = VARIANTS[variant]
        weights = dict.fromkeys(losses, config.weight / max(1, len(losses)))
        texture = {"texture.losses": weights, "texture.gate": config.gate}
        texture["texture.balance"] = "norm" if losses else "none"
        sets[variant] = config.out / variant / "pipeline"
        if not sets[variant].exists():
            run_script("train_ldm", run | texture | {"out": config.out / variant})
    table = {
        "data": config.data,
        "out": config.out / "table",
        "pipelines": ",".join(f"{name}={folder}" for name, folder in sets.items()),
        "split": config.split,
        "samples": config.samples,
        "lesions": config.lesions,
        "steps": config.sampling_steps,
        "told_nothing": ",".join(sets),
    }
    run_script(LESION_TABLE, table)


if __name__ == "__main__":
    launch(main, parse_config(AblationConfig))

"""Do the texture losses help? One stage-2 model trained on with and without each, judged on held-out lesions.

    python benchmarks/texture_ablation.py --data data/nodules --latents data/latents --vae runs/vae/model \
        --pipeline runs/ldm/pipeline --out runs/ablation

Every variant starts from the same weights, takes equal steps with the same draws, and inpaints the test masks from the
same noise; the figures are those of scripts/evaluate.py, real vs real beside them. Gradients are balanced to equal
norm (`balance: norm`), so a weight says how strongly a loss pulls beside the structure loss.
"""

import json
import sys
from dataclasses import dataclass, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))  # the scripts are what is measured

import evaluate
import inpaint_nodules
import train_ldm

from foundation.config import launch, parse_config


@dataclass(frozen=True)
class AblationConfig:
    """The comparison.

    Attributes:
        data: Prepared dataset; its test split is judged.
        latents: The same, encoded.
        vae: Autoencoder of the latents.
        pipeline: Where every variant starts.
        out: Folder for runs, synthetic sets and the report; what is finished there is not done again.
        steps: Further training steps of each variant.
        batch_size: Of training.
        learning_rate: Peak.
        weight: Weight of the loss under test after balancing.
        gate: Texture losses are on for t < gate * T.
        sampling_steps: Denoising steps.
        samples: Lesions for each test mask.
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
    sampling_steps: int = 25
    samples: int = 1
    variants: tuple[str, ...] = ("none", "gabor", "cooccurrence", "wavelet", "dog", "gabor_cooccurrence_wavelet")


VARIANTS: dict[str, tuple[str, ...]] = {
    "none": (),
    "gabor": ("gabor",),
    "cooccurrence": ("cooccurrence",),
    "wavelet": ("wavelet",),
    "dog": ("dog",),
    "gabor_cooccurrence_wavelet": ("gabor", "cooccurrence", "wavelet"),
}


def main(config: AblationConfig) -> None:
    """Train on, inpaint, evaluate, and print the table."""
    shape = json.loads((config.pipeline / "unet/config.json").read_text())
    model = train_ldm.UNetConfig(**{name: shape[name] for name in train_ldm.UNetConfig.__dataclass_fields__})
    sets = {}
    for variant in config.variants:
        if variant not in VARIANTS:
            raise ValueError(f"variant {variant}, expected one of {', '.join(VARIANTS)}")
        losses = VARIANTS[variant]
        weights = dict.fromkeys(losses, config.weight / max(1, len(losses)))
        texture = train_ldm.TextureConfig(gate=config.gate, balance="norm", **weights)
        run = train_ldm.LdmConfig(
            data=config.latents,
            out=config.out / variant,
            vae=config.vae,
            model=model,
            initial=config.pipeline,
            texture=texture if losses else replace(texture, balance="none"),
            steps=config.steps,
            batch_size=config.batch_size,
            learning_rate=config.learning_rate,
            warmup_steps=10,
            ema_decay=0.98,
            evaluate_every=config.steps,
        )
        if not (run.out / "pipeline").exists():
            train_ldm.main(run)
        synthetic = config.out / f"{variant}_lesions"
        if not synthetic.exists():
            inpaint_nodules.main(
                inpaint_nodules.InpaintNodulesConfig(
                    data=config.data,
                    pipeline=str(run.out / "pipeline"),
                    out=synthetic,
                    samples=config.samples,
                    steps=config.sampling_steps,
                )
            )
        sets[variant] = synthetic
    evaluate.main(
        evaluate.EvaluateConfig(
            real=config.data,
            synthetic=",".join(f"{name}={folder}" for name, folder in sets.items()),
            train=config.data,
            out=config.out / "report",
            inception="none",
            lpips_backbone="none",
        )
    )
    print(config.out / "report" / "report.md")


if __name__ == "__main__":
    launch(main, parse_config(AblationConfig))

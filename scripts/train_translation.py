"""Train the translation of CT of one kind into another from unpaired scans: kernels, doses, scanners.

uv run scripts/train_translation.py --config configs/translation.yaml --data scans/sharp --other scans/soft --out runs/t
Both are folders of scripts/prepare_scans.py on one grid, of different patients. The same command continues an
interrupted run. The model is saved in <out>/translator, for scripts/translate.py (docs/methods/translation.md).
"""

from dataclasses import dataclass, field

from diffusion.option_types import Difference, TranslationProcess, TranslationWeights
from foundation.config import ExistingFolder, launch, read_arguments
from training.config import TrainingConfig


@dataclass(frozen=True, kw_only=True)
class TranslationConfig(TrainingConfig):
    """Unpaired translation; `data` is the folder of kind A.

    Attributes:
        other: Folder of prepared scans of kind B.
        kind_a: What A is; the direction of scripts/translate.py is named after it.
        kind_b: What B is.
        difference: What the kinds differ in: "kernel", a linear filter in the plane; "dose", the strength of the
            noise; or "unknown". Training begins at the filter that is fitted to the spectra; unknown begins at none.
        process: "syndiff"; for comparison "ddpm", the same without an adversary of the diffusion and with many calls,
            or "cyclegan", the non-diffusive half alone, without noise.
        calls: Network calls of sampling; 1 for "cyclegan".
        channels: Width of a generator.
        blocks: Residual blocks of a generator.
        discriminator_channels: Width of a discriminator at half and at a quarter of the resolution.
        residual_hu: About the standard deviation of what the fitted filter leaves to the networks, HU.
        level_hu: HU of the networks' 0.
        patch_size: Edge of the training patches, voxels.
        losses: Weights of the losses.
    """

    other: ExistingFolder
    kind_a: str = "a"
    kind_b: str = "b"
    difference: Difference = "unknown"
    process: TranslationProcess = "syndiff"
    calls: int = 4
    channels: int = 32
    blocks: int = 2
    discriminator_channels: tuple[int, int] = (16, 32)
    residual_hu: float = 40.0
    level_hu: float = -400.0
    patch_size: int = 32
    losses: TranslationWeights = field(default_factory=TranslationWeights)

    def __post_init__(self) -> None:
        if self.kind_a == self.kind_b or not (self.kind_a and self.kind_b):
            raise ValueError(f"kind_a {self.kind_a!r}, kind_b {self.kind_b!r}: expected two names")
        if not self.residual_hu > 0:
            raise ValueError(f"residual_hu {self.residual_hu}: expected a number of HU above 0")
        if self.calls < 1 or self.channels < 1 or self.blocks < 0:
            raise ValueError(f"calls {self.calls}, channels {self.channels}, blocks {self.blocks}: expected at least 1")


ARGUMENTS = read_arguments(TranslationConfig, __name__)

import torch
from accelerate.utils import set_seed

from diffusion.translation import DIRECTIONS, UnpairedTranslation
from diffusion.translator import Translator
from evaluation.reports.slices import save_slices
from imaging.window import to_norm
from training.run import TrainingRun
from training.scan_patches import UnpairedPatches, fitted_filters

BETAS = (0.5, 0.9)  # of Adam, SynDiff IV-C
SHOWN = 4  # patches of each kind in a picture


def main(config: TranslationConfig) -> None:
    """Train, evaluate, checkpoint and save."""
    set_seed(config.seed)
    patches = UnpairedPatches(config.data, config.other, config.patch_size, config.seed)
    translator = Translator(
        config.process,
        config.calls,
        config.channels,
        config.blocks,
        config.residual_hu,
        config.level_hu,
        patches.spacing_mm,
        config.kind_a,
        config.kind_b,
    )
    run = TrainingRun(config)
    start = fitted_filters(patches.sets, config.difference)
    model = UnpairedTranslation(translator, start, config.losses, config.discriminator_channels)
    rates = {"discriminators": config.losses.discriminator_rate}
    if model.diffusive:
        rates["estimators"] = config.losses.estimator_rate
    run.prepare(model, rates, BETAS)
    for batch in run.batches(patches):
        loss, parts = run.model(*(translator.to_units(batch[kind]) for kind in ("a", "b")))
        run.update(loss, parts if run.log_due() else None)
        if run.evaluation_due():
            with run.averaged() as averaged:
                run.log(evaluate(averaged.translator, patches, config))
    if run.finished:
        run.save("translator", lambda averaged: averaged.translator)


def evaluate(translator: Translator, patches: UnpairedPatches, config: TranslationConfig) -> dict[str, float]:
    """Translate patches both ways; how strong fine texture then is beside that of the wanted kind, 1 is right."""
    drawn = [patches[0, number] for number in range(SHOWN)]
    real = [translator.to_units(torch.stack([one[kind] for one in drawn])).to(translator.device) for kind in "ab"]
    noise = torch.Generator().manual_seed(config.seed)
    made = [
        translator.base(source, name) + translator.residual(source, name, noise)
        for name, source in zip(DIRECTIONS, real, strict=True)
    ]
    rows = [
        tuple(to_norm(translator.to_hu(volume[0].cpu())) for volume in four) for four in zip(*real, *made, strict=True)
    ]
    titles = [config.kind_a, config.kind_b, f"to {config.kind_b}", f"to {config.kind_a}"]
    save_slices(config.out / "samples.png", rows, titles)

    def fine(volume: torch.Tensor) -> float:
        return float((volume[..., 1:] - volume[..., :-1]).abs().median())

    pairs = zip(DIRECTIONS, made, reversed(real), strict=True)
    return {f"{name}_texture": fine(translated) / fine(wanted) for name, translated, wanted in pairs}


if __name__ == "__main__":
    launch(main, ARGUMENTS)

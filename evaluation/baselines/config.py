"""Options of a comparison of methods; the module imports nothing heavy, so that the script shows its help at once."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from diffusion.option_types import SamplerName
from foundation.config import ExistingFolder, MixedPrecision, ModelSource, OutputFolder, Seed, WeightsSource
from foundation.shipped import shipped

CONFIGS = shipped("configs") / "baselines"
ORDER = ("ddpm_pixel", "snr", "film", "uncertainty", "step_aware", "conditional_gan", "spade_gan", "ldm_concat", "ours")
OF_WHOLE_CROPS = ("spade_gan", "ldm_concat", "ours")  # LSDM's


@dataclass(frozen=True, kw_only=True)
class BaselinesConfig:
    """The comparison.

    Attributes:
        data: Prepared dataset.
        out: Folder for all results; finished parts are not done again.
        budget_minutes: Training time of each method, over all continuations of the command.
        cpu_clock: Whether these are minutes of CPU time; for a CPU that other work shares.
        task: "inpaint" paints a lesion into each mask; "whole" makes the whole crop from its semantic map alone.
        methods: Names of configs, such as ours,snr; "all" takes every one, for whole crops those of LSDM: spade_gan,
            ldm_concat and ours.
        latents: `data` encoded, for methods in latent space.
        vae: Folder of the autoencoder of the latents.
        configs: Folder of the methods' configs, `<method>.yaml`, and `<method>/<variant>.yaml` with what differs.
        mixed_precision: Precision of every training; null keeps what each config says.
        pixel_variants: Variants of each training nodule for methods on voxels; one takes 2 MB of disk at 48 voxels.
        split: Split whose masks are inpainted and whose lesions they are compared with; use "validation" for tests.
        guide: Of whole crops: a pipeline on the same latents, whose guide also steers `ours` towards the ratings of
            the real lesion, each by itself and all together.
        pipelines: Of whole crops: trained pipelines that are measured beside the methods, with their own guides,
            name=PIPELINE,name=PIPELINE.
        lesions: Number of masks of the split to use, evenly spaced; null takes all.
        steps: Denoising steps; a GAN takes one.
        time_shift: Of the diffusion models, the same for all; see `InpaintRequest`.
        scheduler: Sampler of the diffusion models, see `diffusion.sampling.samplers`.
        batch_size: Lesions inpainted at a time.
        inception: Weights for the FID: fid or torchvision (downloaded once), a local state dict, or none.
        lpips_backbone: Of whole crops: AlexNet weights for LPIPS: torchvision, a local state dict, or none.
        seed: Seed of all randomness.
        workers: Processes for texture features.
        threads: CPU threads; null takes the default of `foundation.threads`.
    """

    data: ExistingFolder
    out: OutputFolder
    budget_minutes: float
    task: Literal["inpaint", "whole"] = "inpaint"
    methods: str = "all"
    latents: ExistingFolder | None = None
    vae: ExistingFolder | None = None
    configs: ExistingFolder = CONFIGS
    cpu_clock: bool = False
    mixed_precision: MixedPrecision | None = None
    pixel_variants: int = 2
    guide: ModelSource | None = None
    pipelines: str | None = None
    split: Literal["test", "validation"] = "test"
    lesions: int | None = None
    steps: int = 16
    time_shift: float = 0.0
    scheduler: SamplerName = "dpm-solver++"
    batch_size: int = 8
    inception: WeightsSource = "fid"
    lpips_backbone: WeightsSource = "none"
    seed: Seed = 0
    workers: int = 1
    threads: int | None = None

    def __post_init__(self) -> None:
        if not (math.isfinite(self.budget_minutes) and self.budget_minutes > 0):
            raise ValueError(f"budget_minutes {self.budget_minutes}: expected a time above 0")
        if "," in str(self.out):
            raise ValueError(f"out {self.out}: expected a path without a comma, which separates the sets to compare")
        for name in ("pixel_variants", "lesions", "steps", "batch_size", "workers"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} {value}: expected at least 1")
        if self.task != "whole" and (self.guide is not None or self.pipelines is not None):
            raise ValueError("guide, pipelines: of whole crops; add --task whole or leave them out")
        if self.configs.is_dir():
            self.chosen()

    def chosen(self) -> list[str]:
        """Names of the methods. Raises ValueError for one that has no config, naming those that have."""
        files = sorted(self.files())
        known = [*(name for name in ORDER if name in files), *(name for name in files if name not in ORDER)]
        usual = known if self.task == "inpaint" else [name for name in OF_WHOLE_CROPS if name in known]
        names = usual if self.methods == "all" else list(filter(None, self.methods.split(",")))
        unknown = [name for name in names if name not in known]
        if unknown or not names or len(set(names)) < len(names):
            fault = f"{unknown[0]!r} is unknown" if unknown else "expected each name once, and at least one"
            raise ValueError(f"methods {self.methods}: {fault}; known in {self.configs}: {', '.join(known)}")
        return names

    def files(self) -> dict[str, Path]:
        """Config of each method by its name."""
        return {path.stem: path for path in self.configs.rglob("*.yaml")}

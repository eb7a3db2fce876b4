"""What every script that paints lesions shares: its options, the pipeline they name, and the call."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffusion.option_types import SamplerName
from foundation.config import SHIPPED_PIPELINE, ModelSource

if TYPE_CHECKING:
    from diffusion.sampling.pipeline import LesionInpaintPipeline


@dataclass(frozen=True, kw_only=True)
class SamplingConfig:
    """Fields of every script that paints lesions.

    Attributes:
        pipeline: Folder or Hugging Face Hub repository of the pipeline, or the name of one that is shipped.
        out: Folder for the results.
        vae: Autoencoder that takes the place of the pipeline's: URL of serve_autoencoder, folder or repository.
        attributes: Wanted character, for example `--attributes.malignancy malignant --attributes.mean_hu -450`.
        guidance_scale: Strength of the guide, one number or one for each attribute, for example
            `--guidance-scale '{malignancy: 2, spiculation: 0.5}'`; 0 switches it off.
        guidance_range: Which timesteps are guided, low,high as shares of all, 0 clean and 1 noise; null takes the
            guide's own.
        cfg_scale: Classifier-free guidance of what the U-Net itself is requested; 1 is none.
        hu_scale: How firmly HU that are requested are met; 0 leaves them to the U-Net.
        time_shift: How much later than it is the U-Net is told that it is, as a share; null takes the pipeline's.
        draw_appearance: Whether a lesion without a request gets the texture and HU of a real one of its size.
        scheduler: Sampler, see `diffusion.sampling.samplers`; "default" is the one that was saved with the pipeline.
        steps: Denoising steps, each one call of the network.
        paint_margin_mm: What is painted around the lesion; null takes the margin of the training.
        blend_mm: Width over which the change is blended in from the border of what is painted inwards; null takes the
            margin.
        match_noise: Whether what is painted is given noise like that of the CT around it.
        seed: Of everything random.
        revision: Branch, tag or commit of a Hub repository.
        device: "auto", "cpu" or "cuda".
    """

    out: Path
    pipeline: ModelSource = SHIPPED_PIPELINE
    vae: ModelSource | None = None
    attributes: dict[str, float | str] = field(default_factory=dict)
    guidance_scale: float | dict[str, float] = 1.0
    guidance_range: tuple[float, float] | None = None
    cfg_scale: float = 1.0
    hu_scale: float = 1.0
    time_shift: float | None = None
    draw_appearance: bool = True
    scheduler: SamplerName = "default"
    steps: int = 16
    paint_margin_mm: float | None = None
    blend_mm: float | None = None
    match_noise: bool = True
    seed: int = 0
    revision: str | None = None
    device: str = "auto"

    def call_options(self) -> Mapping[str, Any]:
        """The arguments of `LesionInpaintPipeline.__call__` that these options are."""
        return {
            "attributes": self.attributes or None,
            "guidance_scale": self.guidance_scale,
            "guidance_range": self.guidance_range,
            "cfg_scale": self.cfg_scale,
            "hu_scale": self.hu_scale,
            "time_shift": self.time_shift,
            "draw_appearance": self.draw_appearance,
            "num_inference_steps": self.steps,
            "paint_margin_mm": self.paint_margin_mm,
            "blend_mm": self.blend_mm,
            "match_noise": self.match_noise,
        }


def load_pipeline(config: SamplingConfig) -> "tuple[LesionInpaintPipeline, Path]":
    """The pipeline on its device, and the local folder that its weights are in.

    Raises:
        ValueError: If an option is out of range, there is no such pipeline, autoencoder or device, or the scheduler
            is not of the pipeline's process.
        OSError: If the Hub or a service cannot be reached.
    """
    from autoencoder.loading import load_autoencoder
    from autoencoder.pretrained import resolve_folder
    from diffusion.sampling.checks import check_numbers
    from diffusion.sampling.pipeline import LesionInpaintPipeline
    from diffusion.sampling.samplers import sampler_of
    from foundation.device import torch_device

    check_numbers(
        config.steps,
        config.guidance_scale,
        config.cfg_scale,
        config.blend_mm or 0.0,
        config.paint_margin_mm or 0.0,
        config.guidance_range,
        config.hu_scale,
        config.time_shift or 0.0,
    )
    device = torch_device(config.device)
    folder = resolve_folder(config.pipeline, config.revision)
    replaced = {"vae": load_autoencoder(config.vae)} if config.vae else {}
    pipeline = LesionInpaintPipeline.from_pretrained(folder, **replaced).to(device)
    pipeline.scheduler = sampler_of(config.scheduler, pipeline.scheduler)
    return pipeline, folder


def weights_of(config: SamplingConfig, pipeline: "LesionInpaintPipeline", folder: Path) -> dict[str, Any]:
    """Which weights paint, for records: hashes, and where a replacing autoencoder is; never the password of a URL.

    Args:
        config: The script's.
        pipeline, folder: From :func:`load_pipeline`.
    Returns: `pipeline_sha256`, of all weights in its folder; where the autoencoder is replaced `vae`, its URL, folder
        or repository, and `vae_sha256`.
    """
    from autoencoder.loading import autoencoder_folder, weights_sha256
    from autoencoder.remote import RemoteAutoencoder

    weights: dict[str, Any] = {"pipeline_sha256": weights_sha256(folder)}
    if config.vae is None:
        return weights
    vae = pipeline.vae
    if isinstance(vae, RemoteAutoencoder):
        return weights | {"vae": vae.url, "vae_sha256": vae.info.get("weights_sha256")}
    return weights | {"vae": config.vae, "vae_sha256": weights_sha256(autoencoder_folder(config.vae))}

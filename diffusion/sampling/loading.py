"""What scripts that paint lesions share: their options, and the pipeline that these name."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffusion.option_types import SamplerName
from diffusion.sampling.request import InpaintRequest
from foundation.config import SHIPPED_PIPELINE, ModelSource, OutputFolder, Seed

if TYPE_CHECKING:
    from diffusion.sampling.pipeline import LesionInpaintPipeline


@dataclass(frozen=True, kw_only=True)
class SamplingConfig(InpaintRequest):
    """Fields of every script that paints lesions: those of `InpaintRequest` and where the pipeline comes from.

    Attributes:
        out: Folder for the results.
        pipeline: Folder or Hugging Face Hub repository of the pipeline, or the name of one that is shipped.
        paired: Paired pipeline, folder or repository, whose masks lesions without one get with the shape "learned".
        vae: Autoencoder that takes the place of the pipeline's: URL of serve_autoencoder, folder or repository.
        attributes: Requested character, for example `--attributes.malignancy malignant --attributes.mean_hu -450`.
        guidance_scale: Scale of the guide: one number, or one for each attribute, for example
            `--guidance-scale '{malignancy: 2, spiculation: 0.5}'`; 0 switches the guide off.
        guidance_range: Which timesteps are guided, low,high as shares of all, 0 clean and 1 noise; null takes the
            guide's own.
        scheduler: Sampler, see `diffusion.sampling.samplers`; "default" is the one that was saved with the pipeline.
        seed: Of everything random.
        revision: Branch, tag or commit of a Hub repository.
        device: "auto", "cpu" or "cuda".
        threads: CPU threads; null takes the default of `foundation.threads`.
    """

    out: OutputFolder
    pipeline: ModelSource = SHIPPED_PIPELINE
    paired: ModelSource | None = None
    vae: ModelSource | None = None
    attributes: dict[str, float | str] = field(default_factory=dict)
    guidance_scale: float | dict[str, float] = 1.0
    guidance_range: tuple[float, float] | None = None
    scheduler: SamplerName = "default"
    seed: Seed = 0
    revision: str | None = None
    device: str = "auto"
    threads: int | None = None

    def call_options(self) -> dict[str, Any]:
        """The request as the arguments of `LesionInpaintPipeline.__call__`."""
        options = self.options()
        return options | {"num_inference_steps": options.pop("steps")}


def load_pipeline(config: SamplingConfig) -> "tuple[LesionInpaintPipeline, Path]":
    """The pipeline on its device, and the local folder that its weights are in.

    Raises:
        ValueError: If there is no such pipeline, autoencoder or device, the scheduler is not of the pipeline's process,
            there are more steps than timesteps, or the attributes exclude each other.
        OSError: If the Hub or a service cannot be reached.
    """
    from autoencoder.loading import load_autoencoder
    from autoencoder.pretrained import resolve_folder
    from diffusion.attributes import check_compatible
    from diffusion.sampling.pipeline import LesionInpaintPipeline
    from diffusion.sampling.samplers import check_steps, sampler_of
    from foundation.device import torch_device

    check_compatible(config.attributes)
    device = torch_device(config.device)
    folder = resolve_folder(config.pipeline, config.revision)
    replaced = {"vae": load_autoencoder(config.vae)} if config.vae else {}
    pipeline = LesionInpaintPipeline.from_pretrained(folder, **replaced).to(device)
    pipeline.scheduler = sampler_of(config.scheduler, pipeline.scheduler)
    check_steps(pipeline.scheduler, config.steps)
    if config.paired is not None:
        from diffusion.sampling.paired_pipeline import PairedLesionPipeline
        from diffusion.shapes import LearnedShapes

        paired = PairedLesionPipeline.from_pretrained(config.paired).to(device)
        paired.set_progress_bar_config(disable=True)
        pipeline.learned_shapes = LearnedShapes(paired)
    return pipeline, folder


def weights_of(config: SamplingConfig, pipeline: "LesionInpaintPipeline", folder: Path) -> dict[str, Any]:
    """Which weights paint, for records: hashes, and where a replacing autoencoder is; never the password of a URL.

    Args:
        config: The script's.
        pipeline, folder: From :func:`load_pipeline`.
    Returns: `pipeline_sha256`, of all weights in its folder; where the autoencoder is replaced `vae`, its URL, folder
        or repository, and `vae_sha256`; with a paired pipeline likewise `paired` and `paired_sha256`.
    """
    from autoencoder.loading import autoencoder_folder, weights_sha256
    from autoencoder.pretrained import resolve_folder
    from autoencoder.remote import RemoteAutoencoder

    weights: dict[str, Any] = {"pipeline_sha256": weights_sha256(folder)}
    if config.paired is not None:
        weights |= {"paired": config.paired, "paired_sha256": weights_sha256(resolve_folder(config.paired))}
    if config.vae is None:
        return weights
    vae = pipeline.vae
    if isinstance(vae, RemoteAutoencoder):
        return weights | {"vae": vae.url, "vae_sha256": vae.info.get("weights_sha256")}
    return weights | {"vae": config.vae, "vae_sha256": weights_sha256(autoencoder_folder(config.vae))}

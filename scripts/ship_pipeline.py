"""Make a trained pipeline small: half precision, with its sampler and its card.

uv run scripts/ship_pipeline.py --pipeline runs/classifier/pipeline --run runs/ldm --out models/my-lesions
The pipeline of train_classifier.py is that of train_ldm.py with a guide. The guide is kept. configs/shipped/commands.sh
has all commands that made the shipped pipeline, from prepare_nodules to this one.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from diffusion.option_types import SamplerName
from foundation.config import ExistingFile, ExistingFolder, ModelSource, OutputFolder, launch, read_arguments


@dataclass(frozen=True, kw_only=True)
class ShipConfig:
    """What to ship.

    Attributes:
        pipeline: Folder or repository of the pipeline.
        out: Folder to write; an existing one is replaced.
        vae: Autoencoder to take instead of the pipeline's: one whose decoder was trained on, with the same encoder.
        shapes: Folder of prepare_shapes.py, for the pipeline to draw lesions without a mask from; null keeps its own.
        scheduler: Sampler that is saved with it, see `diffusion.sampling.samplers`.
        run: Folder of its training, for the card.
        report: Folder of an evaluation report whose figures the card quotes.
        commands: Text file with the commands that made it, for the card.
        time_shift: Default time_shift of its calls; null keeps that of the pipeline.
        finish: Whether its calls finish the decoded lesion; null keeps that of the pipeline.
        paint_margin_mm: Default paint margin; null keeps that of the training.
        most_mb: Largest size, MB; if it is exceeded, nothing is written.
    """

    pipeline: ModelSource
    out: OutputFolder
    vae: ModelSource | None = None
    shapes: ExistingFolder | None = None
    scheduler: SamplerName = "dpm-solver++"
    run: ExistingFolder | None = None
    report: ExistingFolder | None = None
    commands: ExistingFile | None = None
    time_shift: float | None = None
    finish: bool | None = None
    paint_margin_mm: float | None = None
    most_mb: float = 30.0


ARGUMENTS = read_arguments(ShipConfig, __name__)

import torch

from autoencoder.loading import load_autoencoder
from diffusion import LesionInpaintPipeline
from diffusion.sampling.samplers import sampler_of
from diffusion.shapes import LesionShapes
from foundation.atomic import write_atomically
from training.model_card import write_model_card


def main(config: ShipConfig) -> None:
    """Load, halve, save."""
    pipeline = LesionInpaintPipeline.from_pretrained(config.pipeline)
    if config.vae is not None:
        vae = load_autoencoder(config.vae)
        names = ("latents_mean", "latents_std", "window_width", "window_level")
        other = [name for name in names if vae.config[name] != pipeline.vae.config[name]]
        if other:
            raise ValueError(f"{config.vae}: {', '.join(other)} differ from the pipeline's; expected the same encoder")
        pipeline.register_modules(vae=vae)
    if config.shapes is not None:
        pipeline.register_modules(shapes=LesionShapes.from_pretrained(config.shapes))
    pipeline.scheduler = sampler_of(config.scheduler, pipeline.scheduler)
    if config.time_shift is not None:
        pipeline.register_to_config(time_shift=config.time_shift)
    if config.finish is not None:
        pipeline.register_to_config(finish=config.finish)
    if config.paint_margin_mm is not None:
        pipeline.register_to_config(paint_margin_mm=config.paint_margin_mm)
    pipeline.to(torch.float16)
    weights = [p for m in pipeline.components.values() if isinstance(m, torch.nn.Module) for p in m.parameters()]
    size_mb = sum(tensor.numel() * tensor.element_size() for tensor in weights) / 1e6
    if size_mb > config.most_mb:
        raise ValueError(f"{config.pipeline}: {size_mb:.1f} MB in half precision, expected at most {config.most_mb:g}")

    def write(folder: Path) -> None:
        pipeline.save_pretrained(folder)
        for path in folder.rglob("*.json"):  # Diffusers notes where the parts came from on this machine
            content = json.loads(path.read_text())
            if content.pop("_name_or_path", None) is not None:
                path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")
        write_model_card(folder, config.run, config.out.name, config.report, config.commands)

    write_atomically(config.out, write)
    print(f"shipped: {config.out}, {size_mb:.1f} MB")


if __name__ == "__main__":
    launch(main, ARGUMENTS)

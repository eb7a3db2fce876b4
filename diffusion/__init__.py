"""Stage 2: inpainting diffusion in the latent space of stage 1.

- unet, blocks: `SPADEUNet3D`; conditioning: the blanked CT, the mask's coverage, the lesion's neighbourhood
- attributes: character as an input of the U-Net; population: real lesions whose appearance is drawn without a request
- process: the noising process, the targets and their conversions; lesion_window: decoding the lesion's window alone
- stage_two: one training step; one_step_gan: the step of the GAN baselines
- losses/: structure losses on the latent, texture losses on the decoded lesion, their weights over t
- sampling/: the request of a call, the pipeline, its crops, steering and samplers
- option_types: types of the options that configs name
"""

from typing import TYPE_CHECKING

from foundation.lazy import lazy_exports

if TYPE_CHECKING:
    from diffusion.sampling.pipeline import LesionInpaintPipeline
    from diffusion.unet import SPADEUNet3D
else:
    __getattr__ = lazy_exports(
        __name__,
        {
            "LesionInpaintPipeline": "diffusion.sampling.pipeline",
            "SPADEUNet3D": "diffusion.unet",
        },
    )


__all__ = ["LesionInpaintPipeline", "SPADEUNet3D"]

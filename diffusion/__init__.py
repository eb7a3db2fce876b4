"""Stage 2: inpainting diffusion in the latent space of stage 1.

- unet, blocks: SPADEUNet3D; conditioning: the blanked CT, the mask's coverage, the lesion's neighbourhood
- objective: schedule, targets, x0-hat, loss, guided output
- stage_two: one training step with all losses; lesion_window: decoding the lesion's window alone
- time_weights: which samples, region and weight each loss has at t; gradient_balance: how the losses pull
- guide: what the pipeline and a guide agree on; attributes: character as an input of the denoiser
- population: real lesions, from which is drawn where nothing is requested; asking: all that one call asks for
- pipeline: LesionInpaintPipeline; insertion: into a whole scan; hub: where a pipeline comes from
- samplers: Diffusers' schedulers by name; sampling: what scripts that paint share; settings: options that configs name
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

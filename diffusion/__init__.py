"""Stage 2: inpainting diffusion in the latent space of stage 1.

- unet, blocks: SPADEUNet3D
- conditioning: the inputs concatenated to the noisy latent
- attributes: requested attributes as an input of the U-Net
- process: noise schedule, targets, x0-hat, guided output
- stage_two: one training step with all losses; one_step_gan: the same for the GAN baseline
- lesion_window: decodes the window around a lesion only
- paired, mask_latents: mask and lesion made together (PIG); a mask on the latent grid
- translator, translation, translation_networks, spectral_filters: CT of one kind into another, unpaired (SynDiff)
- population: real lesions, one of which is drawn if nothing is requested
- shapes: outlines of real nodules, one of which gives a lesion without a mask its form
- option_types: types of config options
- losses/: structure loss, texture losses, time weights
- sampling/: the request of a call, LesionInpaintPipeline, PairedLesionPipeline and their parts
- transforms/: lesions in a training of MONAI or TorchIO
"""

from typing import TYPE_CHECKING

from foundation.lazy import lazy_exports

if TYPE_CHECKING:
    from diffusion.sampling.paired_pipeline import PairedLesionPipeline
    from diffusion.sampling.pipeline import LesionInpaintPipeline
    from diffusion.unet import SPADEUNet3D
else:
    __getattr__ = lazy_exports(
        __name__,
        {
            "LesionInpaintPipeline": "diffusion.sampling.pipeline",
            "PairedLesionPipeline": "diffusion.sampling.paired_pipeline",
            "SPADEUNet3D": "diffusion.unet",
        },
    )


__all__ = ["LesionInpaintPipeline", "PairedLesionPipeline", "SPADEUNet3D"]
